"""What a run leaves on disk, and how to read it back.

    RUN/
      config.json        what was asked for, with versions
      metrics.jsonl      one line an update: seed, iteration, steps, return, length, gradient_norm, entropy, …
      episodes.csv       one line an episode: seed,episode,steps,return,length
      evaluations.csv    one line an episode of the evaluations during training, if there were any: seed,steps,return,length
      tensorboard/       seed_<s>/events…, tags named as Stable-Baselines3 names them
      policy_<s>.safetensors, best_policy_<s>.safetensors, result.json, figures/      written when the run and its pictures are done

Every line is on its way to the disk when the call that wrote it returns, so a run that is killed keeps everything so far. Before
the first step a directory that cannot be used is an `OutputError`; after it nothing here ends a run: a disk that fails
costs one warning and the records that it refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policygrad.errors import OutputError, UsageError

CONFIG, METRICS, EPISODES, RESULT, TENSORBOARD = "config.json", "metrics.jsonl", "episodes.csv", "result.json", "tensorboard"
EVALUATIONS = "evaluations.csv"

EPISODE_DTYPE = np.dtype([("episode", np.int64), ("steps", np.int64), ("return", np.float64), ("length", np.int64)])
"""One row of episodes.csv; `steps` are those of all environments together at the episode's end."""

EVALUATION_DTYPE = np.dtype([("steps", np.int64), ("return", np.float64), ("length", np.int64)])
"""One row of evaluations.csv, an episode; `steps` are those of all environments together when the policy was evaluated."""

_EPISODES_HEADER = "seed,episode,steps,return,length\n"
_EVALUATIONS_HEADER = "seed,steps,return,length\n"

SB3_TAGS = {
    "return": "rollout/ep_rew_mean",
    "length": "rollout/ep_len_mean",
    "start_value": "rollout/start_value",
    "evaluation_return": "eval/mean_reward",
    "evaluation_length": "eval/mean_ep_length",
    "steps_per_second": "time/fps",
    "iteration": "time/iterations",
    "entropy": "train/entropy_loss",
    "learning_rate": "train/learning_rate",
    "loss": "train/loss",
    "policy_loss": "train/policy_gradient_loss",
    "value_loss": "train/value_loss",
    "explained_variance": "train/explained_variance",
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "gradient_norm": "train/gradient_norm",
    "variance_uncentred": "train/variance_uncentred",
    "variance_centred": "train/variance_centred",
    "mean_square_uncentred": "train/mean_square_uncentred",
    "mean_square_centred": "train/mean_square_centred",
    "effective_sample_size": "train/effective_sample_size",
    "gradient_variance": "train/gradient_variance",
    "gradient_signal": "train/gradient_signal",
    "gradient_snr": "train/gradient_snr",
    "gradient_noise_scale": "train/gradient_noise_scale",
    "half_batch_cosine": "train/half_batch_cosine",
    "exact_cosine": "train/exact_cosine",
}
"""Our metric's name → TensorBoard tag, Stable-Baselines3's where it has one. Any other metric goes under custom/."""


