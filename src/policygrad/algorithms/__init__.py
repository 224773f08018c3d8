"""The composition that makes an algorithm of its slots, and the recipes that fill them.

compose       update = weight → baseline.centre → ascent.step → baseline.fit
monte_carlo   reinforce
online        actor_critic, a2c
trust_region  npg, trpo
proximal      ppo, ppo_kl
slots         what recipes share

A recipe is a plain function that fills the slots: copy one, change a slot, and you have an algorithm of your own. The same
argument means the same thing in all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from policygrad.algorithms.compose import all_finite, compose
from policygrad.algorithms.monte_carlo import reinforce
from policygrad.algorithms.online import a2c, actor_critic
from policygrad.algorithms.proximal import ppo, ppo_kl
from policygrad.algorithms.trust_region import npg, trpo
from policygrad.types import Algorithm

RECIPES: dict[str, Callable[..., Algorithm]] = {
    "reinforce": reinforce,
    "actor_critic": actor_critic,
    "a2c": a2c,
    "npg": npg,
    "trpo": trpo,
    "ppo": ppo,
    "ppo_kl": ppo_kl,
}
"""Recipes by the names that the command line takes."""

__all__ = ["RECIPES", "a2c", "actor_critic", "all_finite", "compose", "npg", "ppo", "ppo_kl", "reinforce", "trpo"]
