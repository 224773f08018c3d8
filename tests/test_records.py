from __future__ import annotations

import ast
import errno
import json
import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import policygrad.records as records_module
from policygrad.errors import OutputError, UsageError
from policygrad.records import EPISODE_DTYPE, SB3_TAGS, Records, default_run_dir, load_run


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def warnings_seen() -> list[str]:
    return []


@pytest.fixture
def records(tmp_path: Path, warnings_seen: list[str]):
    with Records(tmp_path / "run", [0, 1], warn=warnings_seen.append) as r:
        r.config({"env": "CartPole-v1"})
        yield r


# ---------------------------------------------------------------- the directory


def test_without_a_directory_everything_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Records(None, [0]) as r:
        r.config({})
        r.updates([{"seed": 0}])
        r.episodes(0, 0, [1.0], [1], [1])
        r.scalars(0, 1, {"return": 1.0})
        r.result({})
        r.discard()
    assert r.run_dir is None
    assert r.dropped == 0
    assert tree(tmp_path) == []


def test_the_directory_is_made_with_its_parents_and_an_empty_one_is_taken(tmp_path):
    Records(tmp_path / "a" / "b", [0]).close()
    assert tree(tmp_path / "a" / "b") == ["episodes.csv", "metrics.jsonl"]
    (tmp_path / "empty").mkdir()
    Records(tmp_path / "empty", [0]).close()
    assert (tmp_path / "empty" / "metrics.jsonl").exists()


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError) as caught:
        Records(tmp_path, [0])
    message = str(caught.value)
    assert message == f"output directory {str(tmp_path)!r} is not empty: got a, b, c and 2 more: name a new directory, or empty this one"
    assert tree(tmp_path) == list("abcde")