def default_run_dir(env: str, algorithm: str) -> Path:
    """A run directory that is not there yet: runs/<env>/<algorithm>/<YYYYMMDD-HHMMSS>, or the same with -1, -2, ….

    Nothing is created. Two processes that ask in the same second get the same answer; `Records(..., unique=True)` settles
    who has it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return _first_free(Path("runs") / _as_file_name(env) / _as_file_name(algorithm) / stamp)


class Records:
    """Writes a run's records. With `run_dir=None` every method does nothing.

    Args:
        run_dir: the directory itself, new or empty; parents are made.
        seeds: of the run; each has its own TensorBoard folder.
        warn: takes one line of text when something cannot be written; default: a line on stderr.
        unique: where `run_dir` is taken, use run_dir-1, run_dir-2, … instead (for names that we chose).

    Attributes:
        run_dir: where the records are, or None.
        seeds: as given.
        dropped: updates and episodes that the disk refused.

    Raises:
        OutputError: the directory cannot be made or written, or is not empty. Nothing half-made is left.
    """

    def __init__(
        self, run_dir: Path | str | None, seeds: Iterable[int], *, warn: Callable[[str], None] | None = None, unique: bool = False
    ):
        self.run_dir: Path | None = None
        self.seeds = tuple(int(seed) for seed in seeds)
        self.dropped = 0
        self._warn = warn if warn is not None else _to_stderr
        self._warned: set[str] = set()
        self._metrics: _Appender | None = None
        self._episodes: _Appender | None = None
        self._evaluations: _Appender | None = None
        self._events: _EventFiles | None = None
        self._made: list[Path] = []
        if run_dir is None:
            return
        wanted = run_dir = Path(run_dir)
        while True:
            try:
                self._create(run_dir)
                break
            except OutputError as error:
                if not unique or not isinstance(error.__cause__, FileExistsError):
                    raise
                run_dir = _first_free(wanted)
        try:
            self._events = _EventFiles(run_dir / TENSORBOARD)
        except Exception as error:  # missing, or built for another protobuf, which shows as almost anything
            self._tensorboard_off(str(error))

    def _create(self, run_dir: Path) -> None:
        try:
            missing = [d for d in (run_dir, *run_dir.parents) if not d.exists()]
            for directory in reversed(missing):
                self._make_directory(directory)
            if not run_dir.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file")
            if os.listdir(run_dir):
                raise FileExistsError(errno.EEXIST, "not empty")
            self._metrics = self._make_file(run_dir / METRICS)
            self._episodes = self._make_file(run_dir / EPISODES)
            self._episodes.append(_EPISODES_HEADER)
        except OSError as error:
            self.discard()
            raise _output_error(run_dir, error) from error
        self.run_dir = run_dir

    def _make_directory(self, path: Path) -> None:
        try:
            path.mkdir()
        except FileExistsError:  # another run made it just now: then it is theirs to take away
            if not path.is_dir():
                raise
        else:
            self._made.append(path)

    def _make_file(self, path: Path) -> _Appender:
        # "x": of two runs that found the directory empty, one loses here instead of mixing its lines in
        file = _Appender(path, "xb")
        self._made.append(path)
        return file

    def discard(self) -> None:
        """Take away what was made, for a run that fails before its first step; afterwards every method does nothing.

        Does nothing once an update or an episode was recorded, and never removes a file that it did not make.
        """
        if not self._made:
            return
        self.close()
        self.run_dir = None
        for path in reversed(self._made):
            try:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                break  # it holds somebody else's file, and so do its parents
        self._made = []

    # ------------------------------------------------------------ before the first step, and after the last

    def config(self, config: Mapping[str, Any]) -> None:
        """Write config.json: a mapping of anything; what JSON does not know is written as its text.

        Raises:
            OutputError: it cannot be written, and nothing was recorded yet: the directory is taken away again.
        """
        run_dir = self.run_dir
        if run_dir is None:
            return
        try:
            _write_json(run_dir / CONFIG, config)
        except OSError as error:
            if not self._made:
                return self._warn_once(CONFIG, f"{run_dir / CONFIG} was not written: {_reason(error)}: training goes on without it")
            self.discard()
            raise _output_error(run_dir, error) from error
        if self._made:
            self._made.append(run_dir / CONFIG)

    def result(self, result: Mapping[str, Any]) -> None:
        """Write result.json, the object that `--json` prints. A disk that fails costs a warning."""
        if self.run_dir is None:
            return
        self._made = []
        try:
            _write_json(self.run_dir / RESULT, result)
        except OSError as error:
            self._warn_once(RESULT, f"{self.run_dir / RESULT} was not written: {_reason(error)}: the result is lost on disk")

    # ------------------------------------------------------------ while it runs

    def updates(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append one line an update to metrics.jsonl.

        Lines are strict JSON: NaN and infinities become null. Floats carry six significant digits, integers all of
        theirs.
        """
        if self._metrics is None or not records:
            return
        self._append(self._metrics, [_json_line(record) for record in records])

    def episodes(self, seed: int, first_index: int, returns: ArrayLike, lengths: ArrayLike, ends: ArrayLike) -> None:
        """Append episodes of one seed to episodes.csv, in the order in which they ended.

        Args:
            seed: whose they are.
            first_index: number of the first of them in its seed, from 0.
            returns: [E] undiscounted.
            lengths: [E] steps.
            ends: [E] steps of all environments at the episode's end.
        """
        if self._episodes is None:
            return
        columns = [np.asarray(column).ravel().tolist() for column in (returns, lengths, ends)]
        rows = zip(*columns, strict=True)
        seed = int(seed)
        lines = [f"{seed},{i},{int(end)},{value:.9g},{int(length)}\n" for i, (value, length, end) in enumerate(rows, int(first_index))]
        if lines:
            self._append(self._episodes, lines)

    def evaluation(self, seed: int, steps: int, returns: ArrayLike, lengths: ArrayLike) -> None:
        """Append the episodes of one evaluation to evaluations.csv, which the first one makes; and its means for TensorBoard.

        Args:
            seed: whose policy it was.
            steps: of all environments when it was evaluated.
            returns: [E] undiscounted.
            lengths: [E] steps.
        """
        if self.run_dir is None:
            return
        if self._evaluations is None:
            try:
                self._evaluations = _Appender(self.run_dir / EVALUATIONS, "ab")
                self._evaluations.append(_EVALUATIONS_HEADER)
            except OSError as error:
                self._evaluations = None
                path = self.run_dir / EVALUATIONS
                self._warn_once(EVALUATIONS, f"{path} cannot be written: {_reason(error)}: training goes on without these records")
        values, steps_each = np.asarray(returns, np.float64).ravel(), np.asarray(lengths).ravel()
        if self._evaluations is not None:
            rows = zip(values.tolist(), steps_each.tolist(), strict=True)
            self._append(self._evaluations, [f"{int(seed)},{int(steps)},{value:.9g},{int(length)}\n" for value, length in rows])
        self.scalars(seed, steps, {"evaluation_return": float(values.mean()), "evaluation_length": float(steps_each.mean())})

    def scalars(self, seed: int, steps: int, values: Mapping[str, Any]) -> None:
        """Write one update's metrics for TensorBoard, under Stable-Baselines3's names.

        Args:
            seed: selects the folder tensorboard/seed_<seed>.
            steps: environment steps so far: the x axis.
            values: by our names; those that are not finite numbers are left out.
        """
        if self._events is None:
            return
        self._made = []
        try:
            self._events.write(int(seed), int(steps), values)
        except (OSError, TypeError, ValueError) as error:
            self._tensorboard_off(_reason(error) if isinstance(error, OSError) else str(error))

    def close(self) -> None:
        """Close the files. More than once is fine; records after it are ignored."""
        for file in (self._metrics, self._episodes, self._evaluations, self._events):
            if file is not None:
                file.close()
        self._metrics = self._episodes = self._evaluations = self._events = None

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ------------------------------------------------------------ when the disk fails

    def _append(self, appender: _Appender, lines: list[str]) -> None:
        self._made = []  # from here on the run has something to keep
        try:
            appender.append("".join(lines))
        except OSError as error:
            self.dropped += len(lines)
            name = appender.path.name
            self._warn_once(name, f"{appender.path} cannot be written: {_reason(error)}: training goes on without these records")

    def _tensorboard_off(self, reason: str) -> None:
        if self._events is not None:
            self._events.close()
        self._events = None
        self._warn_once(TENSORBOARD, f"TensorBoard scalars cannot be written: {reason}: training goes on without them")

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._warn(text)


