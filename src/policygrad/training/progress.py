"""How far a run is, on stderr: one live line where there is a terminal, plain lines where there is none.

    CartPole-v1 · reinforce · seed 2/5 ━━━━━━━━━━━━━╸━━━━━━━━━━━  52%  1.04M/2M steps   286k steps/s  return  412.6    0:03 left
    seed 2/5 ━━━━━━━━━━━╸━━━━━━━━  52%   286k steps/s  return  412.6    0:03 left

stdout is never touched: it belongs to results.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from policygrad.errors import UsageError

MODES = ("auto", "bar", "plain", "off")

_LINE_SECONDS = 2.0  # between plain lines, at the least
_MARK_SECONDS = 0.5  # the same at a 10 % mark
_REFRESH_HERTZ = 8
_RATE_SECONDS = 20.0  # memory of the speed that the time left is reckoned from
_LONGEST_SECONDS = 86_400 * 1_000.0
_MIN_BAR = 10  # columns
_SPARE = 3  # columns right of the line: a terminal echoes ^C there, and must not wrap


def choose_mode(requested: str = "auto") -> str:
    """How progress is shown: "bar", "plain" or "off".

    "auto" and "bar" are a bar where stderr is a terminal that can redraw a line, and plain lines elsewhere: the codes that
    redraw a line are noise in a log file.

    Raises:
        UsageError: another word.
    """
    if requested not in MODES:
        raise UsageError(f"unknown progress mode: got {requested!r}: choose one of {', '.join(MODES)}")
    if requested in ("plain", "off"):
        return requested
    try:
        terminal = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
    except (AttributeError, ValueError):  # no stderr at all, or a closed one
        terminal = False
    return "bar" if terminal else "plain"


class Progress:
    """Progress of a run over its seeds; a context manager that leaves the terminal clean whatever ends the run.

    Args:
        mode: "bar", "plain" or "off" (`choose_mode` picks one).
        total_steps: environment steps of each seed.
        seeds: the seeds, or how many there are; one after the other, or side by side.
        label: what runs, for example "CartPole-v1 · reinforce".

        with Progress(choose_mode(), 100_000, seeds=[0, 1], label="CartPole-v1 · reinforce") as progress:
            progress.update(0, steps=2048, last_return=21.5, steps_per_second=250_000)
    """

    def __init__(self, mode: str, total_steps: int, seeds: Sequence[int] | int, label: str):
        if mode not in MODES[1:]:
            raise UsageError(f"unknown progress mode: got {mode!r}: choose one of {', '.join(MODES[1:])}")
        self.mode = mode
        self.total_steps = max(1, int(total_steps))
        self.label = label
        num_seeds = seeds if isinstance(seeds, int) else len(seeds)
        self._steps = [0] * num_seeds
        self._over: set[int] = set()
        self._seed_index = 0
        self._side_by_side = False
        self._return: float | None = None
        self._rate: float | None = None
        self._clock = _Clock()
        self._live: Any = None
        self._running = False
        self._line_time = 0.0
        self._line_fraction = 0.0

    # ------------------------------------------------------------ what the loop calls

    def start(self) -> None:
        """Show that the run has begun. The first update comes after compiling, which is said meanwhile."""
        if self._running:
            return
        self._running = True
        self._clock.start()
        if self.mode == "bar":
            self._live = _open_live(self)
        elif self.mode == "plain":
            several = len(self._steps) > 1
            total = f"{_count(self.total_steps)} steps"
            self._line(f"{self.label} · " + (f"{len(self._steps)} seeds of {total}" if several else total))
            self._line_time = monotonic()

    def update(self, seed_index: int, steps: int, last_return: float | None, steps_per_second: float | None) -> None:
        """Tell how far a seed is. Cheap enough to call after every update.

        Args:
            seed_index: position of the seed among the seeds, from 0.
            steps: environment steps of that seed so far.
            last_return: mean return of its last 20 episodes; None or NaN before the first ended.
            steps_per_second: as measured; None or NaN if not yet known.
        """
        if self.mode == "off":
            return
        others = (steps for i, steps in enumerate(self._steps) if i != seed_index and i not in self._over)
        self._side_by_side = self._side_by_side or any(0 < steps < self.total_steps for steps in others)
        self._steps[seed_index] = steps
        self._seed_index = seed_index
        self._return, self._rate = _known(last_return), _known(steps_per_second)
        self._clock.tick(self.fraction, jumped=False)
        if self.mode == "plain" and self._running:
            self._maybe_line()

    def over(self, seed_index: int) -> None:
        """Tell that a seed has ended, with however many steps."""
        if self.mode == "off":
            return
        self._over.add(seed_index)
        self._clock.tick(self.fraction, jumped=True)

    def message(self, text: str) -> None:
        """Show a line above the bar. In mode "off" nothing is shown; for what must be seen there is `warn`."""
        if self.mode != "off":
            self._line(text)

    def warn(self, text: str) -> None:
        """Show a warning, in every mode."""
        self._line(f"policygrad: warning: {text}")

    def stop(self) -> None:
        """End the display: the last state stays as a line, the cursor is below it. More than once is fine."""
        if not self._running:
            return
        self._running = False
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError, ValueError):  # a terminal that went away
                live.stop()
        elif self.mode == "plain" and self._clock.ticks and self._line_fraction < self.fraction:
            self._line(self._plain_line())

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # ------------------------------------------------------------ what is known

    @property
    def fraction(self) -> float:
        """Part of the whole run that is done, in [0, 1]; a seed that stopped early, because it was solved, is done."""
        parts = [1.0 if i in self._over else min(1.0, steps / self.total_steps) for i, steps in enumerate(self._steps)]
        return sum(parts) / max(1, len(parts))

    @property
    def _seed_text(self) -> str:
        n = len(self._steps)
        if n < 2:
            return ""
        return f"{n} seeds" if self._side_by_side else f"seed {self._seed_index + 1}/{n}"

    def _seconds_left(self) -> float | None:
        left = self._clock.seconds_left(self.fraction)
        if left is None and self._rate:  # one update is no speed yet: take the loop's word
            left = (1.0 - self.fraction) * self.total_steps * len(self._steps) / self._rate
        return left if left is not None and 0.0 <= left < _LONGEST_SECONDS else None  # a run that stands still: unknown

    # ------------------------------------------------------------ plain lines

    def _maybe_line(self) -> None:
        now = monotonic()
        since, fraction = now - self._line_time, self.fraction
        at_mark = math.floor(10 * fraction + 1e-9) > math.floor(10 * self._line_fraction + 1e-9)
        # In between the gaps grow with the run, so that a day of training leaves hundreds of lines, not ten thousand.
        patience = max(_LINE_SECONDS, self._clock.seconds / 20)
        if since >= (_MARK_SECONDS if at_mark else patience):
            self._line(self._plain_line())
            self._line_time, self._line_fraction = now, fraction

    def _plain_line(self) -> str:
        parts = [
            f"{_percent(self.fraction):>4}",
            self._seed_text,
            f"{_count(self._steps[self._seed_index])}/{_count(self.total_steps)} steps",
        ]
        if self._rate is not None:
            parts.append(f"{_count(self._rate)} steps/s")
        if self._return is not None:
            parts.append(f"return {_number(self._return)}")
        left = self._seconds_left()
        if not self._running:
            parts.append(f"in {_duration(self._clock.seconds)}")
        elif left is not None and self.fraction < 1.0:
            parts.append(f"{_duration(left)} left")
        return " · ".join(part for part in parts if part)

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a log that cannot be written ends no run
            print(text if encoding.lower().startswith("utf") else _ascii(text), file=sys.stderr, flush=True)

    # ------------------------------------------------------------ the live line

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """The line as rich draws it: the most that fits, in columns of fixed width, so that nothing jumps."""
        from rich.text import Text

        width = max(1, options.max_width - _SPARE)
        head, tail, bar_width = self._layout(width)
        line = Text(no_wrap=True, overflow="crop", end="")
        line.append(head, "bold")
        fraction = self.fraction
        done_style = "green" if fraction >= 1.0 else "cyan"
        full, half, empty = ("=", "", "-") if options.ascii_only else ("━", "╸", "━")
        if console.no_color or console.color_system is None:
            empty = " "  # two shades of one line need colour
        halves = round(2 * bar_width * fraction)
        line.append(full * (halves // 2), done_style)
        used = halves // 2
        if halves % 2 and half:
            line.append(half, done_style)
            used += 1
        line.append(empty * (bar_width - used), "bright_black")
        for text, style in tail:
            line.append(text, style)
        if options.ascii_only:
            line.plain = _ascii(line.plain)
        line.truncate(width)
        yield line

    def _layout(self, width: int) -> tuple[str, list[tuple[str, str]], int]:
        """Head, styled fields and width of the bar: the first of these that leaves the bar its least width."""
        short = self.label.rsplit(" · ", 1)[-1].split(" on ", 1)[0]  # the algorithm
        fields = self._fields()
        choices = [
            ([self.label, self._seed_text], ["percent", "count", "rate", "return", "time"]),
            ([self.label, self._seed_text], ["percent", "rate", "return", "time"]),
            ([short, self._seed_text], ["percent", "rate", "return", "time"]),
            ([self._seed_text], ["percent", "rate", "return", "time"]),
            ([], ["percent", "rate", "return", "time"]),
            ([], ["percent", "return", "time"]),
            ([], ["percent", "time"]),
            ([], ["percent"]),
        ]
        head, tail, room = "", [], 0
        for heads, names in choices:
            head = " · ".join(part for part in heads if part)
            head += " " if head else ""
            tail = [span for name in names for span in fields[name]]
            room = width - len(head) - sum(len(text) for text, _ in tail)
            if room >= _MIN_BAR:
                break
        return head, tail, max(0, min(room, 40))

    def _fields(self) -> dict[str, list[tuple[str, str]]]:
        """Every field as spans of text and style, as wide for one value as for another."""
        dim = "bright_black"
        count, total = _count(self._steps[self._seed_index]), _count(self.total_steps)
        spans = {"percent": [(f" {_percent(self.fraction):>4}", "bold")], "count": [(f"  {count:>5}", ""), (f"/{total} steps", dim)]}
        if not self._clock.ticks:  # the first update comes after compiling; the columns are kept for it
            waiting = [("  compiling", dim), (f" {_duration(self._clock.seconds):<18}", "")]
            return spans | {"rate": waiting, "return": [], "time": [(" " * 13, "")]}
        rate = "–" if self._rate is None else _count(self._rate)
        value = "–" if self._return is None else _number(self._return)
        if self._running:
            left = self._seconds_left()
            clock = [(f"  {'–' if left is None else _duration(left):>6}", ""), (" left", dim)]
        else:
            clock = [("  in ", dim), (f"{_duration(self._clock.seconds):<8}", "")]
        return spans | {
            "rate": [(f"  {rate:>5}", ""), (" steps/s", dim)],
            "return": [("  return ", dim), (f"{value:>6}", "")],
            "time": clock,
        }


class _Clock:
    """Seconds since the start, and seconds left reckoned from the speed of the last twenty or so.

    Speed is that of the fraction done, so it holds whatever the loop calls a step. Time before the first tick is
    compilation and counts for nothing.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self._begin = self._tick_time = monotonic()
        self._end: float | None = None
        self._fraction = 0.0
        self._gained = self._spent = 0.0

    def start(self) -> None:
        self._begin = monotonic()

    @property
    def seconds(self) -> float:
        return monotonic() - self._begin

    def tick(self, fraction: float, jumped: bool) -> None:
        now = monotonic()
        if self.ticks and not jumped:
            spent = now - self._tick_time
            keep = math.exp(-spent / _RATE_SECONDS)
            self._gained = keep * self._gained + (fraction - self._fraction)
            self._spent = keep * self._spent + spent
        self.ticks += 1
        self._tick_time, self._fraction = now, fraction

    def seconds_left(self, fraction: float) -> float | None:
        if self._gained <= 0.0 or self._spent <= 0.0:
            return None
        since = monotonic() - self._tick_time
        left = (1.0 - fraction) * self._spent / self._gained - since
        return max(0.0, left)


