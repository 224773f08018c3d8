"""Values, occupancies and the objective: equal in all their forms, and equal to plain recursions written another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients import trajectories
from policygrad import oracle, policies
from policygrad.envs import FiniteMDP, make
from policygrad.errors import SpaceError, UnknownNameError, UsageError
from policygrad.policies import tabular_softmax
from policygrad.types import Spec
from zoo import random_mdp

pytestmark = pytest.mark.usefixtures("x64")  # so that policies are made in float64; the oracle needs no such scope

FORMS = ("returns", "state-values", "action-values", "occupancy")

# Three shapes, so three programs each: the numbers differ from seed to seed, the compiled code does not.
SHAPES: dict[str, dict[str, Any]] = {
    "for ever": {"num_states": 3, "num_actions": 2},
    "terminal, aliased": {"num_states": 5, "num_actions": 3, "terminals": 1, "aliased": True, "outcomes": 3},
    "time limit": {"num_states": 4, "num_actions": 2, "terminals": 1, "time_limit": 4},
}
SEEDS = 67  # of each shape: 201 in all


def softmax(logits: np.ndarray) -> np.ndarray:
    return trajectories.softmax(logits)


def cases(shape: str, seeds: int = SEEDS) -> Iterator[tuple[FiniteMDP, np.ndarray]]:
    """Random MDPs of a shape, each with logits [O, A] and a discount of its own."""
    for seed in range(seeds):
        rng = np.random.default_rng(1000 + seed)
        mdp = random_mdp(seed, **SHAPES[shape], discount=rng.uniform(0.5, 0.99))
        yield mdp, 2 * rng.normal(size=(mdp.num_observations, mdp.num_actions))


def as_trajectories(mdp: FiniteMDP) -> trajectories.MDP:
    """The same MDP in the record of the enumerator, which shares no line with the package."""
    shape = mdp.transitions.shape
    to = np.broadcast_to(np.arange(shape[2]), shape)
    return trajectories.MDP(mdp.initial, mdp.transitions, to, mdp.terminal[to], mdp.rewards, mdp.time_limit or 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_forms_of_the_objective_are_equal(shape: str) -> None:
    for mdp, logits in cases(shape):
        J = [oracle.objective(mdp, tabular_softmax(logits), form=form) for form in FORMS]
        assert np.ptp(J) <= 1e-10, mdp


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_a_plain_recursion(shape: str) -> None:
    for mdp, logits in cases(shape, seeds=10):
        pi = softmax(logits)[mdp.observations]
        V, Q, A = oracle.values(mdp, tabular_softmax(logits))
        later = np.zeros(mdp.num_states)
        for k in reversed(range(mdp.time_limit or 4000)):  # 0.99^4000 is 3e-18
            expected_q = (mdp.transitions * (mdp.rewards + mdp.discount * later)).sum(axis=2)
            later = (pi * expected_q).sum(axis=1)
            if mdp.time_limit:
                np.testing.assert_allclose(V[k], later, atol=1e-12)
                np.testing.assert_allclose(Q[k], expected_q, atol=1e-12)
        if not mdp.time_limit:
            np.testing.assert_allclose(V, later, atol=1e-10)
            np.testing.assert_allclose(Q, expected_q, atol=1e-10)
        np.testing.assert_allclose((pi * A).sum(axis=-1), 0, atol=1e-12)
        np.testing.assert_array_equal(V[..., mdp.terminal], 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_occupancy_counts_discounted_steps(shape: str) -> None:
    for mdp, logits in cases(shape, seeds=10):
        policy, gamma = tabular_softmax(logits), mdp.discount
        d, rho = oracle.occupancy(mdp, policy)
        visits, _ = oracle.occupancy(mdp, policy, normalised=False)
        if mdp.time_limit:
            seen = oracle.visits(mdp, policy, rows=mdp.time_limit, resets=False).sum(axis=1)
            np.testing.assert_allclose(visits, gamma ** np.arange(mdp.time_limit) @ seen, atol=1e-12)
        if shape == "for ever":
            assert d.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(d, (1 - gamma) * visits, atol=1e-12)
        np.testing.assert_allclose(rho.sum(axis=1), d, atol=1e-12)
        np.testing.assert_allclose(rho, d[:, None] * softmax(logits)[mdp.observations], atol=1e-12)
        np.testing.assert_array_equal(d[mdp.terminal], 0)


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("rows", [3, 7])
def test_visits_are_those_of_a_forward_recursion(rows: int, resets: bool) -> None:
    for mdp, logits in cases("time limit", seeds=5):
        expected = trajectories.visits(as_trajectories(mdp), softmax(logits), rows, resets=resets)
        got = oracle.visits(mdp, tabular_softmax(logits), rows=rows, resets=resets)
        np.testing.assert_allclose(got, expected[:, : min(rows, 4)], atol=1e-12)
        if resets:
            np.testing.assert_allclose(got.sum(axis=(1, 2)), 1, atol=1e-12)


def test_visits_without_a_time_limit() -> None:
    for mdp, logits in cases("terminal, aliased", seeds=3):
        policy, rows = tabular_softmax(logits), 6
        limited = oracle.visits(mdp.replace(time_limit=rows), policy, rows=rows)
        np.testing.assert_allclose(oracle.visits(mdp, policy, rows=rows), limited, atol=1e-14)


def test_a_then_b_for_ever() -> None:
    """A appears at t = 0 only, B from t = 1 on: at γ = 0.9 d is (0.1, 0.9), and 1 and γ/(1 − γ) before it is normalised."""
    mdp = FiniteMDP(transitions=[[[0, 1]], [[0, 1]]], rewards=[[0], [1]], initial=[1, 0], discount=0.9)
    policy = tabular_softmax(np.zeros((2, 1)))
    np.testing.assert_allclose(oracle.occupancy(mdp, policy).state, [0.1, 0.9], atol=1e-14)
    np.testing.assert_allclose(oracle.occupancy(mdp, policy, normalised=False).state, [1, 9], atol=1e-14)
    np.testing.assert_allclose(oracle.values(mdp, policy).state, [9, 10], atol=1e-13)


def test_the_mdp_of_one_state() -> None:
    mdp = FiniteMDP(transitions=[[[1], [1]]], rewards=[[1, 1]], initial=[1], discount=0.9)
    policy = tabular_softmax(np.zeros((1, 2)))
    assert oracle.occupancy(mdp, policy).state == pytest.approx([1], abs=1e-14)
    assert oracle.occupancy(mdp, policy, normalised=False).state == pytest.approx([10], abs=1e-13)
    assert oracle.objective(mdp, policy) == pytest.approx(10, abs=1e-13)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_the_forms_agree_on_gymnasium_s_tables(name: str) -> None:
    mdp = FiniteMDP.from_gymnasium(name)
    policy = tabular_softmax(np.random.default_rng(0).normal(size=(mdp.num_observations, mdp.num_actions)))
    J = [oracle.objective(mdp, policy, form=form) for form in FORMS]
    assert np.ptp(J) <= 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_at_discount_1_the_corridor_is_worth_its_formula(form: Any) -> None:
    for p in (0.2, 0.5, 2 - 2**0.5):
        policy = tabular_softmax(np.log([[1 - p, p]]))
        assert oracle.objective(short_corridor(), policy, form=form) == pytest.approx(-2 * (2 - p) / (p * (1 - p)), abs=1e-10)


def short_corridor(**changes: Any) -> FiniteMDP:
    """Three states that look alike and a goal; in the second state left and right are swapped."""
    to = np.array([[0, 1], [2, 0], [1, 3], [3, 3]])
    arguments: dict[str, Any] = {
        "transitions": np.eye(4)[to],
        "rewards": -np.ones((4, 2)),
        "initial": [1, 0, 0, 0],
        "discount": 1.0,
        "terminal": [3],
        "observations": [0, 0, 0, 0],
    }
    return FiniteMDP(**arguments | changes)


def test_an_episode_that_may_never_end_has_no_undiscounted_sum() -> None:
    always_left = tabular_softmax([[0.0, -np.inf]])
    asks = (oracle.values, oracle.objective, oracle.policy_gradient, oracle.fisher)
    for ask in asks:
        with pytest.raises(UsageError, match=r"may never end .* state 0.* discount below 1, a time limit"):
            ask(short_corridor(), always_left)
    with pytest.raises(UsageError, match="may never end"):
        oracle.policy_gradient(short_corridor(discount=0.9), always_left, discount_visits=False)
    assert oracle.objective(short_corridor(time_limit=7), always_left) == -7
    assert oracle.objective(short_corridor(discount=0.5), always_left) == pytest.approx(-2)


def test_a_state_that_is_never_reached_and_never_left_has_no_value_at_discount_1() -> None:
    mdp = FiniteMDP(
        transitions=[[[0, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]],
        rewards=[[5, 3], [1, 1], [0, 0]],
        initial=[1, 0, 0],
        discount=1,
        terminal=[2],
    )
    V, Q, _ = oracle.values(mdp, tabular_softmax([[-np.inf, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(V, [3, np.nan, 0])
    np.testing.assert_array_equal(Q, [[np.nan, 3], [np.nan, np.nan], [0, 0]])
    np.testing.assert_array_equal(
        oracle.occupancy(mdp, tabular_softmax([[-np.inf, 0.0], [0.0, 0.0], [0.0, 0.0]]), normalised=False).state, [1, 0, 0]
    )


def test_a_concrete_policy_is_computed_in_float64_whatever_its_dtype() -> None:
    mdp, logits = next(cases("for ever"))
    logits = logits.astype(np.float32)
    exact = oracle.objective(mdp, tabular_softmax(logits.astype(np.float64)))
    with jax.enable_x64(False):
        policy = tabular_softmax(logits)
        J = oracle.objective(mdp, policy)
        assert isinstance(J, np.float64)
        assert pytest.approx(exact, abs=1e-14) == J
        assert oracle.values(mdp, policy).action.dtype == np.float64
        assert not jax.config.jax_enable_x64
        inside = jax.jit(lambda x: x + oracle.objective(mdp, policy))  # concrete, although in a trace
        assert float(inside(0.0)) == pytest.approx(float(J), abs=1e-6)


def test_a_traced_policy_is_computed_as_it_is() -> None:
    mdp, logits = next(cases("time limit"))
    exact = oracle.values(mdp, tabular_softmax(logits))
    with jax.enable_x64(False):
        answer = jax.jit(lambda logits: (oracle.objective(mdp, tabular_softmax(logits)), oracle.values(mdp, tabular_softmax(logits))))
        J, values = answer(jnp.asarray(logits, jnp.float32))
        assert J.dtype == values.action.dtype == jnp.float32
        np.testing.assert_allclose(values.action, exact.action, atol=1e-5)


class Silent(eqx.Module):
    """A policy that does not say what it is for, and always returns the same."""

    distribution: Any

    def __call__(self, obs: Any) -> Any:
        return self.distribution


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    mdp = random_mdp(0, 3, 2)
    policy = tabular_softmax(np.zeros((3, 2)))
    with pytest.raises(SpaceError, match=r"other observations than random-0: got Discrete\(3\), it was made for Discrete\(4\)"):
        oracle.values(mdp, tabular_softmax(np.zeros((4, 2))))
    with pytest.raises(SpaceError, match="other actions"):
        oracle.objective(mdp, tabular_softmax(np.zeros((3, 3))))
    with pytest.raises(SpaceError, match=r"probabilities of shape \(3, 5\) for its 3 states; they must be \[3, 2\]"):
        oracle.objective(mdp, Silent(policies.Categorical(jnp.zeros((3, 5)))))
    with pytest.raises(UsageError, match=r"got Gaussian; .*without memory.* probabilities\(\)"):
        oracle.objective(mdp, Silent(policies.Gaussian(jnp.zeros(3), jnp.zeros(3), 0)))
    with pytest.raises(UsageError, match="got function with a function in it; it must be a module"):
        oracle.objective(mdp, lambda obs: None)
    with pytest.raises(UsageError, match=r"got tuple; exact answers need a policy"):
        oracle.objective(mdp, ())
    with pytest.raises(UsageError, match=r"mdp: got Corridor-v0; exact answers need a FiniteMDP"):
        oracle.values(make("Corridor-v0"), policy)
    with pytest.raises(UnknownNameError, match="unknown form of the objective 'return': did you mean returns"):
        oracle.objective(mdp, policy, form="return")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="normalised: got True at discount 1"):
        oracle.occupancy(mdp.replace(discount=1), policy)
    with pytest.raises(UsageError, match="rows: got 0; it must be a whole number of at least 1"):
        oracle.visits(mdp, policy, rows=0)


def test_a_network_over_states_is_a_policy_like_any_other() -> None:
    mdp = random_mdp(3, 4, 3, aliased=True)
    spec = Spec(mdp.observation_space, mdp.action_space, num_envs=1)
    network = policies.mlp((4,), initialisation="lecun")(jax.random.key(0), spec)
    pi = np.asarray(network(jnp.arange(3)).probabilities())
    same = tabular_softmax(np.log(pi))
    assert oracle.objective(mdp, network) == pytest.approx(oracle.objective(mdp, same), abs=1e-12)
