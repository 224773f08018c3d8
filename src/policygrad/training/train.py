"""`train`, the one call, and `iterate`, the same as a generator for loops of your own."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from policygrad import policies
from policygrad._version import __version__
from policygrad.ascent.minibatches import pieces
from policygrad.compilation import cores, placed, ready
from policygrad.compilation import device as present_device
from policygrad.diagnostics import diagnosed
from policygrad.envs import LQR, AnyEnv, Env, FiniteMDP, GymnasiumEnv, has_gymnasium, make
from policygrad.errors import PolicygradError, RunError, UnknownNameError, UsageError
from policygrad.records import Records, default_run_dir
from policygrad.settings import MOST_AT_ONCE, count, seed_list
from policygrad.spaces import Discrete
from policygrad.training.evaluations import EPISODES, Evaluations, evaluator_of
from policygrad.training.history import History, Recorder, first_solved
from policygrad.training.parallel import Interruption, side_by_side
from policygrad.training.progress import Progress, choose_mode
from policygrad.training.result import Run, RunProgress, SeedResult
from policygrad.training.runners import Chunk, CompiledRunner, HostRunner, RunState, UserMetrics, initial_agent, spec_of
from policygrad.training.together import TogetherRunner
from policygrad.types import Algorithm, PyTree, Spec

SEED_LOOPS = ("auto", "alone", "together")

LEAST_SAMPLE = 0.1
"""Importance weights that leave a smaller share of the sample are warned about: the estimate then hangs on a few steps."""

Callback = Callable[["RunProgress"], bool | None]


class _Session:
    """The settings of a run, checked; and one runner for all of its seeds."""

    def __init__(
        self,
        env: Any,
        algorithm: Algorithm,
        num_steps: int,
        num_envs: int | None,
        backend: str,
        init: Any,
        metrics: Any,
        diagnostics: bool,
        env_options: dict,
        workers: int = 1,
        together: bool = False,
    ):
        if not isinstance(algorithm, Algorithm):
            raise UsageError(f"algorithm: got {type(algorithm).__name__}; pass what a recipe returns, e.g. policygrad.reinforce()")
        if not isinstance(diagnostics, bool):
            raise UsageError(f"diagnostics: got {diagnostics!r}; it must be True or False")
        self.num_steps = count("num_steps", num_steps)
        ready()
        self.env: AnyEnv = make(env, backend, **env_options)
        self.algorithm = algorithm
        fixed = None if isinstance(self.env, Env) else self.env.fixed_num_envs
        self.num_envs = count("num_envs", num_envs if num_envs is not None else fixed or algorithm.collect.num_envs, MOST_AT_ONCE)
        if algorithm.collect.kind == "episodes":
            algorithm.collect.episodes_per_update(self.num_envs)
        if self.num_steps + self.num_envs * (algorithm.collect.count or 1) * 1000 > 2**31 - 1:
            raise UsageError(f"num_steps: got {self.num_steps:,}; counters hold up to 2^31 − 1 steps with one update to spare")
        self.init_policy = policies.load(init) if isinstance(init, str | Path) else init
        spec = spec_of(self.env, self.num_envs)
        if self.init_policy is not None:
            policies.require_spaces(self.init_policy, spec.observation_space, spec.action_space, self.env.name)
            initial_agent(algorithm, spec, jax.random.key(0), 1, self.init_policy)
        agent = jax.eval_shape(lambda key: algorithm.init(key, spec), jax.random.key(0))  # wrong spaces fail here, uncompiled
        if algorithm.collect.kind == "steps":
            algorithm.check(*pieces(algorithm.acting(agent), algorithm.collect.count, self.num_envs))
        self.diagnostics, self.remark = diagnostics, ""
        if diagnostics:
            exact, self.remark = _exact_gradient(self.env, algorithm, spec)
            self.algorithm = diagnosed(algorithm, exact)
        sizes = self.algorithm, self.num_envs, self.num_steps, metrics
        self.workers = workers if isinstance(self.env, Env) else 1
        self.together = together and self.workers > 1
        self.runner: CompiledRunner | HostRunner
        if isinstance(self.env, Env) and self.together:
            self.runner = TogetherRunner(self.env, *sizes, seeds=workers)
        elif isinstance(self.env, Env):
            self.runner = CompiledRunner(self.env, *sizes, alone=self.workers == 1)
        else:
            self.runner = HostRunner(self.env, *sizes)


def _exact_gradient(env: AnyEnv, algorithm: Algorithm, spec: Spec) -> tuple[Callable[[PyTree], PyTree] | None, str]:
    """policy -> ∇J of an environment that is known exactly, by its own discount and with γ^t; or why there is none."""
    if not isinstance(env, FiniteMDP | LQR):
        return None, ""
    from policygrad.oracle import policy_gradient

    exact = partial(policy_gradient, env)
    try:
        jax.eval_shape(lambda key: exact(algorithm.policy(algorithm.init(key, spec))), jax.random.key(0))
    except UsageError as error:  # of episodes that may never end, or of a policy that the oracle cannot read
        return None, f"diagnostics without exact_cosine: {error}"
    return exact, ""


def iterate(
    env: Any,
    algorithm: Algorithm,
    *,
    num_steps: int,
    num_envs: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    env_args: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vectorization: str = "auto",
    init: Any = None,
    metrics: UserMetrics | None = None,
    diagnostics: bool = False,
    every: int = 1,
) -> Iterator[RunProgress]:
    """Trains one seed as a generator: yields after every `every` updates, writes nothing, stops when you stop.

    Args:
        every: updates between two yields, ≥ 1; the rest as in `train`.

    Yields:
        `RunProgress`, with the policy and all returns so far.

    Raises:
        as `train`.

    >>> import policygrad as pg
    >>> for progress in pg.iterate("Bandit-v0", pg.reinforce(), num_steps=64, num_envs=16):
    ...     print(progress.steps)
    16
    32
    48
    64
    """
    options = {"env_args": env_args, "wrappers": wrappers, "vectorization": vectorization}
    (seed,) = seed_list(seed, None)
    session = _Session(env, algorithm, num_steps, num_envs, backend, init, metrics, diagnostics, options)
    every = count("every", every)
    try:
        episodes, iteration, seconds = History(seed), 0, 0.0
        state = session.runner.start(seed, session.init_policy)
        while int(state.agent.steps) < session.num_steps:
            begin, compiled = time.perf_counter(), session.runner.compile_seconds
            state, chunk, _ = session.runner.advance(state, every)
            seconds += time.perf_counter() - begin - (session.runner.compile_seconds - compiled)
            episodes.add(chunk)
            iteration += len(chunk.steps)
            if chunk.failure:
                raise chunk.failure
            yield _progress(session, seed, iteration, chunk, episodes, state, seconds)
    finally:
        session.runner.close()


def _progress(
    session: _Session, seed: int, iteration: int, chunk: Chunk, episodes: History, state: RunState, seconds: float
) -> RunProgress:
    last = {name: float(values[-1]) for name, values in chunk.metrics.items() if name != "finite"}
    return RunProgress(
        seed,
        iteration,
        int(chunk.steps[-1]),
        session.num_steps,
        last,
        session.algorithm.policy(state.agent),
        state.agent,
        seconds,
        episodes,
    )


@placed
def train(
    env: Any,
    algorithm: Algorithm,
    *,
    num_steps: int,
    num_envs: int | None = None,
    seed: int | None = None,
    seeds: int | Sequence[int] | None = None,
    backend: str = "auto",
    env_args: dict[str, Any] | None = None,
    wrappers: Sequence[Callable[[Any], Any]] = (),
    vectorization: str = "auto",
    device: str = "auto",
    seed_loop: str = "auto",
    out: str | Path | bool | None = None,
    init: Any = None,
    until_solved: bool = False,
    evaluate_every: int | None = None,
    evaluate_episodes: int = EPISODES,
    callbacks: Callback | Sequence[Callback] = (),
    callback_every: int = 1,
    metrics: UserMetrics | None = None,
    diagnostics: bool = False,
    figures: bool = True,
    progress: str | bool = False,
    on_result: Callable[[Run], None] | None = None,
) -> Run:
    """Trains an algorithm on an environment.

    Args:
        env: a name, an `Env`, a function that makes a Gymnasium environment, a `gymnasium.Env` or a `VectorEnv`.
        algorithm: what a recipe returns, e.g. `reinforce()`.
        num_steps: steps of all environments together, per seed; rounded up to whole updates.
        num_envs: environments side by side; None takes the recipe's.
        seed: of a single run (0 if neither is given).
        seeds: n for the seeds 0 to n − 1, or a list; how they run is `seed_loop`.
        backend: "auto", "compiled" or "gymnasium"; see `envs.make`, also for `env_args`, `wrappers`, `vectorization`.
        device: "cpu" or "gpu", where the programs run; "auto" takes a GPU where JAX finds one.
        seed_loop: "alone": each seed gives bit for bit what it gives alone; in the compiled loop, on a CPU and without callbacks, as
            many run side by side as there are cores, else one after the other. "together": one program advances all seeds, on all
            devices of its kind (`jax.vmap`): each is equal in distribution to the seed alone, not bit for bit. "auto" is together on
            a GPU, which a single seed would leave idle, and else alone; and alone with callbacks and where Gymnasium is stepped.
        out: the run directory; None makes runs/<env>/<algorithm>/<stamp>; False writes nothing.
        init: a policy, or a file of one, to start from; of the structure that the algorithm builds.
        until_solved: stop a seed with the update in which the mean return of the last 20 episodes reaches the
            environment's reward threshold.
        evaluate_every: evaluate the policy after every so many steps of all environments (with the first update that reaches them) and
            at the end of the run, and keep the best; None never does. Actions are modes; the environments are others of the same kind,
            the episodes the same at each evaluation, none of training's, and none of those of `evaluate`. Training itself stays bit for
            bit what it is without; the time counts as the run's.
        evaluate_episodes: of each evaluation, ≥ 1.
        callbacks: functions of a `RunProgress`, called after every `callback_every` updates; one that returns True stops the seed.
        callback_every: ≥ 1. Larger is faster in the compiled loop.
        metrics: your own: (agent before the update, rollout) -> dict of scalars, computed inside the jitted iteration and recorded.
        diagnostics: record how good each update's gradient is, before clipping: the metrics of `diagnostics.gradient_statistics`. On
            a `FiniteMDP` (or an `LQR` with a linear Gaussian policy) `exact_cosine` too, the cosine to the gradient ∇J of the
            environment's own objective: with its discount, which is not the recipe's, and with γ^t, which recipes leave out, so
            it may stay below 1 however large the batch. Costs about one more gradient an update; the run itself stays the same.
        figures: draw the figures into the run directory at the end.
        progress: False for silence, "bar", "plain", or True for a bar on a terminal and plain lines elsewhere; on stderr.
        on_result: called with the `Run` when it is done and saved, before figures are drawn.

    Returns:
        A `Run`: `policy`, `policies`, `best_policy`, `best_policies`, `metrics`, `returns`, `run_dir`, `result()`, `failures`. With
        evaluations, `metrics["evaluation_return"]` holds their mean returns, NaN after updates without one.

    Raises:
        UsageError: anything wrong before the first step; nothing was written.
        RunError: every seed failed after its first step; what was recorded is in the run directory. If only some of several
            seeds failed, the others finish, and `failures` of the returned run tells.
    """
    options = {"env_args": env_args, "wrappers": wrappers, "vectorization": vectorization}
    chosen = seed_list(seed, seeds)
    calls = [callbacks] if callable(callbacks) else list(callbacks)
    callback_every = count("callback_every", callback_every)
    evaluate_every = None if evaluate_every is None else count("evaluate_every", evaluate_every)
    evaluate_episodes = count("evaluate_episodes", evaluate_episodes, MOST_AT_ONCE)
    together, workers = _seed_loop(seed_loop, len(chosen), bool(calls))
    session = _Session(env, algorithm, num_steps, num_envs, backend, init, metrics, diagnostics, options, workers, together)
    if seed_loop == "together" and not isinstance(session.env, Env):
        raise UsageError(f"seed_loop: got together, but {session.env.name} is stepped by Gymnasium; take a compiled environment, or alone")
    evaluator = evaluator_of(session.env, evaluate_every, evaluate_episodes)
    threshold = session.env.reward_threshold
    if until_solved and threshold is None:
        raise UsageError(f"until_solved: {session.env.name} has no reward threshold; leave it out, or stop with a callback")
    run_dir = None if out is False else Path(out) if isinstance(out, str | Path) else default_run_dir(session.env.name, algorithm.name)
    label = f"{algorithm.name} on {session.env.name}"
    mode = choose_mode(progress if isinstance(progress, str) else "auto" if progress else "off")
    display = Progress(mode, session.num_steps, len(chosen), label)
    records = Records(run_dir, chosen, warn=display.warn, unique=out is None or out is True)
    results = [SeedResult(one) for one in chosen]
    begin = time.perf_counter()

    def finished(interrupted: bool) -> Run:
        compiled = session.runner.compile_seconds + (evaluator.compile_seconds if evaluator else 0.0)
        seconds = time.perf_counter() - begin - compiled
        env = session.env
        sizes = (algorithm.name, env.name, env.backend, session.num_envs)
        run = Run(*sizes, results, records.run_dir, compiled, seconds, threshold, interrupted)
        _save(run, records, display.warn)
        return run

    try:
        evaluations = {"evaluate_every": evaluate_every, "evaluate_episodes": evaluate_episodes if evaluator else None}
        records.config(_configuration(session, chosen, env_args) | evaluations)
        with display, Interruption() as interruption:
            if isinstance(session.env, Env) and isinstance(env, str) and backend == "auto" and has_gymnasium(env):
                display.message(f"{env}: compiled environment (JAX), the twin of Gymnasium's; backend gymnasium runs that one")
            if isinstance(session.env, GymnasiumEnv) and (remark := session.env.remark(session.num_envs, session.num_steps)):
                display.message(remark)
            if session.remark:
                display.warn(session.remark)
            sample = _SampleSize(display.warn)
            goal = threshold if until_solved else None

            def one(index: int, runner: CompiledRunner | HostRunner) -> None:
                """A seed from its start to its end."""
                result = results[index]
                watch = Evaluations(evaluator, evaluate_every, result, records)
                try:
                    shown = records, display, sample, interruption, watch
                    _train_seed(session, runner, result, index, *shown, calls, callback_every, goal)
                except RunError as error:
                    result.error = error
                    if len(chosen) > 1:  # of a single seed it is the error that this call ends with
                        display.warn(f"seed {result.seed} failed: {error}")
                finally:
                    runner.close()
                    result.policy, result.best_policy = runner.finished((result.policy, result.best_policy))
                    watch.close()
                    display.over(index)

            if session.workers > 1 and isinstance(session.runner, CompiledRunner):
                session.runner.prepare(session.init_policy)
                side_by_side(one, len(results), session.runner, session.workers, interruption)
            else:
                for index in range(len(results)):
                    if interruption.seen:
                        break
                    one(index, session.runner)
    except BaseException as error:
        if any(result.steps for result in results):
            finished(isinstance(error, KeyboardInterrupt))  # a fault in a callback, or a second Ctrl-C: keep what there is
        else:
            records.discard()  # before the first step: what was made for the run goes again
        raise
    run = finished(interruption.seen)
    if on_result is not None:
        on_result(run)
    if figures and run.run_dir is not None:
        from policygrad.report import figures as draw

        try:
            draw([run.run_dir], warn=display.warn)
        except Exception as error:  # a picture is never worth a trained run
            display.warn(f"no figures: {error}")
    if all(result.error for result in results):
        raise next(result.error for result in results if result.error)
    return run


def _train_seed(
    session: _Session,
    runner: CompiledRunner | HostRunner,
    result: SeedResult,
    index: int,
    records: Records,
    display: Progress,
    sample: _SampleSize,
    interruption: Interruption,
    watch: Evaluations,
    calls: list[Callback],
    callback_every: int,
    threshold: float | None,
) -> None:
    """Runs one seed to its end; fills `result`."""
    episodes, recorder = History(result.seed), Recorder(records, result.seed, session.num_steps)
    iteration, updates, seconds = 0, 1, 0.0
    state = runner.start(result.seed, session.init_policy)
    result.policy, result.agent = session.algorithm.policy(state.agent), state.agent

    def solved_in(earlier: Sequence[Chunk], chunk: Chunk) -> int | None:
        return first_solved(episodes.tail(later=earlier), chunk, threshold or 0.0)

    until = None if threshold is None else solved_in
    try:
        while int(state.agent.steps) < session.num_steps and not interruption.seen:
            begin, compiled, before = time.perf_counter(), runner.compile_seconds, int(state.agent.steps)
            # Never longer than a chunk may take, also where callbacks are rare: Ctrl-C, records and the display wait for it.
            size = min(updates, callback_every - iteration % callback_every) if calls else updates
            state, chunk, solved = runner.advance(state, size, until, watch.next)
            took = time.perf_counter() - begin - (runner.compile_seconds - compiled)
            seconds += took
            episodes.add(chunk)
            iteration += len(chunk.steps)
            result.policy, result.agent = session.algorithm.policy(state.agent), state.agent
            recorder.add(chunk, iteration, took)
            sample.check(chunk, result.seed, iteration, before)
            display.update(index, int(chunk.steps[-1]), _mean(episodes.tail()), int(chunk.steps[-1]) / max(seconds, 1e-9))
            if chunk.failure:
                raise chunk.failure
            watch.at(int(state.agent.steps), result.policy)
            over = solved or int(state.agent.steps) >= session.num_steps
            if calls and (over or iteration % callback_every == 0):
                here = _progress(session, result.seed, iteration, chunk, episodes, state, seconds)
                answers = [call(here) for call in calls]  # every callback is called, also after one that stops
                if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
                    break
            if took < runner.chunk_seconds / 2:
                updates = min(updates * 2, 1 << 14)
            elif took > runner.chunk_seconds * 2:
                updates = max(updates // 2, 1)
            if solved:
                break
        if not interruption.seen:
            watch.at(int(state.agent.steps), result.policy, last=True)
    finally:
        episodes.fill(result)


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


class _SampleSize:
    """Warns, once in a run, of importance weights that leave little of the sample."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn, self._warned = warn, False

    def check(self, chunk: Chunk, seed: int, iteration: int, before: int) -> None:
        """Looks at a chunk that ends with update `iteration` and began after `before` steps."""
        shares = chunk.metrics.get("effective_sample_size")
        if self._warned or shares is None:
            return
        taken = np.diff(chunk.steps, prepend=before) > 0  # a row of resets has no sample to leave anything of
        low = np.flatnonzero((shares < LEAST_SAMPLE) & taken)
        if len(low):
            self._warned = True
            self._warn(
                f"the importance weights leave {100 * shares[low[0]]:.2g} % of the sample (effective_sample_size) in update"
                f" {iteration - len(shares) + 1 + low[0]} of seed {seed}: the policy is too far from the one that acted;"
                " try less reuse, a smaller learning_rate or a weight_limit"
            )


