"""A sample is not the population: what few trajectories say of the gradient, and what a selection of them says.

    ĝ_N = (1/N) Σ_i ĝ(τ_i)        E[ĝ_N] = ∇J,  E|ĝ_N − ∇J|² = tr Σ / N        E[ĝ | only some τ] ≠ ∇J, however many

"Policy Gradient Methods in Reinforcement Learning" (Vizuara AI, 2025) asks for the average age of a country and draws a population and
three samples, each with another distribution and another mean. That is REINFORCE's problem, it says: which sample is the true one? The
picture here is the same, with ages replaced by the returns of all trajectories of `fork`. Its example, though, of asking only people
above 60, is another problem. Samples that differ by luck have variance, and more of them help; a sample that leaves somebody out has
bias, and stays wrong however large it is. Training does that too, where episodes that are not finished yet are dropped.

Claims: the mean squared error of the estimate from N trajectories is tr Σ / N, to 1e-10 for 1, 2 and 3; the three samples of ten miss the
population's mean; and without the episodes that last until the time limit the expected gradient is off by more than half its length.

    python examples/biased_sample.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import policygrad as pg
from policygrad import oracle
from policygrad.envs import finite_world
from policygrad.lab import default_policy
from policygrad.report import style

SIZE, SAMPLES = 10, 3


def single_estimates(algorithm, mdp, policy) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every trajectory: its probability, its return, its estimate of ∇J [·, P], and whether the time limit cut it."""
    every = oracle.enumerate_trajectories(mdp, policy, horizon=mdp.time_limit)
    rollout = every.rollout
    with jax.enable_x64(True):
        agent = algorithm.init(jax.random.key(0), pg.Spec(mdp.observation_space, mdp.action_space, 1, mdp.time_limit))
        agent = agent._replace(params=agent.params._replace(policy=policy))

        def estimate(column):
            one = jax.tree.map(lambda leaf: leaf[:, None], column)
            return algorithm.gradient(agent, one)[0].policy.head.logits.ravel()

        estimates = np.asarray(jax.jit(jax.vmap(estimate, in_axes=1))(rollout))
    returns = (rollout.reward * mdp.discount**rollout.time * rollout.mask).sum(axis=0)
    cut = (rollout.truncated & ~rollout.terminated).any(axis=0)
    return every.probability, returns, estimates, cut


def main(fast: bool = False, out: Path = Path("figures/biased_sample"), seed: int = 0) -> None:
    mdp = finite_world("fork")
    policy = default_policy(mdp)
    algorithm = pg.reinforce(baseline="none", discount=mdp.discount, discount_gradient=True)
    gradient = np.asarray(oracle.flatten(oracle.policy_gradient(mdp, policy)))
    length = np.linalg.norm(gradient)
    probability, returns, estimates, cut = single_estimates(algorithm, mdp, policy)

    spread = probability @ (estimates**2).sum(axis=1) - ((probability @ estimates) ** 2).sum()
    for number in (1, 2, 3):
        m = oracle.moments(algorithm, mdp, policy, num_trajectories=number)
        print(f"{number} trajectories: bias {np.linalg.norm(m.bias):.0e}, mean squared error {m.mean_square_error:.4f}")
        assert abs(m.mean_square_error - spread / number) < 1e-10, "claimed: the error of a fair sample falls as 1/N"

    kept = probability * ~cut / (probability * ~cut).sum()
    wrong = np.linalg.norm(kept @ estimates - gradient) / length
    print(f"without the {probability @ cut:.0%} of episodes that the time limit cuts: the expected gradient is off by {wrong:.2f} |∇J|")
    assert wrong > 0.5, f"claimed: off by more than half its length; got {wrong}"

    rng, mean = np.random.default_rng(seed), probability @ returns
    drawn = [rng.choice(len(returns), SIZE, p=probability) for _ in range(SAMPLES)]
    figure, axes = style.canvas(
        "A population and samples of it",
        f"returns of all {len(returns)} trajectories, share of each; J = {mean:.2f} is dotted",
        SAMPLES + 1,
        width=11.0,
    )
    edges = np.linspace(returns.min(), returns.max() + 1e-9, 10)
    axes[0].hist(returns, edges, weights=probability, color=style.COLOURS[0])
    style.name_panel(axes[0], f"population: mean {mean:.2f}")
    for ax, sample, colour in zip(axes[1:], drawn, style.COLOURS[1:], strict=False):
        found = estimates[sample].mean(axis=0)
        cosine = found @ gradient / (np.linalg.norm(found) * length)
        print(f"a sample of {SIZE}: mean return {returns[sample].mean():.2f} for {mean:.2f}, cosine of its gradient to ∇J {cosine:+.2f}")
        assert abs(returns[sample].mean() - mean) > 1e-3, "claimed: each sample misses the mean"
        ax.hist(returns[sample], edges, weights=np.full(SIZE, 1 / SIZE), color=colour)
        style.name_panel(ax, f"{SIZE} of them: {returns[sample].mean():.2f}, cos {cosine:+.2f}")
    for ax in axes:
        ax.axvline(mean, color=style.INK, linestyle=":", linewidth=1)
        ax.set_xlabel("return")
    axes[0].set_ylabel("share")
    style.save(figure, out / "samples.png")
    print(f"figure: {out / 'samples.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="without effect: it is fast")
    arguments.add_argument("--out", type=Path, default=Path("figures/biased_sample"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="for other samples")
    main(**vars(arguments.parse_args()))
