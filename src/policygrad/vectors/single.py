"""One Gymnasium environment, made; what goes wrong in its construction told in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from policygrad.errors import UsageError


def made(name: str, single: Callable[[], Any]) -> Any:
    """The first environment, with faults of its construction told in one line."""
    import gymnasium

    try:
        env = single()
        missing = [part for part in ("observation_space", "action_space", "reset", "step") if not hasattr(env, part)]
        if missing:
            raise UsageError(f"environment {name}: got {type(env).__name__} without {missing[0]}; a Gymnasium environment must be made")
        return env
    except TypeError as error:
        raise UsageError(f"environment {name} does not take these arguments: {first_line(error)}") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        if "mujoco" in str(error).lower() and importlib.util.find_spec("mujoco") is None:
            # Gymnasium's own line names its own extra, which does not bound the version.
            raise UsageError(f'environment {name} needs MuJoCo: got none installed; pip install "policygrad[mujoco]"') from error
        raise UsageError(f"environment {name} needs a package that is not installed: {first_line(error)}") from error
    except UsageError:
        raise
    except Exception as error:  # whatever the environment's own code raises while it is made
        raise UsageError(f"environment {name} could not be made: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Of an error's message; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
