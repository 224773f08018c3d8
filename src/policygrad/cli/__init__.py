"""THE COMMAND: `policygrad train | evaluate | plot | check-env | lab | list`.

options        a recipe's signature and docstring as flags; words as values
train_request  the command line and the configuration file of `train`, made into arguments
commands       the commands, but for the next two
check_env      `check-env`: what an environment does wrong
lab_command    `lab`: the laboratory's comparison
output         results on stdout, for people and as JSON

Exit codes: 0 · 1 `check-env` found errors · 2 anything wrong before the first step · 3 a failure after it · 130 after
Ctrl-C. Every error is one line on stderr: what · got · fix.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any

from policygrad._version import __version__
from policygrad.cli.commands import COMMANDS, FAILED, INTERRUPTED, WRONG
from policygrad.cli.output import say
from policygrad.errors import RunError, UnknownNameError, UsageError

__all__ = ["main"]

HELP = """\
usage: policygrad COMMAND ...

Policy-gradient reinforcement learning in JAX.

commands:
  train ALGORITHM         train a policy; keep it, its curves and all records
  evaluate RUN_OR_POLICY  mean return of a trained policy, with its interval
  plot RUN [RUN ...]      draw the figures of runs, or compare runs
  check-env ID            find what an environment does wrong before you train in it
  lab                     hold every estimator against the exact gradient
  list                    what there is to choose from; --tuned: measured settings

  --version               show the version
  -h, --help              show this; after a command, that command's help

examples:
  policygrad train reinforce --env CartPole-v1 --num-steps 100000
  policygrad train reinforce --help
  policygrad evaluate runs/CartPole-v1/reinforce/20250101-120000
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words behind `policygrad`; None takes those of the process.

    Returns:
        the exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an equation in the help must not fail where the terminal lacks its letters
            stream.reconfigure(errors="replace")
    try:
        return _run(words)
    except KeyboardInterrupt:
        return _end("interrupted", INTERRUPTED)
    except UsageError as error:
        return _end(f"error: {error}", WRONG)
    except RunError as error:
        return _end(f"error: {error}", FAILED)
    except MemoryError:
        return _end("error: out of memory; use fewer environments (--num-envs) or smaller networks", FAILED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _end(f"error: the system refused: got {error.strerror or error}{where}; free what is short, and run again", FAILED)
    except Exception as error:
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
            return _end("error: out of memory on the device; use fewer environments (--num-envs) or smaller networks", FAILED)
        raise


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(HELP.rstrip())
        return 0
    if words[0] == "--version":
        say(f"policygrad {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        if name.startswith("-"):
            raise UsageError(f"got {name!r} first: a command comes before its flags; write policygrad {'|'.join(COMMANDS)} ...")
        raise UnknownNameError("command", name, COMMANDS)
    command, show_help = COMMANDS[name]
    if "-h" in rest or "--help" in rest:
        say(show_help([word for word in rest if word not in ("-h", "--help")]).rstrip())
        return 0
    return command(rest)


def _end(text: Any, code: int) -> int:
    """One line on stderr, and the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print("policygrad: " + " ".join(str(text).split()), file=sys.stderr, flush=True)
    return code