def _open_live(renderable: Any) -> Any:
    from rich.console import Console
    from rich.live import Live

    live = Live(
        renderable,
        console=Console(stderr=True),
        refresh_per_second=_REFRESH_HERTZ,
        # What user code prints meanwhile goes above the bar; but a stdout that is a pipe stays a pipe.
        redirect_stdout=bool(sys.stdout is not None and sys.stdout.isatty()),
        redirect_stderr=True,
    )
    live.start(refresh=True)
    return live


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _percent(fraction: float) -> str:
    return f"{math.floor(100 * fraction + 1e-9)}%"  # never 100 before the end


def _count(value: float) -> str:
    """Three significant digits and a unit: 999, 12.3k, 1.04M."""
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        scaled = value / size
        if abs(scaled) < 999.5 or unit == "T":
            return f"{scaled:.3g}{unit}"
    raise AssertionError


def _number(value: float) -> str:
    """At most six characters for whatever scale returns have: 0.591, 41.25, −183.2, 12345, 1.2e+07."""
    size = abs(value)
    if size < 10:
        return f"{value:.3f}"
    if size < 100:
        return f"{value:.2f}"
    if size < 1_000:
        return f"{value:.1f}"
    return f"{value:.0f}" if size < 99_999.5 else f"{value:.1e}".replace("e+0", "e")


def _duration(seconds: float) -> str:
    """At most six characters: 0:03, 59:59, 1h 02m, 3d 07h."""
    whole = int(seconds + 0.5)
    if whole < 3_600:
        return f"{whole // 60}:{whole % 60:02d}"
    hours, minutes = whole // 3_600, whole // 60 % 60
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h" if hours < 2_400 else f"{hours // 24}d"


def _ascii(text: str) -> str:
    return text.translate({ord("·"): "|", ord("–"): "-", ord("…"): "...", ord("−"): "-"})
