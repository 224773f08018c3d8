"""Poor conditioning: the gradient of a Gaussian policy mostly shrinks σ; the natural gradient goes for the gain.

    a ~ N(k s, σ²)        s' = s + a + w,  r = −s² − a²/10        θ = (k, σ)        F = diag(E[s²]/σ², 2/σ²)

Exploring costs, so ∇J asks for less of it, as loudly as for a better k. But the smaller σ, the more does a change of k change the policy,
and the shorter is a step of a given KL: who gives up σ first is stuck. F⁻¹∇J spends the KL where it earns most. All steps have the same,
0.01 nats to second order; J and ∇J are exact. After "Policy Gradients in Reinforcement Learning", a lecture summary, section 8.

Claims: after 60 steps the natural k and its cost are within 1 % of the best; the plain gradient's k has gone less than a third of the
way, with less than 1 % of σ left to go on, and 140 steps later it still costs 1.8 times the best.

    python examples/natural_gradient.py [--fast] [--out DIR] [--seed N]
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policygrad import oracle, policies
from policygrad.ascent import kl_radius, natural, steepest
from policygrad.envs import LQR
from policygrad.report import style
from policygrad.types import Batch, Params, Rollout, Spec

START, LENGTH, MAX_KL, SOON, LATE = (-0.05, 0.5), 10, 0.01, 60, 200
REGULATOR = LQR(A=[[1.0]], B=[[1.0]], Q=[[1.0]], R=[[0.1]], noise=[[1e-4]], initial_covariance=[[1e-2]], time_limit=LENGTH)


class Controller(eqx.Module):
    """a ~ N(k s, σ²): the leaves are θ."""

    k: jax.Array
    sigma: jax.Array

    def unroll(self, carry, obs, resets):
        return policies.Gaussian(self.k * obs, jnp.broadcast_to(jnp.log(self.sigma), obs.shape), 0), carry


def value(policy: Controller, mdp: LQR = REGULATOR):
    """J(k, σ), exactly."""
    linear = policies.linear()(jax.random.key(0), Spec(mdp.observation_space, mdp.action_space, 1))
    theta = policy.k.reshape(1, 1), jnp.zeros(1), jnp.log(policy.sigma).reshape(1)
    return oracle.objective(mdp, eqx.tree_at(lambda p: (p.head.layer.weight, p.head.layer.bias, p.head.log_std), linear, theta))


def batch_of(policy: Controller) -> Batch:
    """One state with the right E[s²]: the Fisher matrix and the KL see no more of the states."""
    zeros = jnp.zeros((1, 1))
    obs = zeros + jnp.sqrt(-value(policy, REGULATOR.replace(R=[[0.0]])) / LENGTH)  # without R, r = −s²
    rollout = Rollout(*(zeros,) * 9, carry=(), extras={})._replace(obs=obs, mask=zeros + 1)
    return Batch(rollout, zeros, zeros, zeros, policy.unroll((), obs, None)[0], ())


def exact_gradient(params: Params, batch: Batch, progress):
    return Params(jax.grad(value)(params.policy), ()), {}


def field_and_path(direction, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along the direction at each of the points, [2, P]; and (k, σ, J) along the path, [LATE + 1, 3]."""

    def at(point):
        policy = Controller(*point)
        ahead = direction(Params(policy, ()), batch_of(policy), 0.0).direction.policy
        return jnp.stack([ahead.k, ahead.sigma]) / jnp.hypot(ahead.k, ahead.sigma)

    def step(policy, _):
        moved, *_ = kl_radius(direction, MAX_KL).step(None, Params(policy, ()), (), batch_of(policy), 0.0)
        return moved.policy, jnp.stack([policy.k, policy.sigma, value(policy)])

    start = Controller(*jnp.asarray(START))
    return jax.device_get(jax.jit(lambda: (jax.vmap(at, 1, 1)(points), jax.lax.scan(step, start, None, length=LATE + 1)[1]))())


def main(fast: bool = False, out: Path = Path("figures/natural_gradient"), seed: int = 0) -> None:
    told = f"arrows: direction in (k, σ); dots: {LATE} steps of {MAX_KL} nats each; star: the best policy"
    figure, axes = style.canvas("What the plain and the natural gradient do to a Gaussian policy", told, 2, width=9.6)
    with jax.enable_x64(True):
        gains = np.linspace(-1.2, 0.1, 1301)
        certain = np.asarray(jax.jit(jax.vmap(lambda k: value(Controller(k, jnp.asarray(1e-9)))))(gains))
        grid = np.mgrid[-1.15 : 0.05 : 9j if fast else 15j, 0.03 : 0.53 : 7j if fast else 11j].reshape(2, -1)
        ways = {"plain gradient": steepest(exact_gradient), "natural gradient": natural(exact_gradient, damping=0.0, exact=True)}
        found = {name: field_and_path(direction, grid) for name, direction in ways.items()}
    best_k, best = gains[certain.argmax()], certain.max()
    for ax, (name, (field, path)) in zip(axes, found.items(), strict=True):
        for count, (k, sigma, J) in zip((SOON, LATE), path[[SOON, LATE]], strict=True):
            print(f"{name:16} after {count:3} steps: k = {k:.3f} (best {best_k:.3f}), σ = {sigma:.1e}, cost {J / best:.3f} of the best")
        ax.quiver(*grid, *field, angles="xy", color=style.FAINT, pivot="mid", scale=26, width=0.003, alpha=0.7)
        ax.plot(path[:, 0], path[:, 1], "o-", color=style.COLOURS[0], linewidth=1, markersize=4)
        ax.plot(best_k, 0, "*", color=style.COLOURS[1], markersize=16, clip_on=False, zorder=3)
        ax.set(xlabel="k, the gain", ylabel="σ, how much it explores", xlim=(-1.22, 0.12), ylim=(-0.01, 0.56))
        style.name_panel(ax, name)
    plain, other = (path for _, path in found.values())
    assert abs(other[SOON, 0] / best_k - 1) < 0.01 > other[SOON, 2] / best - 1, "claimed: both within 1 % of the best"
    assert (plain[SOON, 0] - START[0]) / (best_k - START[0]) < 1 / 3, "claimed: the plain gradient stops short"
    assert plain[SOON, 1] < 0.01 * START[1], "claimed: less than 1 % of its σ is left"
    assert plain[LATE, 2] / best > 1.8, "claimed: and it never recovers"
    style.save(figure, out / "paths.png")
    print(f"figure: {out / 'paths.png'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--fast", action="store_true", help="fewer arrows, the same claims")
    arguments.add_argument("--out", type=Path, default=Path("figures/natural_gradient"), help="where the figures go")
    arguments.add_argument("--seed", type=int, default=0, help="without effect: nothing is sampled")
    main(**vars(arguments.parse_args()))
