"""A world of our own in Gymnasium's form, so that the Gymnasium backend has the compiled one's twin.

Gymnasium gets the names when they are first asked for, and the module that defines the classes when one is made: neither costs an
import before.
"""

from __future__ import annotations

POSITION_ONLY_CARTPOLE = "PositionOnlyCartPole-v0"
_MODULE = "policygrad.envs.position_only"


def register_hosted() -> None:
    """Registers with Gymnasium what it does not know yet; an environment that the user registered under the name stays."""
    import gymnasium

    if POSITION_ONLY_CARTPOLE not in gymnasium.registry:
        gymnasium.register(
            POSITION_ONLY_CARTPOLE,
            entry_point=f"{_MODULE}:PositionOnlyCartPole",
            vector_entry_point=f"{_MODULE}:PositionOnlyCartPoleVector",
            max_episode_steps=500,
            reward_threshold=475.0,
        )
