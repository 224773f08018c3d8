"""What every test may count on: the CPU, a compilation cache that outlives the run, strict broadcasting.

Set through the environment as well, before JAX is imported, so that commands started by tests inherit it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "jax"

# Compiling is most of what tests do, and unoptimised programs, which compute the same to rounding, compile four times as fast. Whoever
# sets XLA_FLAGS, to nothing as `make nightly` does, tests the programs that users have.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_COMPILATION_CACHE_DIR=str(CACHE),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",  # many small programs: together they are what tests wait for
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    JAX_NUMPY_RANK_PROMOTION="raise",  # [T, B] with [B] must be written out: silent broadcasting hides mistakes
    MPLBACKEND="agg",
    # pyproject.toml says why, for this process; this is for commands that tests start
    PYTHONWARNINGS="ignore:Error reading persistent compilation cache entry:UserWarning,"
    "ignore:Error writing persistent compilation cache entry:UserWarning",
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# A plugin may have imported JAX before this file could speak.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling makes the first example slow, so no deadline; the same examples on every machine, so no database.
hypothesis.settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=30,
    # `x64` is a scope around all examples of a test, not a state that one example leaves to the next.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("nightly", hypothesis.settings.get_profile("quick"), max_examples=500)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Compiled programs are kept for the length of a process; a worker would end with gigabytes of them."""
    yield
    if _memory() > 1.5e9:
        jax.clear_caches()
        gc.collect()


def _memory() -> float:
    """Resident, in bytes; where the system does not tell, 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * float(os.sysconf("SC_PAGE_SIZE"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for the length of a test: proofs against exact numbers are made in it."""
    with jax.enable_x64(True):
        yield
