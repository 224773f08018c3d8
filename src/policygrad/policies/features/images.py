"""Images: convolutions and a dense layer over what they see."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from policygrad.errors import SpaceError, UsageError
from policygrad.policies.features.basic import leading
from policygrad.policies.networks import ACTIVATIONS, INITIALISATIONS, affine, check_network, initial_draws
from policygrad.settings import whole
from policygrad.spaces import Box, Space
from policygrad.types import Array, Key

Channels = Literal["last", "first"]

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
NATURE_LEAST = 36
"""The least height and width that `NATURE` takes: below it, its last layer has nothing to see."""
SMALL_LEAST = 8
"""The least height and width that is taken for an image unasked."""
SMALL_STRIDE = 16
"""The least height and width at which `small_cnn` skips every second position."""


def convolution(layer: eqx.nn.Conv2d, x: Array) -> Array:
    """W ∗ x + b of images with channels last: [M, H, W, C] -> [M, H', W', C']. (Equinox's own call takes one image, channels first.)"""
    y = jax.lax.conv_general_dilated(
        x,
        layer.weight,
        layer.stride,
        layer.padding,
        rhs_dilation=layer.dilation,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=layer.groups,
    )
    return y if layer.bias is None else y + jnp.broadcast_to(layer.bias[:, 0, 0], y.shape)


class CNN(eqx.Module):
    """Features of images that are learnt: convolutions, then one dense layer, each followed by the activation.

        x ← f(W_l ∗ x + b_l)        x ← f(W vec(x) + b)        [..., *shape] -> [..., F]

    Bytes are divided by 255; floats are taken as they are.

    Args:
        layers: the convolutions.
        output: the dense layer, over the elements of what is left, in the order rows, columns, channels.
        shape: of an observation: [H, W, C], [C, H, W], [H, W] for one channel, or [k, …] of those: k frames are k C channels.
        channels: "last" or "first", where they stand in `shape`.
        activation: f, a name of `networks.ACTIVATIONS`.
    """

    layers: tuple[eqx.nn.Conv2d, ...]
    output: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    channels: str = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    @property
    def num_features(self) -> int:
        return self.output.weight.shape[0]

    def __call__(self, obs: Array) -> Array:
        obs = jnp.asarray(obs)
        lead = leading(obs, self.shape)
        x = _channels_last(obs.reshape(math.prod(lead), *self.shape), self.channels)
        dtype = self.output.weight.dtype
        x = x.astype(dtype) / 255 if obs.dtype == jnp.uint8 else x.astype(dtype)
        f = ACTIVATIONS[self.activation]
        for layer in self.layers:
            x = f(convolution(layer, x))
        return f(affine(self.output, x.reshape(*lead, math.prod(x.shape[1:]))))


def _channels_last(x: Array, channels: str) -> Array:
    """[M, *shape] -> [M, H, W, C], frames among the channels: all channels of one frame, then of the next."""
    if x.ndim == 3:
        return x[..., None]
    if x.ndim == 5:
        frames_last = jnp.moveaxis(x, 1, -2) if channels == "last" else jnp.moveaxis(x, (1, 2), (-2, -1))
        return frames_last.reshape(*frames_last.shape[:3], -1)
    return x if channels == "last" else jnp.moveaxis(x, 1, -1)


def layout(space: Space, channels: Channels | None = None) -> tuple[Channels, int, int, int]:
    """(channels, H, W, C) of an image's space, the frames' channels together.

    Args:
        channels: "last" for [H, W, C], Gymnasium's, "first" for [C, H, W]; None: "first" where the first axis is ≤ 4 and the last is
            not, else "last". Of four axes the first is the frames, [k, H, W, C] or [k, C, H, W]; [H, W] is one channel.

    Raises:
        SpaceError: for what is no image. UsageError: for another word.
    """
    if channels not in (None, "last", "first"):
        raise UsageError(f"channels: got {channels!r}; it must be 'last' for [H, W, C] or 'first' for [C, H, W]")
    if not isinstance(space, Box) or len(space.shape) not in (2, 3, 4) or space.size == 0:
        raise SpaceError(f"an image must be a Box [H, W, C], [C, H, W], [H, W] or frames of these: got {space}; use other features")
    *frames, height, width, depth = space.shape if len(space.shape) > 2 else (*space.shape, 1)
    if len(space.shape) == 2:
        return "last", height, width, depth
    if channels is None:
        channels = "first" if height <= 4 < depth else "last"
    if channels == "first":
        height, width, depth = width, depth, height
    return channels, height, width, depth * math.prod(frames)


def least_size(layers: Sequence[tuple[int, int, int]]) -> int:
    """The least height and width that convolutions (outputs, kernel, stride) take: n ← (n − 1) stride + kernel, from the last back."""
    return functools.reduce(lambda n, layer: (n - 1) * layer[2] + layer[1], reversed(tuple(layers)), 1)


def suggested(key: Key, space: Box) -> CNN | None:
    """What an image's size suggests, `nature_cnn` or `small_cnn`; None for what is taken for no image.

    An image is a Box of bytes with three axes, or four with frames, at least 8×8, and no more channels than rows or columns.
    """
    if not is_image(space):
        return None
    _, height, width, _ = layout(space)
    return (nature_cnn if min(height, width) >= NATURE_LEAST else small_cnn)(key, space)


def is_image(space: Space) -> bool:
    """Whether `suggested` has features for the space."""
    if not isinstance(space, Box) or space.dtype != "uint8" or len(space.shape) not in (3, 4) or space.size == 0:
        return False
    _, height, width, depth = layout(space)
    return max(SMALL_LEAST, depth // math.prod(space.shape[:-3])) <= min(height, width)


def nature_cnn(
    key: Key,
    space: Space,
    *,
    num_features: int = 512,
    channels: Channels | None = None,
    activation: str = "relu",
    initialisation: str = "orthogonal",
) -> CNN:
    """The network that learnt Atari games: `cnn` of 32 kernels 8×8 at stride 4, 64 4×4 at 2, 64 3×3 at 1, and 512 dense units.

    Takes images from 36×36 on; 84×84×4 there. Arguments and errors as `cnn`.

    Reference:
        Mnih et al. 2015, "Human-level control through deep reinforcement learning", methods. There weights start uniform; the
        orthogonal start of gain √2 is that of policy-gradient implementations since.
    """
    return cnn(key, space, NATURE, num_features=num_features, channels=channels, activation=activation, initialisation=initialisation)


def small_cnn(
    key: Key,
    space: Space,
    *,
    num_features: int = 64,
    stride: int | None = None,
    channels: Channels | None = None,
    activation: str = "relu",
    initialisation: str = "orthogonal",
) -> CNN:
    """For small images: `cnn` of 16 and 32 kernels 3×3, and 64 dense units.

    Two layers of 3×3 see 5×5 cells at stride 1, 7×7 at stride 2: enough for what is near to matter together. Most parameters are
    those of the dense layer, 32 for each unit and position, so from 16×16 on every second position is skipped, and below it, where each
    cell is something of its own, as in grid worlds, none.

    Args:
        stride: of both layers, ≥ 1; None: 1 where height or width is below 16, else 2. At 1, images from 5×5 on; at 2, from 7×7 on.

    Other arguments and errors as `cnn`.
    """
    channels, height, width, _ = layout(space, channels)
    step = whole("stride", (1 if min(height, width) < SMALL_STRIDE else 2) if stride is None else stride, 1, 1024)
    layers = ((16, 3, step), (32, 3, step))
    return cnn(key, space, layers, num_features=num_features, channels=channels, activation=activation, initialisation=initialisation)


def cnn(
    key: Key,
    space: Space,
    layers: Sequence[tuple[int, int, int]],
    *,
    num_features: int = 512,
    channels: Channels | None = None,
    activation: str = "relu",
    initialisation: str = "orthogonal",
) -> CNN:
    """Convolutions without padding, then a dense layer: `CNN`.

    Args:
        key: a PRNG key.
        space: a Box [H, W, C], [C, H, W], [H, W], or frames [k, …] of these, as `envs.frame_stack` makes them.
        layers: (outputs, kernel, stride) of each convolution, square, all ≥ 1; at least one.
        num_features: F ≥ 1, the width of the dense layer.
        channels: "last" or "first"; None: "first" where the first axis is ≤ 4 and the last is not, else "last"; see `layout`.
        activation: a name of `networks.ACTIVATIONS`.
        initialisation: a name of `networks.INITIALISATIONS`, of each kernel as a matrix [C', C · kernel²]; "orthogonal" with gain √2.

    Raises:
        SpaceError: for what is no image, or a smaller one than the kernels need.
        UnknownNameError, UsageError: for arguments out of range.
    """
    check_network((), activation, initialisation)
    num_features = whole("num_features", num_features, 1, 2**20)
    if not layers or any(len(layer) != 3 for layer in layers):
        raise UsageError(f"layers: got {layers!r}; give (outputs, kernel, stride) for each convolution, at least one")
    for layer in layers:
        for number in layer:
            whole("a convolution's outputs, kernel and stride", number, 1, 2**16)
    channels, height, width, depth = layout(space, channels)
    least = least_size(layers)
    if min(height, width) < least:
        fix = "use 'small-cnn'" if least > SMALL_LEAST else "use smaller kernels or strides, or 'raw'"
        raise SpaceError(f"image too small: got {height}×{width} of {space}; these convolutions need at least {least}×{least}: {fix}")
    for _, kernel, stride in layers:
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    sizes = (depth, *(outputs for outputs, _, _ in layers))
    shapes = [(sizes[i + 1], sizes[i] * layers[i][1] ** 2) for i in range(len(layers))]
    shapes.append((num_features, height * width * sizes[-1]))
    draws = initial_draws(key, sum(outputs * (inputs + 1) for outputs, inputs in shapes), initialisation)
    *convolutions, output = _made(draws, tuple(shapes), tuple(map(tuple, layers)), initialisation)
    assert isinstance(space, Box)  # `layout` has seen to it
    return CNN(tuple(convolutions), output, space.shape, channels, activation)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _made(draws: Array, shapes: tuple[tuple[int, int], ...], layers: tuple[tuple[int, int, int], ...], initialisation: str) -> tuple:
    made, used, no_key = [], 0, jax.random.key(0)  # what the shells draw with it is dead code
    for i, (outputs, inputs) in enumerate(shapes):
        end = used + outputs * inputs
        weight = INITIALISATIONS[initialisation](draws[used:end], (outputs, inputs), math.sqrt(2))
        used = end + outputs
        bias = draws[end:used] / math.sqrt(inputs) if initialisation == "torch" else jnp.zeros_like(draws[end:used])
        if i < len(layers):
            _, kernel, stride = layers[i]
            shell = eqx.nn.Conv2d(inputs // kernel**2, outputs, kernel, stride, key=no_key)
            weight, bias = weight.reshape(outputs, -1, kernel, kernel), bias[:, None, None]
        else:
            shell = eqx.nn.Linear(inputs, outputs, key=no_key)
        made.append(eqx.tree_at(lambda shell: (shell.weight, shell.bias), shell, (weight, bias)))
    return tuple(made)
