"""A small batch after some steps of its update: the policy has moved away from the old one, so ratios are not 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from policygrad.policies import table_critic, tabular_softmax
from policygrad.spaces import Discrete
from policygrad.types import Batch, Params, Rollout, Spec

S, A, T, B = 4, 3, 6, 2
LENGTHS = np.array([6, 3])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


class Case:
    """Everything of the batch in NumPy, and as the library's records in whatever float type is on."""

    def __init__(self, seed: int = 0, *, lengths: np.ndarray = LENGTHS, moved: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        self.before = rng.normal(size=(S, A))
        self.logits = self.before + moved * rng.normal(size=(S, A))
        self.table = rng.normal(size=S)
        self.obs, self.action = rng.integers(0, S, (T, B)), rng.integers(0, A, (T, B))
        self.mask = (np.arange(T)[:, None] < lengths).astype(float)
        self.psi, self.targets = rng.normal(size=(T, B)), rng.normal(size=(T, B))
        self.values = self.table[self.obs] + 0.4 * rng.normal(size=(T, B))
        self.weights = self.mask * rng.uniform(0.5, 1.5, (T, B)) / (T * B)

    @property
    def params(self) -> Params:
        critic = table_critic()(jax.random.key(0), Spec(Discrete(S), Discrete(A), B))
        return Params(tabular_softmax(jnp.asarray(self.logits)), jax.tree.map(lambda _: jnp.asarray(self.table), critic))

    @property
    def batch(self) -> Batch:
        zeros, no = np.zeros((T, B)), np.zeros((T, B), bool)
        time = np.zeros((T, B), np.int32)
        rollout = Rollout(self.obs, self.action, zeros, zeros, no, no, self.obs, self.mask, time, (), {})
        old = tabular_softmax(jnp.asarray(self.before))(jnp.asarray(self.obs))
        made = Batch(rollout, self.psi * self.mask, self.targets, self.weights, old, (), (), self.values)
        return jax.tree.map(jnp.asarray, made)


def leaves(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])
