"""What a policy and a critic have in common: features, layers over them, perhaps a memory, and the affine layer of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax

from policygrad.errors import UnknownNameError, UsageError
from policygrad.policies import features as room
from policygrad.policies.memory import check_memory, make_memory
from policygrad.policies.networks import check_network, linear_layers
from policygrad.spaces import Box, Discrete, Space
from policygrad.types import Key


@dataclass(frozen=True)
class Trunk:
    """The choice of them, checked as far as that goes without a space; arguments as of `policies.builders.policy`.

    Raises:
        UnknownNameError, UsageError: in one line.
    """

    features: Any = "auto"
    hidden_sizes: Sequence[int] | None = None
    activation: str = "tanh"
    memory: str | None = None
    memory_size: int = 64
    truncate: int | None = None
    initialisation: str = "orthogonal"
    network: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "network"):
            widths = getattr(self, name)
            if widths is not None:
                object.__setattr__(self, name, check_network(widths, self.activation, self.initialisation))
        if self.memory == "none":
            object.__setattr__(self, "memory", None)
        if self.memory is not None:
            check_memory(self.memory, self.memory_size, self.truncate)
        elif self.truncate is not None:
            raise UsageError(
                f"truncate: got {self.truncate!r} without a memory, whose gradients it would cut; give memory='gru', or leave it out"
            )
        if isinstance(self.features, str) and self.features not in room.FEATURES:
            raise UnknownNameError("features", self.features, room.FEATURES)

    @property
    def suggested(self) -> bool:
        """Nothing was chosen: the spaces decide."""
        return self._named("auto") and self.hidden_sizes is None and self.memory is None

    def widths(self, space: Space) -> tuple[int, ...]:
        """Widths of the layers over the features."""
        if self.hidden_sizes is not None:
            return tuple(self.hidden_sizes)
        if not self._named("auto", "raw", "joined"):
            return ()  # a basis is there to be linear in, and convolutions bring a layer of their own
        if isinstance(space, Discrete) or (self._named("auto") and isinstance(space, Box) and room.is_image(space)):
            return ()
        return tuple(self.network)[:1] if self.memory is not None else tuple(self.network)

    def build(self, key: Key, space: Space, num_outputs: int, output_gain: float) -> tuple[Any, Any, eqx.nn.Linear]:
        """(features with the layers over them, memory or None, output layer), fresh.

        Args:
            space: what is seen of observations.
            output_gain: of the output layer under "orthogonal".

        Raises:
            SpaceError: for features that do not fit the space.
        """
        layers = {"activation": self.activation, "initialisation": self.initialisation, "output_gain": output_gain}
        if self.memory is None:
            return self._features(key, space, num_outputs, layers)
        key, memory_key, output_key = jax.random.split(key, 3)
        made, _, _ = self._features(key, space, 1, layers)
        width, start = room.num_features(made, space), {"truncate": self.truncate, "initialisation": self.initialisation}
        memory = make_memory(self.memory, memory_key, width, self.memory_size, **start)
        (output,) = linear_layers(output_key, (self.memory_size, num_outputs), self.initialisation, output_gain=output_gain)
        return made, memory, output

    def _features(self, key: Key, space: Space, num_outputs: int, layers: dict[str, Any]) -> tuple[Any, None, eqx.nn.Linear]:
        inputs = None
        if not self._named("auto"):
            inputs_key, key = jax.random.split(key)
            inputs = room.build(self.features, inputs_key, space)
        made, output = room.learnt(key, space, self.widths(space), num_outputs, inputs=inputs, **layers)
        return made, None, output

    def _named(self, *names: str) -> bool:
        return isinstance(self.features, str) and self.features in names