# ---------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class RunRecords:
    """A run read back from its directory.

    Attributes:
        run_dir: where it was read.
        config: what config.json holds.
        metrics: by seed, by name, float64 [U]: one element an update, NaN where the line had null, no number or no entry.
        episodes: by seed, a structured array [E] with the fields episode, steps, return, length (`EPISODE_DTYPE`).
        policies: by seed, the policy file.
        result: what result.json holds; empty if the run did not end.
        evaluations: by seed, a structured array [E] with the fields steps, return, length (`EVALUATION_DTYPE`), one row an episode
            of the evaluations during training.
        best_policies: by seed, the file of the policy of its best evaluation.
        skipped: lines of metrics and episodes that could not be read (a killed run may leave half a line).
    """

    run_dir: Path
    config: dict[str, Any]
    metrics: dict[int, dict[str, NDArray[np.float64]]]
    episodes: dict[int, NDArray[Any]]
    policies: dict[int, Path]
    result: dict[str, Any]
    skipped: int = 0
    evaluations: dict[int, NDArray[Any]] = dataclasses.field(default_factory=dict)
    best_policies: dict[int, Path] = dataclasses.field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Every seed that left an update or an episode, in increasing order."""
        return sorted(set(self.metrics) | set(self.episodes))


def load_run(run_dir: Path | str) -> RunRecords:
    """Read a run directory, of a run that ended, was killed, or is still going.

    Raises:
        UsageError: there is no such directory, or no run wrote it.
    """
    run_dir = Path(run_dir)
    hint = "give a run directory, as `policygrad train` prints it"
    if not run_dir.is_dir():
        raise UsageError(f"no run directory {str(run_dir)!r}: got {'a file' if run_dir.exists() else 'nothing there'}: {hint}")
    try:
        config = json.loads((run_dir / CONFIG).read_text("utf-8"))
        metrics_text = (run_dir / METRICS).read_text("utf-8", "replace")
        episodes_text, evaluations_text = (
            file.read_text("utf-8", "replace") if file.exists() else "" for file in (run_dir / EPISODES, run_dir / EVALUATIONS)
        )
    except FileNotFoundError as error:
        raise UsageError(f"{str(run_dir)!r} is not a run directory: got no {Path(error.filename).name} in it: {hint}") from None
    except (OSError, ValueError) as error:
        reason = _reason(error) if isinstance(error, OSError) else f"{CONFIG} is damaged ({error})"
        raise UsageError(f"{str(run_dir)!r} cannot be read: {reason}: {hint}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{str(run_dir)!r} is not a run directory: got a {type(config).__name__} in {CONFIG}: {hint}")
    try:
        result = json.loads((run_dir / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        result = {}
    metrics, bad_updates = _read_metrics(metrics_text)
    episodes, bad_episodes = _read_table(episodes_text, EPISODE_DTYPE)
    evaluations, bad_evaluations = _read_table(evaluations_text, EVALUATION_DTYPE)
    return RunRecords(
        run_dir,
        config,
        metrics,
        episodes,
        _policy_files(run_dir, "policy"),
        result if isinstance(result, dict) else {},
        bad_updates + bad_episodes + bad_evaluations,
        evaluations,
        _policy_files(run_dir, "best_policy"),
    )


def _policy_files(run_dir: Path, name: str) -> dict[int, Path]:
    """<name>_<seed>.safetensors, by seed."""
    matches = [(re.fullmatch(rf"{name}_(\d+)\.safetensors", path.name), path) for path in sorted(run_dir.glob(f"{name}_*.safetensors"))]
    return {int(match[1]): path for match, path in matches if match}


def _read_metrics(text: str) -> tuple[dict[int, dict[str, NDArray[np.float64]]], int]:
    rows: dict[int, list[dict[str, Any]]] = {}
    skipped = 0
    for line in text.split("\n"):
        if not line:
            continue
        try:
            row = json.loads(line)
            rows.setdefault(int(row["seed"]), []).append(row)
        except (ValueError, KeyError, TypeError):
            skipped += 1
    metrics = {}
    for seed, of_seed in rows.items():
        names = dict.fromkeys(name for row in of_seed for name in row if name != "seed")
        metrics[seed] = {name: np.array([_as_float(row.get(name)) for row in of_seed]) for name in names}
    return metrics, skipped


def _read_table(text: str, dtype: np.dtype) -> tuple[dict[int, NDArray[Any]], int]:
    """Rows of a seed and the fields of `dtype`, by seed; and how many lines were no such rows."""
    rows: dict[int, list[tuple[Any, ...]]] = {}
    kinds = [float if dtype[name].kind == "f" else int for name in dtype.names or ()]
    skipped = 0
    # Half a number is a number too: a last line without its end cannot be trusted.
    *lines, rest = text.split("\n")
    for line in lines[1:]:
        try:
            seed, *values = line.split(",")
            row = tuple(kind(value) for kind, value in zip(kinds, values, strict=True))
            rows.setdefault(int(seed), []).append(row)
        except ValueError:
            skipped += 1
    return {seed: np.array(of_seed, dtype) for seed, of_seed in rows.items()}, skipped + bool(rest)


def _as_float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


# ---------------------------------------------------------------- text


def _json_line(record: Mapping[str, Any]) -> str:
    return "{" + ", ".join([f"{_quoted(name)}: {_json_text(value)}" for name, value in record.items()]) + "}\n"


def _json_text(value: Any) -> str:
    """Strict, compact JSON of one value. (The built-in encoder writes NaN, and seventeen digits of every float.)"""
    kind = type(value)
    if kind is float:
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:.0f}"  # a count of steps that came as a float keeps all its digits
        return f"{value:.6g}" if math.isfinite(value) else "null"
    if kind is int:
        return str(value)
    if kind is str:
        return _quoted(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return _json_line({str(k): v for k, v in value.items()})[:-1]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join([_json_text(v) for v in value]) + "]"
    plain = _plain(value)
    return _json_text(plain) if type(plain) is not kind else _quoted(str(value))


_QUOTED: dict[str, str] = {}


def _quoted(text: str) -> str:
    if len(_QUOTED) > 1_000:  # metric names repeat; a custom metric's text may not
        _QUOTED.clear()
    quoted = _QUOTED.get(text)
    if quoted is None:
        quoted = _QUOTED[text] = json.dumps(str(text), ensure_ascii=False)
    return quoted


def _plain(value: Any) -> Any:
    """The Python value of a NumPy or JAX scalar or array, a path, a dataclass; text for anything else."""
    if hasattr(value, "tolist"):
        try:
            return value.tolist()
        except Exception:  # an array type whose contents have no Python value (typed PRNG keys) is written as its text
            return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for kind in (int, float, str):
        if isinstance(value, kind):  # enumerations
            return kind(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def _strict(value: Any) -> Any:
    """The same tree with nothing in it that strict JSON cannot hold."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _strict(value._asdict())  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    return _strict(_plain(value))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    whole = path.with_name(path.name + ".part")
    try:
        whole.write_text(text, "utf-8")
        os.replace(whole, path)  # a reader sees the old file or the new one, never half of one
    except OSError:
        whole.unlink(missing_ok=True)
        raise


