"""Parts of a policy that do not train."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax


class Frozen(eqx.Module):
    """A module whose arrays no gradient moves: features, a head, one layer of a network, or a whole policy.

        Frozen(f)(x) = f(x)        ∂/∂θ_f = 0 exactly        ∂/∂x as ever

    Its arrays stay leaves, saved and loaded with the policy. Adam, RMSprop and plain or heavy-ball gradient ascent leave them as they
    are to the last bit, as their gradient is 0 from the first step on; weight decay would move them. In the Fisher matrix their rows are
    0, so conjugate gradient does not move them either, with or without damping.

    Args:
        inner: the module. What it has besides a call (`weight`, `num_features`, `observation_space`, …) can be read off this one, and is
            as frozen.
    """

    inner: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return jax.lax.stop_gradient(self.inner)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is being made, and what Python and NumPy ask of anything
            raise AttributeError(name)
        return getattr(jax.lax.stop_gradient(self.inner), name)