def _seed_loop(how: str, seeds: int, callbacks: bool) -> tuple[bool, int]:
    """(whether one program advances all seeds, how many seeds run at once)."""
    if how not in SEED_LOOPS:
        raise UnknownNameError("seed_loop", how, SEED_LOOPS)
    if how == "together" and callbacks:
        raise UsageError("seed_loop: got together with callbacks, which see one seed after the other; leave one of them out")
    on_cpu = present_device().platform == "cpu"
    if seeds == 1 or callbacks:
        return False, 1
    if how == "together" or (how == "auto" and not on_cpu):
        return True, seeds
    # On a GPU programs would take turns, and all of their memory at once.
    return False, min(seeds, cores()) if on_cpu else 1


def _said(session: _Session) -> str:
    """How the seeds run, for the record."""
    if session.together:
        return f"{session.workers} together in one program, equal in distribution to each alone"
    return f"{'one after the other' if session.workers == 1 else f'{session.workers} side by side'}, bit-equal to each alone"


def _configuration(session: _Session, seeds: list[int], env_args: dict[str, Any] | None) -> dict[str, Any]:
    import equinox
    import gymnasium
    import optax

    env = session.env
    return {
        "policygrad": __version__,
        "algorithm": session.algorithm.name,
        "settings": {name: _plain(value) for name, value in session.algorithm.settings.items()},
        "env": env.name,
        "env_args": _plain(env_args or {}),
        "backend": env.backend,
        "vectorization": None if isinstance(env, Env) else env.vectorization,
        "processes": session.runner.processes if isinstance(session.runner, HostRunner) else 1,
        "seed_loop": _said(session),
        "num_steps": session.num_steps,
        "num_envs": session.num_envs,
        "seeds": seeds,
        "diagnostics": session.diagnostics,
        "reward_threshold": env.reward_threshold,
        "time_limit": env.time_limit,
        "observation_space": str(env.observation_space),
        "action_space": str(env.action_space),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": present_device().device_kind,
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "optax": optax.__version__,
            "equinox": equinox.__version__,
            "gymnasium": gymnasium.__version__,
        },
    }


