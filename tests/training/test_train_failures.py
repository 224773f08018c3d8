"""Bad arguments, bad environments, seeds that fail, Ctrl-C: one line each, and nothing of what was there is lost."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import policygrad as pg
from policygrad.errors import DivergedError, RunError, UnknownNameError, UsageError
from rollout.toys import Faulty, clockwork, fragile, leaves_equal, programs_agree

QUICK: dict[str, Any] = {"out": False, "figures": False}


# ── bad arguments ────────────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = r"^{name}: got {got}; it must be a whole number from 1 to [\d,]+$"
BAD: list[tuple[dict[str, Any], str]] = [
    *(
        ({"num_steps": value}, WHOLE.format(name="num_steps", got=got))
        for value, got in [
            *((0, "0"), (-1, "-1"), (1.5, r"1\.5"), (float("nan"), "nan"), (float("inf"), "inf"), (True, "True")),
            *(("100", "'100'"), (None, "None"), (2**31, "2147483648"), ([10], r"\[10\]")),
        ]
    ),
    *(
        ({"num_envs": value}, WHOLE.format(name="num_envs", got=got))
        for value, got in [(0, "0"), (-3, "-3"), (2.5, r"2\.5"), (float("nan"), "nan"), (True, "True"), ("8", "'8'")]
    ),
    *(
        ({"callback_every": value}, WHOLE.format(name="callback_every", got=got))
        for value, got in [(0, "0"), (-1, "-1"), (0.5, r"0\.5"), (False, "False")]
    ),
    ({"num_steps": 2**31 - 5}, r"^num_steps: got 2,147,483,643; counters hold up to 2\^31 − 1 steps with one update to spare$"),
    *(
        ({"seed": value}, rf"^seed: got {got}; it must be a whole number from 0 to 2\^32 − 1$")
        for value, got in [(-1, "-1"), (0.5, r"0\.5"), (float("nan"), "nan"), (True, "True"), ("1", "'1'"), (2**32, "4294967296")]
    ),
    *(
        ({"seeds": value}, r"^seeds: got [^\n]*; it must be a number of seeds of at least 1, or a list of seeds$")
        for value in (0, -2, True, 1.5, ...)
    ),
    ({"seeds": []}, r"^seeds: got \[\]; give at least one, each once$"),
    ({"seeds": [1, 2, 1]}, r"^seeds: got \[1, 2, 1\]; give at least one, each once$"),
    ({"seeds": [1, -1]}, r"^seed: got -1; it must be a whole number [^\n]*$"),
    ({"seeds": [1, [2]]}, r"^seed: got \[2\]; it must be a whole number [^\n]*$"),
    ({"seed": 1, "seeds": 2}, r"^seed and seeds: got both \(1, 2\); give one$"),
    ({"until_solved": True}, r"^until_solved: Bandit-v0 has no reward threshold; leave it out, or stop with a callback$"),
    ({"env_args": {"colour": 1}}, r"^environment 'Bandit-v0' does not take colour; its keyword arguments: means, sigma$"),
    ({"algorithm": "reinforce"}, r"^algorithm: got str; pass what a recipe returns, e\.g\. policygrad\.reinforce\(\)$"),
    ({"algorithm": pg.reinforce}, r"^algorithm: got function; pass what a recipe returns, [^\n]*$"),
    *(
        (
            {"algorithm": recipe(minibatches=7, rollout_length=8)},
            r"^minibatches: got 7 for a batch of \d+ steps; it must divide them into [^\n]*$",
        )
        for recipe in (pg.ppo, pg.ppo_kl)
    ),
    ({"algorithm": pg.reinforce(sigma=0.5)}, r"^[^\n]*sigma[^\n]*Discrete\(5\)[^\n]*$"),
]


@pytest.mark.parametrize(("options", "line"), BAD, ids=[next(iter(options)) for options, _ in BAD])
def test_a_bad_argument_is_told_in_one_line(options: dict[str, Any], line: str, tmp_path: Path) -> None:
    options = {"algorithm": pg.reinforce(), "num_steps": 16, "num_envs": 8} | options
    with pytest.raises(UsageError) as caught:
        pg.train("Bandit-v0", out=tmp_path / "run", **options)
    assert re.search(line, str(caught.value))  # not `match`, which sees what JAX notes below an error while it traces
    assert list(tmp_path.iterdir()) == []


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown backend 'compield': did you mean compiled\?$"):
        pg.train("Bandit-v0", pg.reinforce(), num_steps=8, backend="compield", **QUICK)
    with pytest.raises(UnknownNameError, match=r"^unknown environment 'CartPol-v1': did you mean CartPole-v1[^\n]*\?$"):
        pg.train("CartPol-v1", pg.reinforce(), num_steps=8, **QUICK)


def test_numbers_as_scripts_pass_them() -> None:
    run = pg.train("Bandit-v0", pg.reinforce(), num_steps=1.6e1, num_envs=np.int64(8), seed=np.int32(3), **QUICK)  # type: ignore[arg-type]
    result = run.result()
    assert (result["num_steps"], result["num_envs"], result["seeds"]) == (16, 8, [3])
    json.dumps(result)


def test_iterate_takes_the_same_arguments() -> None:
    for options, line in [
        ({"num_steps": 0}, r"^num_steps: got 0"),
        ({"seed": -1}, r"^seed: got -1"),
        ({"every": 0}, r"^every: got 0; it must be a whole number from 1"),
    ]:
        with pytest.raises(UsageError, match=line):
            next(pg.iterate("Bandit-v0", pg.reinforce(), **({"num_steps": 8} | options)))


# ── environments that break their contract in the middle of a run ────────────────────────────────────────────────────

UPDATES = 6  # the fault comes in this one
AT = 4 * (UPDATES - 1) + 2  # episodes take 4 steps, each copy has one an update


def faulty(fault: str, at: int) -> Callable[[], Faulty]:
    def faulty_env() -> Faulty:
        return Faulty(fault, at)

    return faulty_env


def strict(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("fault", ["nan observation", "nan reward", "outside", "shape", "exception", "old api"])
def test_a_fault_later_on_loses_nothing(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm = pg.reinforce(hidden_sizes=(), learning_rate=0.1)
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"^environment faulty_env\b[^\n]*(step 2 of its episode|vector step 22)[^\n]*;[^\n]*$"):
        pg.train(faulty(fault, AT), algorithm, num_steps=1000, num_envs=2, out=out, figures=False)
    recorded = [strict(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in recorded] == list(range(1, UPDATES))
    assert [line["steps"] for line in recorded] == [8 * i for i in range(1, UPDATES)]
    table = list(csv.DictReader((out / "episodes.csv").read_text().splitlines()))
    assert [(row["return"], row["length"]) for row in table] == [("4", "4")] * 2 * (UPDATES - 1)
    # The policy is the one of the last whole update.
    whole = pg.train(faulty("none", AT), algorithm, num_steps=8 * (UPDATES - 1), num_envs=2, **QUICK)
    assert leaves_equal(pg.load(out / "policy_0.safetensors"), whole.policy)
    result = strict((out / "result.json").read_text())
    assert (result["final_return"], result["steps_to_solve"]) == ([None], [None])
    assert result["num_steps"] == 8 * (UPDATES - 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", ["nan observation", "nan reward", "outside", "shape", "exception", "old api"])
def test_a_fault_in_the_first_step_leaves_nothing(fault: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^environment faulty_env[^\n]*$"):
        pg.train(faulty(fault, 1), pg.reinforce(hidden_sizes=()), num_steps=100, num_envs=2, out=tmp_path / "run", figures=False)
    assert list(tmp_path.iterdir()) == []


def test_iterate_yields_what_came_before_the_fault() -> None:
    seen: list[int] = []

    def loop() -> None:
        for here in pg.iterate(faulty("nan reward", AT), pg.reinforce(hidden_sizes=()), num_steps=1000, num_envs=2, every=4):
            seen.append(here.iteration)

    with pytest.raises(RunError, match=r"^environment faulty_env, copy 0, step 2 of its episode[^\n]*the reward is nan"):
        loop()
    assert seen[0] == 4
    assert seen in ([4], [4, 5])


# ── seeds that fail ──────────────────────────────────────────────────────────────────────────────────────────────────

SEEDS = [0, 1, 2]
FRAGILE: dict[str, Any] = {"num_steps": 15 * 4, "num_envs": 4, "figures": False, "metrics": lambda a, r: {"worst": jnp.max(r.obs)}}


@pytest.fixture(scope="module")
def healthy() -> tuple[pg.Run, float, int, int]:
    """A run whose environment shows its largest draws; a bound that only one seed breaks; that seed and its update."""
    run = pg.train(fragile(2.0), pg.reinforce(hidden_sizes=()), seeds=SEEDS, out=False, **FRAGILE)
    worst = np.array([seed.metrics["worst"].max() for seed in run.seeds])
    assert len(set(worst)) == 3
    second, first = np.sort(worst)[-2:]
    bound = float((first + second) / 2)
    index = int(np.argmax(worst))
    return run, bound, index, int(np.flatnonzero(run.seeds[index].metrics["worst"] > bound)[0])


def test_one_seed_that_fails_leaves_the_others(healthy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, bound, bad, update = healthy
    assert update > 0
    out = tmp_path / "run"
    run = pg.train(fragile(bound), pg.reinforce(hidden_sizes=()), seeds=SEEDS, out=out, **FRAGILE)
    assert list(run.failures) == [bad]
    line = str(run.failures[bad])
    assert isinstance(run.failures[bad], RunError)
    assert "Fragile-v0" in line
    assert f"update {update + 1} " in line
    assert "\n" not in line
    for index, seed in enumerate(run.seeds):
        if index != bad:
            assert leaves_equal(seed.policy, reference.seeds[index].policy)
            np.testing.assert_array_equal(seed.returns, reference.seeds[index].returns)
    result = run.result()
    for entry in ("final_return", "steps_to_solve"):
        assert result[entry][bad] is None
    assert [value is None for value in result["final_return"]] == [index == bad for index in range(3)]
    assert result["num_steps"] == 60
    assert strict((out / "result.json").read_text()) == result
    # What the bad seed recorded is there, and its policy is the one of the update before.
    assert run.seeds[bad].steps == 4 * (update + 1)
    recorded = [strict(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in recorded if one["seed"] == bad] == list(range(1, update + 2))
    before = pg.train(fragile(2.0), pg.reinforce(hidden_sizes=()), seed=bad, out=False, **(FRAGILE | {"num_steps": 4 * update}))
    for policy in (run.policies[bad], pg.load(out / f"policy_{bad}.safetensors")):
        assert programs_agree(policy, before.policy)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"seed {bad} failed" in told[0]


def test_a_single_seed_that_fails_raises(healthy: Any, tmp_path: Path) -> None:
    _, bound, bad, update = healthy
    out = tmp_path / "run"
    with pytest.raises(RunError, match=rf"^[^\n]*Fragile-v0[^\n]*update {update + 1} [^\n]*$") as caught:
        pg.train(fragile(bound), pg.reinforce(hidden_sizes=()), seed=bad, out=out, **FRAGILE)
    before = pg.train(fragile(2.0), pg.reinforce(hidden_sizes=()), seed=bad, out=False, **(FRAGILE | {"num_steps": 4 * update}))
    assert programs_agree(pg.load(out / f"policy_{bad}.safetensors"), before.policy)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == update + 1
    assert strict((out / "result.json").read_text())["final_return"] == [None]
    # A reward that is NaN is the environment's fault, not the learning rate's.
    assert "reward" in str(caught.value)
    assert "learning_rate" not in str(caught.value)


def test_nan_that_no_parameter_sees_is_an_error_too(healthy: Any, tmp_path: Path) -> None:
    """The observation after a termination is not bootstrapped from: it would poison a later critic, or nobody."""
    _, bound, bad, update = healthy
    line = (
        rf"^environment Fragile-v0, copy \d, step 1 of its episode [^\n]*update {update + 1} [^\n]*the next observation is \[nan\][^\n]*$"
    )
    with pytest.raises(RunError, match=line):
        pg.train(fragile(bound, "next observation"), pg.reinforce(hidden_sizes=()), seed=bad, out=tmp_path / "run", **FRAGILE)
    before = pg.train(fragile(2.0), pg.reinforce(hidden_sizes=()), seed=bad, out=False, **(FRAGILE | {"num_steps": 4 * update}))
    assert programs_agree(pg.load(tmp_path / "run" / f"policy_{bad}.safetensors"), before.policy)


def test_a_learning_rate_that_is_too_large_is_told_as_such() -> None:
    algorithm = pg.reinforce(learning_rate=1e38, optimizer="sgd", hidden_sizes=())
    with pytest.raises(
        DivergedError, match=r"^reinforce on Pendulum-v1, seed 0: a parameter became NaN or infinite in update \d+ [^\n]*smaller"
    ):
        pg.train("Pendulum-v1", algorithm, num_steps=1000, num_envs=2, **QUICK)


def test_every_seed_that_fails_raises_the_first(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"seed 3"):
        pg.train(fragile(-1.0), pg.reinforce(hidden_sizes=()), seeds=[3, 4], out=out, **FRAGILE)
    assert strict((out / "result.json").read_text())["final_return"] == [None, None]


# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def interrupt(times: int = 1) -> Callable[[Any], None]:
    def callback(progress: Any) -> None:
        if (progress.seed, progress.iteration) == (0, 3):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.parametrize("env", ["Bandit-v0", clockwork])
def test_ctrl_c_ends_with_everything_so_far(env: Any, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    out = tmp_path / "run"
    algorithm = pg.reinforce(hidden_sizes=())
    run = pg.train(env, algorithm, num_steps=1000, num_envs=2, seeds=2, out=out, figures=False, callbacks=interrupt())
    assert signal.getsignal(signal.SIGINT) is handler
    assert run.interrupted
    assert run.failures == {}
    assert len(run.metrics["steps"]) == 3
    recorded = [strict(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["iteration"]) for line in recorded] == [(0, 1), (0, 2), (0, 3)]
    assert len((out / "episodes.csv").read_text().splitlines()) == 1 + len(run.returns) == 7
    assert leaves_equal(pg.load(out / "policy_0.safetensors"), run.policy)
    result = strict((out / "result.json").read_text())
    assert result == run.result()
    assert result["seeds"] == [0, 1]
    assert result["final_return"] == [pytest.approx(np.mean(run.returns)), None]
    assert not (out / "policy_1.safetensors").exists()


def test_ctrl_c_does_not_wait_for_the_next_callback() -> None:
    class Pressing(Faulty):
        def step(self, action: Any) -> Any:
            if self.steps == 100:  # past those that measure what a step takes
                signal.raise_signal(signal.SIGINT)
            return super().step(action)

    calls: list[int] = []
    run = pg.train(
        Pressing,
        pg.reinforce(hidden_sizes=()),
        num_steps=8_000,
        num_envs=1,
        callbacks=lambda p: calls.append(p.iteration),
        callback_every=2_000,
        **QUICK,
    )
    assert run.interrupted
    assert 12 <= run.num_steps < 2_000


def test_an_uninterrupted_run_says_so() -> None:
    assert not pg.train("Bandit-v0", pg.reinforce(), num_steps=8, **QUICK).interrupted


@pytest.mark.parametrize("env", ["Bandit-v0", clockwork])
def test_a_second_ctrl_c_ends_it_at_once_and_keeps_what_is_there(env: Any, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    out = tmp_path / "run"
    seen: list[Any] = []
    calls = [lambda p: seen.append(p.policy), interrupt(2)]
    with pytest.raises(KeyboardInterrupt):
        pg.train(env, pg.reinforce(hidden_sizes=()), num_steps=1000, num_envs=2, out=out, figures=False, callbacks=calls)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert leaves_equal(pg.load(out / "policy_0.safetensors"), seen[-1])


def test_a_callback_that_fails_keeps_what_is_there(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def fails(progress: Any) -> None:
        seen.append(progress.policy)
        if progress.iteration == 3:
            raise LookupError("my own mistake")

    with pytest.raises(LookupError, match=r"^my own mistake$"):
        pg.train("Bandit-v0", pg.reinforce(), num_steps=1000, out=tmp_path / "run", figures=False, callbacks=fails)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert leaves_equal(pg.load(tmp_path / "run" / "policy_0.safetensors"), seen[-1])