def _as_file_name(name: str) -> str:
    """A name that every file system takes: ALE/Pong-v5 → ALE-Pong-v5."""
    cleaned = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
    return cleaned[:80] or "unnamed"


def _first_free(path: Path) -> Path:
    free, k = path, 0
    while free.exists() or free.is_symlink():
        k += 1
        free = path.with_name(f"{path.name}-{k}")
    return free


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _output_error(run_dir: Path, error: OSError) -> OutputError:
    name = str(run_dir)
    if isinstance(error, FileExistsError) and run_dir.is_dir():
        entries = sorted(os.listdir(run_dir))
        shown = ", ".join(entries[:3]) + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")
        return OutputError(f"output directory {name!r} is not empty: got {shown}: name a new directory, or empty this one")
    return OutputError(f"output directory {name!r} cannot be written: got {_reason(error)}: name another directory")


def _to_stderr(text: str) -> None:
    print(f"policygrad: warning: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- files


class _Appender:
    """A file that only grows, by whole lines, and hands each to the operating system at once."""

    def __init__(self, path: Path, mode: str):
        self.path = path
        self._file = open(path, mode, buffering=0)  # noqa: SIM115
        self._size = 0

    def append(self, text: str) -> None:
        data = memoryview(text.encode("utf-8"))
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError:
            if written:  # a full disk can take part of a line: take it back, so that every line left is a whole one
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += written

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _EventFiles:
    """TensorBoard event files, one a seed.

    tensorboardX supplies the messages and the checksum. Its `SummaryWriter` is passed over: it writes from a thread, where
    a failing disk cannot be caught, keeps up to two minutes in memory, and spends a record on every scalar.
    """

    def __init__(self, folder: Path):
        # Imported when a run begins, not at its first update: 0.2 s that would count as the run's own time.
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.record_writer import masked_crc32c

        self._folder = folder
        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        self._files: dict[int, Any] = {}

    def write(self, seed: int, steps: int, values: Mapping[str, Any]) -> None:
        points = [self._summary.Value(tag="time/total_timesteps", simple_value=float(steps))]
        for name, value in values.items():
            if name in ("seed", "steps") or isinstance(value, (str, bytes)) or value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue  # a vector: metrics.jsonl has it
            if math.isfinite(number):
                sign = -1.0 if name == "entropy" else 1.0  # theirs is a loss
                points.append(self._summary.Value(tag=SB3_TAGS.get(name, f"custom/{name}"), simple_value=sign * number))
        self._write(self._file(seed), self._event(wall_time=time.time(), step=steps, summary=self._summary(value=points)))

    def _file(self, seed: int) -> Any:
        file = self._files.get(seed)
        if file is None:
            folder = self._folder / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            now = time.time()
            name = f"events.out.tfevents.{int(now)}.policygrad.{os.getpid()}.{seed}"
            file = self._files[seed] = open(folder / name, "ab", buffering=0)  # noqa: SIM115
            self._write(file, self._event(wall_time=now, file_version="brain.Event:2"))
        return file

    def _write(self, file: Any, event: Any) -> None:
        data = event.SerializeToString()
        header = struct.pack("<Q", len(data))
        record = header + struct.pack("<I", self._checksum(header)) + data + struct.pack("<I", self._checksum(data))
        if file.write(record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}
