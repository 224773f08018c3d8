"""Policy gradient with a reward of 1 is maximum likelihood: on an expert's data, behaviour cloning.

    E_expert[Σ_t ∇ log π(a_t|s_t) · 1] = ∇ E_expert[Σ_t log π(a_t|s_t)]        E_π[Σ_t ∇ log π(a_t|s_t) · 1] = 0

The policy gradient weighs the score of each action by what it earned. Give every action the same 1, and what is left is the gradient
of the log-likelihood: whatever was done becomes likelier. So it matters whose data it is. On an expert's, the policy becomes the
expert; on its own, all that was done balances, and the expected gradient is 0.

γ = 0 and rewards of 1 make Ψ_t = r_t = 1 in the library's own REINFORCE. Everything is exact: all trajectories are visited.

Claims: on the expert's data the mean of the estimate is the gradient of the log-likelihood, and on its own 0, both to 1e-12; climbing
the first takes the policy to the expert, to a KL below 0.001 nats a step and a return within 0.1 % of its.

    python examples/cloning.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad import oracle
from policygrad.envs import FiniteMDP, finite_world
from policygrad.lab import default_policy
from policygrad.report import style


def log_likelihood(policy, seen: np.ndarray, expert: np.ndarray):
    """E_expert[Σ_t log π(a_t|s_t)]: seen [S], how often the expert is in each state; expert [S, A], what it does there."""
    return (seen[:, None] * expert * jax.nn.log_softmax(policy.head.logits)).sum()


def main(fast: bool = False, out: Path = Path("figures/cloning"), seed: int = 0) -> None:
    mdp: FiniteMDP = finite_world("fork")
    ones = mdp.replace(rewards=np.ones((mdp.num_states, mdp.num_actions)))
    with jax.enable_x64(True):
        first = oracle.best(mdp).actions[0].astype(int)  # the best action of each state at the first step
        expert = pg.policies.tabular_softmax(3.0 * np.eye(mdp.num_actions)[first])
        chances = np.asarray(expert(np.arange(mdp.num_states)).probabilities())
    seen = np.where(mdp.terminal, 0, oracle.visits(mdp, expert, rows=mdp.time_limit, resets=False).sum(axis=(0, 1)))

    cloning, policy = pg.reinforce(baseline="none", discount=0.0), default_policy(mdp)
    theirs = oracle.moments(cloning, ones, policy, num_trajectories=1, behaviour=expert)
    own = oracle.moments(cloning, ones, policy, num_trajectories=1)
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(log_likelihood))
        apart = np.abs(theirs.mean - oracle.flatten(slope(policy, seen, chances))).max()
    print(f"on the expert's data: {np.round(theirs.mean[:4], 4)}, the gradient of the log-likelihood up to {apart:.0e}")
    print(f"on its own data: 0 up to {np.abs(own.mean).max():.0e}, with a variance of {own.variance:.3f} all the same")
    assert apart < 1e-12, "claimed: on the expert's data it is maximum likelihood"
    assert np.abs(own.mean).max() < 1e-12, "claimed: on its own data it is 0"

    wanted, returns = float(oracle.objective(mdp, expert)), [float(oracle.objective(mdp, policy))]
    for _ in range(updates := 120 if fast else 300):
        climb = oracle.moments(cloning, ones, policy, num_trajectories=1, behaviour=expert)
        policy = jax.tree.map(lambda theta, g: np.asarray(theta) + 2.0 * np.asarray(g), policy, climb.unflatten(climb.mean))
        returns.append(float(oracle.objective(mdp, policy)))
    with jax.enable_x64(True):
        ours = np.asarray(policy(np.arange(mdp.num_states)).probabilities())
    apart = (seen[:, None] * chances * np.log(chances / ours)).sum() / seen.sum()
    print(f"after {updates} steps: KL to the expert {apart:.1e} nats a step, return {returns[-1]:.4f}, the expert's {wanted:.4f}")
    assert apart < 1e-3, f"claimed: the policy becomes the expert; KL {apart}"
    assert abs(returns[-1] / wanted - 1) < 1e-3, f"claimed: and earns what it earns; got {returns[-1]} for {wanted}"

    figure, (ax,) = style.canvas(
        "Cloning: the policy gradient with a reward of 1", "return of a policy that is shown the expert's actions, and no reward"
    )
    (line,) = ax.plot(returns, color=style.COLOURS[0], label="climbing the likelihood of the expert's actions")
    limit = ax.axhline(wanted, color=style.INK, linestyle=":", linewidth=1, label="the expert")
    ax.set(xlabel="steps", ylabel="J, expected discounted return", xlim=(0, updates))
    style.legend(ax, [line, limit])
    style.save(figure, out / "return.png")
    print(f"figure: {out / 'return.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer steps, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/cloning"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="without effect: nothing is sampled")
    main(**vars(arguments.parse_args()))
