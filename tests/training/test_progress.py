from __future__ import annotations

import ast
import io
import math
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

import policygrad.training.progress as progress_module
from policygrad.errors import UsageError
from policygrad.training.progress import Progress, choose_mode


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told."""

    class Clock:
        now = 1000.0

        def advance(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(progress_module, "monotonic", lambda: clock.now)
    return clock


def draw(progress: Progress, width: int, **kwargs) -> str:
    """The live line as a terminal of that width shows it, without its colours."""
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, **({"color_system": "standard"} | kwargs)).print(progress, end="")
    return _without_codes(file.getvalue())


def _without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


# ---------------------------------------------------------------- which mode


class _Stream(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("requested", "terminal", "term", "mode"),
    [
        ("auto", True, "xterm", "bar"),
        ("auto", False, "xterm", "plain"),
        ("auto", True, "dumb", "plain"),
        ("bar", True, "xterm", "bar"),
        ("bar", False, "xterm", "plain"),
        ("plain", True, "xterm", "plain"),
        ("off", True, "xterm", "off"),
    ],
)
def test_choose_mode(monkeypatch, requested, terminal, term, mode):
    monkeypatch.setattr("sys.stderr", _Stream(terminal))
    monkeypatch.setenv("TERM", term)
    assert choose_mode(requested) == mode


def test_choose_mode_without_a_stderr_and_with_a_wrong_word(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert choose_mode("auto") == "plain"
    with pytest.raises(UsageError, match="got 'fancy': choose one of auto, bar, plain, off"):
        choose_mode("fancy")
    with pytest.raises(UsageError, match="got 'auto'"):
        Progress("auto", 100, 1, "x")


# ---------------------------------------------------------------- plain lines


def test_plain_lines_come_at_marks_and_not_faster_than_they_can_be_read(capsys, clock):
    with Progress("plain", 1_000, [0], "CartPole-v1 · reinforce") as p:
        for steps in range(1, 1_001):
            clock.advance(0.01)
            p.update(0, steps, 20.0, 100.0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "CartPole-v1 · reinforce · 1k steps"
    assert [line.split("%")[0].strip() for line in lines[1:]] == [str(k) for k in range(10, 101, 10)]
    assert lines[3] == " 30% · 300/1k steps · 100 steps/s · return 20.00 · 0:07 left"
    assert "\x1b" not in err
    assert "\r" not in err


def test_plain_lines_of_a_slow_run_come_every_two_seconds_and_then_seldom(capsys, clock):
    with Progress("plain", 10**9, [0], "slow") as p:
        for steps in range(80):  # 10 s, far from the first mark
            clock.advance(0.125)
            p.update(0, steps, 20.0, 10.0)
        assert len(capsys.readouterr().err.splitlines()) == 1 + 5
        clock.advance(36_000)
        for _ in range(36_000):
            clock.advance(1)
            p.update(0, 101, 20.0, 10.0)
        assert 5 <= len(capsys.readouterr().err.splitlines()) <= 20


def test_plain_lines_of_a_run_that_is_over_at_once(capsys, clock):
    with Progress("plain", 1_000, [0], "fast") as p:
        for steps in range(100, 1_001, 100):
            clock.advance(0.001)
            p.update(0, steps, None, math.nan)
    assert capsys.readouterr().err.splitlines() == ["fast · 1k steps", "100% · 1k/1k steps · in 0:00"]


def test_plain_lines_name_the_seed(capsys, clock):
    with Progress("plain", 10_000, range(5), "x") as p:
        for seed in range(2):
            clock.advance(1)
            p.update(seed, 10_000, 1.5, 1e6)
    assert capsys.readouterr().err.splitlines() == [
        "x · 5 seeds of 10k steps",
        " 20% · seed 1/5 · 10k/10k steps · 1M steps/s · return 1.500 · 0:00 left",
        " 40% · seed 2/5 · 10k/10k steps · 1M steps/s · return 1.500 · 0:03 left",
    ]


def test_off_is_silent_but_for_warnings(capsys):
    with Progress("off", 100, 1, "x") as p:
        p.update(0, 50, 1.0, 1.0)
        p.message("a compiled twin is used")
        p.warn("the disk is full")
    assert capsys.readouterr() == ("", "policygrad: warning: the disk is full\n")


def test_messages_without_a_bar(capsys):
    p = Progress("plain", 100, 1, "x")
    p.message("before")
    assert capsys.readouterr().err == "before\n"


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    with Progress("plain", 100, 1, "x") as p:
        p.update(0, 100, 1.0, 1.0)
        p.warn("x")
    monkeypatch.setattr("sys.stderr", None)
    p.warn("x")


def test_a_log_that_is_not_unicode_gets_ascii(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, encoding="ascii", errors="strict", write_through=True))
    with Progress("plain", 100, 1, "CartPole-v1 · ppo"):
        pass
    assert raw.getvalue() == b"CartPole-v1 | ppo | 100 steps\n"


# ---------------------------------------------------------------- how far it is


def test_seeds_one_after_the_other_that_stop_early_are_done():
    p = Progress("plain", 100, 4, "x")
    for steps in (10, 20, 30):
        p.update(0, steps, 1.0, 1.0)
    assert p.fraction == pytest.approx(0.3 / 4)
    p.over(0)
    assert p.fraction == pytest.approx(1 / 4)
    p.update(1, 50, 1.0, 1.0)
    assert p.fraction == pytest.approx(1.5 / 4)
    assert "seed 2/4" in draw(p, 200)
    p.update(1, 120, 1.0, 1.0)  # the last iteration may overshoot
    assert p.fraction == pytest.approx(2 / 4)


def test_seeds_side_by_side_count_their_own_steps():
    p = Progress("plain", 100, 4, "x")
    for steps in (10, 20, 30):
        for seed in range(4):
            p.update(seed, steps, 1.0, 1.0)
            assert p.fraction <= steps / 100 + 1e-12
    assert p.fraction == pytest.approx(0.3)
    assert "4 seeds" in draw(p, 200)
    p.over(1)
    assert p.fraction == pytest.approx(1.9 / 4)


def test_time_left_leaves_compilation_out(clock):
    p = Progress("bar", 1_000, 1, "x")
    p._running = True
    clock.advance(60)  # compiling
    p.update(0, 100, 1.0, None)
    assert p._seconds_left() is None
    clock.advance(1)
    p.update(0, 200, 1.0, None)
    assert p._seconds_left() == pytest.approx(8.0)
    clock.advance(3)  # it counts down between updates too
    assert p._seconds_left() == pytest.approx(5.0)


def test_time_left_follows_a_change_of_speed_and_ignores_a_seed_that_stopped_early(clock):
    p = Progress("bar", 1_000, 2, "x")
    for steps in range(0, 500, 10):
        clock.advance(1)
        p.update(0, steps, 1.0, None)
    clock.advance(1)
    p.over(0)
    p.update(1, 0, 1.0, None)  # seed 0 was solved: the fraction jumps, the speed does not
    assert p.fraction == 0.5
    assert p._seconds_left() == pytest.approx(100.0)
    for steps in range(20, 800, 20):
        clock.advance(1)
        p.update(1, steps, 1.0, None)
    assert p._seconds_left() == pytest.approx((1_000 - 780) / 20, rel=0.2)


def test_before_two_updates_the_loops_own_speed_is_taken():
    p = Progress("bar", 1_000, 3, "x")
    p.update(0, 500, None, 250.0)
    assert p._seconds_left() == pytest.approx(2_500 / 250, rel=1e-3)


# ---------------------------------------------------------------- the live line


@pytest.fixture
def running(clock) -> Progress:
    p = Progress("bar", 2_000_000, 5, "CartPole-v1 · reinforce")
    p._running = True
    for steps in (0, 500_000, 1_040_000):
        clock.advance(2)
        p.update(1, steps, 412.6, 286_400.0)
    return p


def test_the_line_says_everything_where_there_is_room(running):
    line = draw(running, 140)
    for part in ("CartPole-v1 · reinforce · seed 2/5", "10%", "1.04M/2M steps", "286k steps/s", "return  412.6", "left"):
        assert part in line


def test_at_eighty_columns_the_important_things_stay(running):
    line = draw(running, 80)
    assert line.startswith("seed 2/5 ━")
    for part in ("10%", "286k steps/s", "return  412.6", "0:34 left"):
        assert part in line
    assert line.count("━") + line.count("╸") >= 10


@pytest.mark.parametrize("width", [1, 5, 20, 33, 40, 60, 79, 80, 81, 100, 200])
def test_the_line_never_wraps(running, width):
    line = draw(running, width)
    assert "\n" not in line
    assert len(line) <= max(1, width - 3)


def test_columns_keep_their_places(clock):
    p = Progress("bar", 2_000_000, 1, "CartPole-v1 · reinforce")
    p._running = True
    places = set()
    for steps, value, rate in [(0, None, None), (999, 9.0, 999), (150_000, -183.25, 12_345.0), (1_999_999, 12_345.6, 1.2e6)]:
        clock.advance(7)
        line = draw(p, 100)  # the first time: compiling
        p.update(0, steps, value, rate)
        line = draw(p, 100)
        places.add((line.index("%"), line.index(" steps/s"), line.index("return"), line.index(" left")))
    assert len(places) == 1


def test_compiling_is_said_before_the_first_update(clock):
    p = Progress("bar", 100, 1, "CartPole-v1 · reinforce")
    p._clock.start()
    clock.advance(3)
    line = draw(p, 80)
    assert "compiling 0:03" in line
    assert line.startswith("reinforce ")  # the same layout as afterwards


def test_terminals_without_colour_or_unicode(running):
    line = draw(running, 100, color_system=None)
    assert line.count("━") in range(1, 10)  # what is not done yet is blank: two shades of one line need colour

    class Ascii(io.StringIO):
        encoding = "ascii"

    file = Ascii()
    Console(file=file, width=140, force_terminal=True, color_system="standard").print(running, end="")
    assert _without_codes(file.getvalue()).isascii()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.59123, "0.591"), (-0.5, "-0.500"), (41.254, "41.25"), (-183.24, "-183.2"), (500, "500.0"), (12345.6, "12346"), (1.2345e7, "1.2e7")],
)
def test_returns_of_every_scale_fit(value, text):
    assert progress_module._number(value) == text
    assert len(text) <= 6


def test_counts_and_durations():
    counts = {0: "0", 999: "999", 1000: "1k", 12_345: "12.3k", 999_600: "1M", 1_040_000: "1.04M", 2.5e9: "2.5G"}
    assert {n: progress_module._count(n) for n in counts} == counts
    durations = {0: "0:00", 59.6: "1:00", 3_599: "59:59", 3_600: "1h 00m", 3_725: "1h 02m", 100_000: "1d 03h", 86_400 * 500: "500d"}
    assert {s: progress_module._duration(s) for s in durations} == durations


# ---------------------------------------------------------------- a real terminal


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_terminal_is_left_clean(monkeypatch, error):
    master, slave = os.openpty()
    collected = bytearray()

    def drain():  # a terminal is a pipe with a small buffer: somebody has to read
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                return
            if not data:
                return
            collected.extend(data)

    reader = threading.Thread(target=drain)
    reader.start()
    terminal = os.fdopen(slave, "w", encoding="utf-8")
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    threads = threading.active_count()

    def loop():
        with Progress(choose_mode("auto"), 100, 1, "label") as p:
            p.update(0, 40, 7.0, 10.0)
            p.message("a message [with brackets]")
            p.update(0, 100, 8.0, 10.0)
            if error:
                raise error
        p.stop()

    try:
        if error:
            with pytest.raises(error):
                loop()
        else:
            loop()
        for _ in range(200):  # rich tells its thread to end and does not wait
            if threading.active_count() == threads:
                break
            time.sleep(0.01)
        assert threading.active_count() == threads
        assert sys.stderr is terminal
    finally:
        terminal.close()
        reader.join(timeout=5)
        os.close(master)
    text = collected.decode()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again
    assert "a message [with brackets]\r\n" in text
    assert "100%" in text
    assert _without_codes(text).rstrip("\r\n") != _without_codes(text)  # and stands below the last line


def test_rich_is_not_imported_at_module_level():
    module = ast.parse(Path(progress_module.__file__).read_text())
    names = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)]
    assert not {"jax", "rich"} & {name.split(".")[0] for name in names}
