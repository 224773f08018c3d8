"""Features that are learnt: layers over other features."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from policygrad import spaces
from policygrad.errors import UsageError
from policygrad.policies.features.parts import from_space, has_images
from policygrad.policies.networks import MLP, linear_layers
from policygrad.spaces import Space
from policygrad.types import Array, Key, PyTree


class Network(MLP):
    """Features that are learnt: an `MLP` over other features, observations over [...] -> [..., F]."""

    inputs: Any = eqx.field(kw_only=True)

    @property
    def num_features(self) -> int:
        return self.layers[-1].weight.shape[0]

    def __call__(self, x: PyTree) -> Array:
        return super().__call__(self.inputs(x))


def num_features(features: Any, space: Space) -> int:
    """F: how many features a module makes of an observation, by tracing it, so any function will do.

    Raises:
        SpaceError: for features of another space. UsageError: for what does not return [..., F].
    """
    obs = spaces.mapped(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), spaces.held_dtype(leaf)), space)
    try:
        x = jax.eval_shape(features, obs)
    except TypeError as error:
        what = " ".join(str(error).split())[:150]
        raise UsageError(
            f"features {type(features).__name__}: got a {type(error).__name__} from it for 2 observations ({what});"
            " it must take any leading axes: [..., *shape] -> [..., F]"
        ) from error
    if getattr(x, "ndim", None) != 2 or x.shape[0] != 2:
        got = getattr(x, "shape", type(x).__name__)
        raise UsageError(f"features: got {got} for 2 observations; they must return [..., F], batch axes first")
    return x.shape[1]


def learnt(
    key: Key,
    space: Space,
    hidden_sizes: tuple[int, ...],
    num_outputs: int,
    *,
    activation: str,
    initialisation: str,
    output_gain: float,
    inputs: Any = None,
) -> tuple[Any, eqx.nn.Linear]:
    """Features of a space with `hidden_sizes` learnt layers over them, () for none, and the output layer for a head.

    Without hidden layers, features that the constant is a linear combination of (unit vectors, a polynomial) get no bias: it is
    among their functions already, and one parameter too many would make the Fisher matrix singular.

    Args:
        inputs: the features under the layers, observations [...] -> [..., F]; None for those of `from_space`.

    Returns:
        (features, output layer); the features are the `inputs` themselves without hidden layers, else a `Network` over them.

    Raises:
        SpaceError: for a Box without elements, or `inputs` for another space.
        UsageError: for `inputs` that do not return [..., F].
    """
    if inputs is None:
        images_key = None
        if has_images(space):
            images_key, key = jax.random.split(key)
        inputs = from_space(space, key=images_key)
        width = inputs.num_features
    else:
        width = num_features(inputs, space)
    *hidden, output = linear_layers(
        key,
        (width, *hidden_sizes, num_outputs),
        initialisation,
        output_gain=output_gain,
        output_bias=bool(hidden_sizes) or not getattr(inputs, "spans_constant", False),
    )
    return Network(tuple(hidden), activation, inputs=inputs) if hidden else inputs, output