def _plain(value: Any) -> Any:
    """Settings as JSON; a user's own function by its name."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    with contextlib.suppress(TypeError, ValueError):
        json.dumps(value, allow_nan=False)
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def _save(run: Run, records: Records, warn: Callable[[str], None]) -> None:
    """Policies, tables of small ones, and the result; a disk that refuses one costs a warning, not the run."""
    tables, folder = {}, run.run_dir
    for result in run.seeds:
        if result.policy is None or folder is None:
            continue
        for name, policy in (("policy", result.policy), ("best_policy", result.best_policy)):
            try:
                if policy is not None:
                    policies.save(policy, folder / f"{name}_{result.seed}.safetensors")
            except (OSError, PolicygradError) as error:
                warn(f"could not save the {name.replace('_', ' ')} of seed {result.seed}, which is left in memory: {error}")
        table = _policy_table(result.policy)
        if table is not None:
            tables[str(result.seed)] = table
    if tables and folder is not None:
        try:
            (folder / "policy_table.json").write_text(json.dumps(tables))
        except OSError as error:
            warn(f"no heatmap: {error}")
    records.result(run.result())
    records.close()


def _policy_table(policy: Any) -> list[list[float]] | None:
    """π(a|s) of a policy over few discrete observations and actions, for the heatmap."""
    observations, actions = getattr(policy, "observation_space", None), getattr(policy, "action_space", None)
    if not (isinstance(observations, Discrete) and isinstance(actions, Discrete) and observations.n <= 64 and actions.n <= 64):
        return None
    distribution = policy(np.arange(observations.n, dtype=np.int32))
    if not isinstance(distribution, policies.Categorical):
        return None
    return np.asarray(distribution.probabilities(), np.float64).round(6).tolist()
