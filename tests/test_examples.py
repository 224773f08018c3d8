"""Every example runs in its fast mode, in which it still asserts its claim, and leaves pictures worth opening."""

from __future__ import annotations

import itertools
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_claim_holds_and_pictures_are_drawn(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "pictures"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--fast", "--out", str(out)])

    runpy.run_path(str(script), run_name="__main__")

    *findings, last = capsys.readouterr().out.strip().splitlines()
    assert any(character.isdigit() for line in findings for character in line), "it tells what it found, with numbers"
    pictures = sorted(out.glob("*.png"))
    assert pictures
    assert last.startswith("figure")
    for picture in pictures:
        assert str(picture) in last, "it says where they are"
        pixels = imread(picture)[..., :3]
        assert min(pixels.shape[:2]) >= 300
        # Ink, but not all over: a blank canvas has a mean of 1 and no spread.
        assert 0.5 < pixels.mean() < 0.995
        assert pixels.std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "it writes into --out and nowhere else"


def test_there_are_examples_and_the_table_names_each() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) >= 7
    for script in SCRIPTS:
        assert f"| `{script.name}` |" in table


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_learner_can_read_it_in_one_sitting(script: Path) -> None:
    lines = script.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert f"python examples/{script.name} [--fast] [--out DIR]" in "\n".join(lines)


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.8, 1.0])
def test_the_corridors_drift_is_that_of_lambda_returns(trace: float) -> None:
    """By n-step returns and their mixture (1 − λ) Σ λ^(n−1) G^(n), which the closed form in the example nowhere uses."""
    example = runpy.run_path(str(EXAMPLES / "corridor_bias.py"))
    p, n = 0.6, 4_000
    moves = example["MOVES"]
    inside = np.einsum("a,sat->st", [1 - p, p], moves)[:, :3]
    alive = np.array(list(itertools.accumulate(range(n), lambda x, _: inside @ x, initial=np.ones(3))))  # [n, s]: still short of the goal
    powers = trace ** np.arange(n)
    weights = np.append((1 - trace) * powers[:-1], powers[-1])

    def mixed(v: float) -> tuple[np.ndarray, np.ndarray]:
        """Means of the λ-return by state, and by state and action, with the constant V."""
        bootstrapped = -np.cumsum(alive[:-1], axis=0) + v * alive[1:]  # G^(1), …, G^(n)
        ahead = np.vstack([np.full(3, v), bootstrapped[:-1]])
        return weights @ bootstrapped, -1 + moves[:, :, :3] @ (weights @ ahead)

    visits = np.linalg.solve(np.eye(3) - inside.T, [1.0, 0.0, 0.0])
    error = [visits @ (mixed(v)[0] - v) for v in (0.0, 1.0)]  # linear in v: the V that fits has none
    q = mixed(error[0] / (error[0] - error[1]))[1]
    expected = p * (1 - p) * visits @ (q[:, 1] - q[:, 0])
    assert example["drift"](p, trace) == pytest.approx(expected, rel=1e-9)
