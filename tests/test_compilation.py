"""Compiled programs are kept on disk: found again, placed where they are wanted, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import policygrad as pg
from policygrad import compilation, settings
from policygrad.cli import main
from policygrad.compilation import device, on_device
from policygrad.errors import UsageError

RUN = """
import jax, warnings
warnings.simplefilter("error")
jax.jit(lambda x: x + 1)(0)  # of the user's own, compiled before policygrad says where to keep programs
import policygrad as pg
run = pg.train("Bandit-v0", pg.reinforce(), num_steps=64, num_envs=8, out=False)
print(jax.config.jax_compilation_cache_dir, *run.policy.head.logits.ravel().tolist())
"""


def run(**environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "POLICYGRAD"))}
    done = subprocess.run([sys.executable, "-c", RUN], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def entries(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_finds_the_programs_of_the_first_and_gives_the_same(tmp_path: Path) -> None:
    first = run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    kept = entries(tmp_path)
    assert kept
    (folder,) = {path.parent for path in kept}
    assert folder.name.startswith(f"jax-{jax.__version__}-")
    assert folder.parent.name == "policygrad"
    assert first[0] == str(folder)
    (some,) = [path for path in kept if "jit_program" in path.name]
    some.write_bytes(some.read_bytes()[:100])  # as another process finds it that comes while it is being written
    broken = some.stat().st_mtime_ns
    assert run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path)) == first
    assert entries(tmp_path) >= kept  # and what took a little longer to compile this time
    some.unlink()
    assert run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path)) == first
    assert some.stat().st_mtime_ns > broken
    untouched = {path: path.stat().st_mtime_ns for path in kept}
    assert run(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path)) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == untouched


def test_where_and_whether_is_the_users_choice(tmp_path: Path) -> None:
    assert run(POLICYGRAD_CACHE=str(tmp_path / "mine"))[0].startswith(str(tmp_path / "mine"))
    assert entries(tmp_path / "mine")
    assert run(POLICYGRAD_CACHE="off", XDG_CACHE_HOME=str(tmp_path / "none"), HOME=str(tmp_path / "none"))[0] == "None"
    assert not (tmp_path / "none").exists()
    theirs = str(tmp_path / "jax")
    assert run(JAX_COMPILATION_CACHE_DIR=theirs, XDG_CACHE_HOME=str(tmp_path / "none"))[0] == theirs
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(POLICYGRAD_CACHE=str(tmp_path / "file"))[0] == "None"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "MOST_BYTES", 100)
    for age, name in enumerate("abcd"):
        path = tmp_path / name / name
        path.parent.mkdir()
        path.write_bytes(b"." * 25)
        os.utime(path, (1000 - age, 1000 - age))
    compilation._prune(tmp_path)
    assert {path.name for path in entries(tmp_path)} == set("abcd"), "as much as there may be"
    (tmp_path / "one more").write_bytes(b".")
    compilation._prune(tmp_path)
    assert {path.name for path in entries(tmp_path)} == {"a", "one more"}


def test_a_device_is_chosen_by_name():
    assert compilation.DEVICES == settings.DEVICES
    with on_device("cpu"):
        assert device().platform == "cpu"
    assert device() == jax.devices()[0]
    with pytest.raises(UsageError, match="unknown device 'cuda'"):
        on_device("cuda")


def test_a_device_that_is_not_there_is_one_line(monkeypatch, capsys):
    found = jax.local_devices

    def local_devices(*, backend=None):
        if backend == "gpu":
            raise RuntimeError("Unknown backend")
        return found(backend="cpu")

    monkeypatch.setattr(jax, "local_devices", local_devices)
    with pytest.raises(UsageError, match=r"device: got 'gpu', but JAX finds none \(cpu only\); pip install \"policygrad\[cuda\]\""):
        on_device("gpu")
    assert main(["train", "ppo", "--env", "CartPole-v1", "--num-steps", "100", "--device", "gpu"]) == 2
    assert "--device: got 'gpu'" in capsys.readouterr().err


def test_training_and_evaluation_run_on_the_chosen_device(monkeypatch):
    asked = []
    original = compilation.on_device
    monkeypatch.setattr(compilation, "on_device", lambda name: asked.append(name) or original(name))
    run = pg.train("Bandit-v0", pg.reinforce(), num_steps=16, num_envs=8, device="cpu", out=False)
    pg.evaluate(run.policy, "Bandit-v0", num_episodes=2, device="cpu")
    pg.evaluate(run.policy, "Bandit-v0", num_episodes=2)
    assert asked == ["cpu", "cpu", "auto"]


def test_cores_are_counted():
    assert 1 <= compilation.cores() <= 4096