@pytest.mark.parametrize("below", ["", "run", "some/deeper/run"])
def test_a_path_at_or_below_a_file_is_refused_in_one_line(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        Records(tmp_path / "file" / below, [0])
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "file" / below) in str(caught.value)
    assert tree(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_later_failure_of_creation_leaves_nothing_half_made(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    real = records_module._Appender

    def failing(path, mode):
        if path.name == "episodes.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode)

    monkeypatch.setattr(records_module, "_Appender", failing)
    with pytest.raises(OutputError, match="no space left"):
        Records(tmp_path / "there" / "new" / "run", [0])
    assert tree(tmp_path) == ["there"]


def test_a_configuration_that_cannot_be_written_takes_the_directory_back(tmp_path, monkeypatch):
    r = Records(tmp_path / "new" / "run", [0])
    monkeypatch.setattr(records_module.os, "replace", _disk_full)
    with pytest.raises(OutputError, match="no space left"):
        r.config({"env": "CartPole-v1"})
    assert tree(tmp_path) == []
    assert r.run_dir is None
    r.updates([{"seed": 0}])  # and goes on as without a directory


def test_discard_before_the_first_record_only(tmp_path):
    early = Records(tmp_path / "early" / "run", [0])
    early.config({})
    early.discard()
    assert tree(tmp_path) == []
    late = Records(tmp_path / "late", [0])
    late.updates([{"seed": 0}])
    late.discard()
    late.close()
    assert (tmp_path / "late" / "metrics.jsonl").read_text() == '{"seed": 0}\n'
    shared = Records(tmp_path / "shared" / "run", [0])
    (tmp_path / "shared" / "run" / "notes.txt").write_text("mine")
    shared.discard()
    assert tree(tmp_path / "shared") == ["run", "run/notes.txt"]


def test_default_run_dir_is_unique_and_fit_for_file_systems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records_module.time, "strftime", lambda _: "20250101-120000")
    first = default_run_dir("ALE/Pong-v5", "reinforce")
    assert first == Path("runs/ALE-Pong-v5/reinforce/20250101-120000")
    assert tree(tmp_path) == []
    for k in range(3):
        run_dir = default_run_dir("ALE/Pong-v5", "reinforce")
        assert run_dir.name == "20250101-120000" + (f"-{k}" if k else "")
        run_dir.mkdir(parents=True)
    assert default_run_dir("my.module:Env-v0", "../../x").parts[:3] == ("runs", "my.module-Env-v0", "x")
    assert default_run_dir("..", "").parts[:3] == ("runs", "unnamed", "unnamed")


def test_two_runs_that_want_the_same_default_directory_share_it_not(tmp_path):
    runs = [Records(tmp_path / "run", [0], unique=True) for _ in range(3)]
    assert [r.run_dir.name for r in runs if r.run_dir] == ["run", "run-1", "run-2"]
    with pytest.raises(OutputError):
        Records(tmp_path / "run", [0])
    for r in runs:
        r.close()


# ---------------------------------------------------------------- lines


def test_round_trip(records):
    records.updates(
        [
            {"seed": 0, "iteration": 0, "steps": 100, "return": 12.5, "gradient_norm": float("nan")},
            {"seed": 1, "iteration": 0, "steps": 100, "return": None, "mine": 3},
            {"seed": 0, "iteration": 1, "steps": 200, "return": 1 / 3, "gradient_norm": 2.0, "mine": float("inf")},
        ]
    )
    records.episodes(0, 0, [10.0, 15.0], [10, 15], [40, 100])
    records.episodes(1, 5, np.float32([0.1]), np.int32([3]), np.int64([2**40]))
    records.result({"final_return": [1.0, None]})
    (records.run_dir / "policy_0.safetensors").write_bytes(b"")
    (records.run_dir / "policy_10.safetensors").write_bytes(b"")
    run = load_run(records.run_dir)  # while the run is still going: every line is there already

    assert run.config == {"env": "CartPole-v1"}
    assert run.seeds == [0, 1]
    assert run.skipped == 0
    assert run.result == {"final_return": [1.0, None]}
    np.testing.assert_array_equal(run.metrics[0]["steps"], [100, 200])
    np.testing.assert_array_equal(run.metrics[0]["return"], [12.5, 0.333333])
    np.testing.assert_array_equal(run.metrics[0]["gradient_norm"], [math.nan, 2.0])
    np.testing.assert_array_equal(run.metrics[0]["mine"], [math.nan, math.nan])
    np.testing.assert_array_equal(run.metrics[1]["return"], [math.nan])
    np.testing.assert_array_equal(run.metrics[1]["mine"], [3.0])
    assert all(column.dtype == np.float64 for column in run.metrics[0].values())
    expected = np.array([(0, 40, 10.0, 10), (1, 100, 15.0, 15)], EPISODE_DTYPE)
    np.testing.assert_array_equal(run.episodes[0], expected)
    assert run.episodes[1]["episode"].tolist() == [5]
    assert run.episodes[1]["steps"].tolist() == [2**40]
    np.testing.assert_allclose(run.episodes[1]["return"], [0.1], rtol=1e-7)
    assert {seed: path.name for seed, path in run.policies.items()} == {0: "policy_0.safetensors", 10: "policy_10.safetensors"}


def test_lines_are_strict_compact_json(records):
    records.updates(
        [
            {"seed": 0, "nan": math.nan, "inf": -math.inf, "third": 1 / 3, "big": 1.5e20, "tiny": -1e-12, "whole": 123456789.0},
            {"seed": np.int64(1), "f": np.float32(0.1), "zero": np.array(2.5), "b": np.bool_(True), "list": [1, math.nan], "none": None},
            {"seed": 2, 'quo"te\u2028': 'li\nne "s"', "nested": {"a": np.arange(2)}, "path": Path("x"), "count": 12345678901},
        ]
    )
    lines = (records.run_dir / "metrics.jsonl").read_text().split("\n")
    assert lines[-1] == ""
    assert len(lines) == 4
    assert lines[0] == '{"seed": 0, "nan": null, "inf": null, "third": 0.333333, "big": 1.5e+20, "tiny": -1e-12, "whole": 123456789}'
    assert strict(lines[1]) == {"seed": 1, "f": 0.1, "zero": 2.5, "b": True, "list": [1, None], "none": None}
    nested = {"seed": 2, 'quo"te\u2028': 'li\nne "s"', "nested": {"a": [0, 1]}, "path": "x", "count": 12345678901}
    assert strict(lines[2]) == nested
    assert load_run(records.run_dir).seeds == [0, 1, 2]


def test_episodes_file_has_the_promised_header(records):
    records.episodes(3, 7, [-200.0, 0.125], [200, 1], [1600, 1601])
    assert (records.run_dir / "episodes.csv").read_text() == "seed,episode,steps,return,length\n3,7,1600,-200,200\n3,8,1601,0.125,1\n"


def test_configuration_of_anything_is_strict_json(tmp_path):
    import collections
    import dataclasses
    import enum

    @dataclasses.dataclass
    class Space:
        n: int
        low: float

    class Kind(enum.IntEnum):
        A = 1

    Point = collections.namedtuple("Point", "x y")
    with Records(tmp_path / "run", [0]) as r:
        config = {"space": Space(2, -math.inf), "point": Point(1, 2), "kind": Kind.A, "set": {2, 1}, 1: strict, "é": np.float32(0.5)}
        r.config(config)
        text = (r.run_dir / "config.json").read_text("utf-8")
    expected = {"space": {"n": 2, "low": None}, "point": {"x": 1, "y": 2}, "kind": 1, "set": [1, 2], "é": 0.5}
    assert strict(text) == expected | {"1": f"{strict.__module__}.strict"}
    assert tree(tmp_path / "run") == ["config.json", "episodes.csv", "metrics.jsonl"]


# ---------------------------------------------------------------- reading what is left


def test_a_truncated_last_line_is_left_out(records):
    records.updates([{"seed": 0, "steps": k, "return": 1.0} for k in range(3)])
    records.episodes(0, 0, [1.0, 2.0], [11, 22], [11, 33])
    records.close()
    for name, cut in [("metrics.jsonl", 5), ("episodes.csv", 2)]:  # the second leaves "0,1,33,2,2": still five numbers
        data = (records.run_dir / name).read_bytes()
        (records.run_dir / name).write_bytes(data[:-cut])
    run = load_run(records.run_dir)
    assert run.metrics[0]["steps"].tolist() == [0, 1]
    assert run.episodes[0]["length"].tolist() == [11]
    assert run.skipped == 2
    assert run.result == {}


def test_folders_that_are_no_runs(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    (tmp_path / "list" / "metrics.jsonl").write_text("")
    cases = {"missing": "nothing there", "file": "a file", "foreign": "no config.json", "half": "no metrics.jsonl"}
    for name, got in (cases | {"damaged": "config.json is damaged", "list": "got a list"}).items():
        with pytest.raises(UsageError, match=got) as caught:
            load_run(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "policygrad train" in str(caught.value)


def test_a_run_that_was_killed_at_once_loads(records):
    run = load_run(records.run_dir)
    assert run.metrics == {}
    assert run.episodes == {}
    assert run.policies == {}
    assert run.seeds == []


# ---------------------------------------------------------------- a disk that fails


def _disk_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FullDisk:
    """Takes `room` more bytes, then refuses: what a file on a full disk does."""

    def __init__(self, file, room: int):
        self._file, self.room = file, room

    def write(self, data) -> int:
        if self.room == 0:
            _disk_full()
        taken = self._file.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_disk_that_fails_costs_one_warning_and_counts_what_is_lost(records, warnings_seen):
    records.updates([{"seed": 0, "steps": 1}])
    disk = records._metrics._file = _FullDisk(records._metrics._file, room=20)  # one line of 24 bytes does not fit
    for k in range(3):
        records.updates([{"seed": 0, "steps": 100 + k}, {"seed": 0, "steps": 200 + k}])
    assert records.dropped == 6
    assert len(warnings_seen) == 1
    assert "metrics.jsonl cannot be written: no space left" in warnings_seen[0]
    assert "\n" not in warnings_seen[0]
    disk.room = 1_000  # somebody made room: no half line is left in between
    records.updates([{"seed": 0, "steps": 300}])
    run = load_run(records.run_dir)
    assert run.metrics[0]["steps"].tolist() == [1, 300]
    assert run.skipped == 0
    assert records.dropped == 6


def test_episodes_and_the_result_survive_a_full_disk_too(records, warnings_seen, monkeypatch):
    records._episodes._file = _FullDisk(records._episodes._file, room=0)
    records.episodes(0, 0, [1.0] * 4, [1] * 4, [1, 2, 3, 4])
    assert records.dropped == 4
    monkeypatch.setattr(records_module.os, "replace", _disk_full)
    records.result({"final_return": 1.0})
    records.config({"late": True})
    assert [w.split(":")[0].split("/")[-1] for w in warnings_seen] == [
        "episodes.csv cannot be written",
        "result.json was not written",
        "config.json was not written",
    ]
    assert tree(records.run_dir) == ["config.json", "episodes.csv", "metrics.jsonl"]
    assert load_run(records.run_dir).config == {"env": "CartPole-v1"}


def test_warnings_go_to_stderr_by_default(tmp_path, capsys):
    with Records(tmp_path / "run", [0]) as r:
        r._metrics._file = _FullDisk(r._metrics._file, room=0)
        r.updates([{"seed": 0}])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("policygrad: warning: ")
    assert err.count("\n") == 1


# ---------------------------------------------------------------- TensorBoard


def events(folder: Path) -> list:
    """Read event files back with tensorboardX's own messages, checking every checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    (path,) = folder.iterdir()
    assert re.match(r"events\.out\.tfevents\.\d+\.", path.name)
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[:4])[0] == masked_crc32c(body)
        data = data[4:]
        found.append(Event.FromString(body))
    return found


def test_scalars_have_the_names_of_stable_baselines3(records):
    update = {"seed": 1, "steps": 640, "return": 21.5, "length": 21, "entropy": 0.6931, "approx_kl": np.float32(0.01), "mine": 4}
    records.scalars(1, 640, update | {"gradient_norm": math.nan, "vector": [1, 2], "note": "12", "value_loss": None})
    first, second = events(records.run_dir / "tensorboard" / "seed_1")
    assert first.file_version == "brain.Event:2"
    assert second.step == 640
    values = {value.tag: value.simple_value for value in second.summary.value}
    assert values == pytest.approx(
        {
            "time/total_timesteps": 640,
            "rollout/ep_rew_mean": 21.5,
            "rollout/ep_len_mean": 21,
            "train/entropy_loss": -0.6931,
            "train/approx_kl": 0.01,
            "custom/mine": 4,
        }
    )


def test_a_summary_writers_reader_reads_ours(records, tmp_path):
    # the same scalar through tensorboardX's own writer gives the same record, wall time apart
    import tensorboardX

    records.scalars(0, 7, {"return": 1.5})
    with tensorboardX.SummaryWriter(str(tmp_path / "theirs")) as writer:
        writer.add_scalar("rollout/ep_rew_mean", 1.5, 7)
    ours, theirs = events(records.run_dir / "tensorboard" / "seed_0")[-1], events(tmp_path / "theirs")[-1]
    assert theirs.summary.value[0] == ours.summary.value[-1]
    assert theirs.step == ours.step


def test_an_unwritable_tensorboard_path_costs_one_warning(records, warnings_seen):
    (records.run_dir / "tensorboard").write_text("in the way")
    for steps in range(3):
        records.scalars(0, steps, {"return": 1.0})
        records.updates([{"seed": 0, "steps": steps}])
    assert len(warnings_seen) == 1
    assert "TensorBoard" in warnings_seen[0]
    assert "\n" not in warnings_seen[0]
    assert load_run(records.run_dir).metrics[0]["steps"].tolist() == [0, 1, 2]
    assert records.dropped == 0


def test_tags_are_unique_and_every_metric_of_the_loop_has_one():
    loop = "return length gradient_norm entropy variance_uncentred variance_centred start_value learning_rate steps_per_second iteration"
    assert set(loop.split()) <= set(SB3_TAGS)
    assert len(set(SB3_TAGS.values())) == len(SB3_TAGS)


def test_nothing_heavy_is_imported_at_module_level():
    module = ast.parse(Path(records_module.__file__).read_text())
    names = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)]
    assert not {"jax", "tensorboardX"} & {name.split(".")[0] for name in names}
