"""How JAX runs programs, where, and that it keeps them.

Programs on the CPU run in the thread that calls them: set when this module is imported, which environments and policies do first.

What was compiled once starts in a fraction of a second the next time: JAX keeps programs (its persistent compilation cache) where it is
told a folder. `keep_programs` gives it one of the user's own, unless somebody has given one already. The environment variable
POLICYGRAD_CACHE names another folder, or says off.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache

from policygrad.errors import UnknownNameError, UsageError

DEVICES = ("auto", "cpu", "gpu")
"""Where programs run, by name."""

SHORTEST = 0.05
"""Seconds of compiling that are worth a file."""

MOST_BYTES = 2**31
"""Where the folder has grown beyond this, the files longest unused go, down to a half of it."""

# A call of a policy takes 15 µs; handing it to another thread and waking up again takes 60 more. JAX reads no environment variable for
# this, so ours, of the name that it would have, is for those who want it otherwise. Without effect once JAX has started its backend.
if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
    jax.config.update("jax_cpu_enable_async_dispatch", False)

OFF = ("off", "none", "no", "0", "")


@cache
def keep_programs() -> Path | None:
    """Lets JAX keep compiled programs on disk; the folder, or None where JAX has its own or the cache is off. Costs a millisecond, once.

    Programs of one machine may not run on another, so each kind of processor has a folder of its own: a home may be shared.
    """
    chosen = os.environ.get("POLICYGRAD_CACHE")
    theirs = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if theirs is not None or (chosen is not None and chosen.lower() in OFF):
        return None
    root = Path(chosen) if chosen else _user_cache()
    folder = root / f"jax-{jax.__version__}-{_machine()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        _prune(root)
    except OSError:  # no home, or a full or read-only disk: then every run compiles
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    # JAX looks for a folder once, at its first compilation, which may have been before
    compilation_cache.reset_cache()
    # Two runs may meet at an entry that one of them has half written; the other compiles it itself.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
    return folder


def ready() -> None:
    """What every run begins with: programs are kept, and a device that could multiply float32 matrices with 10 bits uses all 24.

    With fewer, a policy's probability in the update is not the one that it acted with, to 1e-3. Who wants that, for large networks, says so
    by JAX's own setting: JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32.
    """
    keep_programs()
    if device().platform != "cpu" and jax.config.jax_default_matmul_precision is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_default_matmul_precision", "float32")


def device() -> Any:
    """The device that programs are compiled for here and now."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.local_devices(backend=chosen)[0] if chosen is None or isinstance(chosen, str) else chosen


def cores() -> int:
    """Processor cores that this process may use."""
    with contextlib.suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_device(name: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which programs run on the first device of that kind; "auto" leaves the choice to JAX, which prefers a GPU.

    Raises:
        UsageError: another name, or JAX finds no such device.
    """
    if name not in DEVICES:
        raise UnknownNameError("device", name, DEVICES)
    if name == "auto":
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend=name)[0])
    except RuntimeError:
        install = 'pip install "policygrad[cuda]" on a machine with one, or take cpu' if name == "gpu" else "take auto"
        raise UsageError(f"device: got {name!r}, but JAX finds none ({device().platform} only); {install}") from None


P = ParamSpec("P")
R = TypeVar("R")


def placed(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the function runs `on_device` of its keyword argument `device`."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        with on_device(str(options.get("device", "auto"))):
            return function(*arguments, **options)

    return run


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("policygrad", appauthor=False)


def _machine() -> str:
    """Eight letters for the kind of processor: XLA compiles for the instructions that it finds."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        text += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _prune(root: Path) -> None:
    files = [(path, path.stat()) for path in root.rglob("*") if path.is_file()]
    total = sum(stat.st_size for _, stat in files)
    if total <= MOST_BYTES:
        return
    for path, stat in sorted(files, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
        path.unlink(missing_ok=True)
        total -= stat.st_size
        if total <= MOST_BYTES // 2:
            return
