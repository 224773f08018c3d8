from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from policygrad.errors import UsageError
from policygrad.report import heatmap


def grey(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float64)


def test_dark_is_probable(tmp_path):
    # the same table with the probable action left and right: the dark half changes sides
    darkness = []
    for table in ([[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4):
        path = heatmap(np.array(table), tmp_path / "sub" / "h.png", "title")
        image = grey(path)
        middle = image[image.shape[0] // 3 : 2 * image.shape[0] // 3]
        quarter = image.shape[1] // 4
        darkness.append(255 - middle[:, quarter // 2 + 20 : 2 * quarter].mean())
    assert darkness[0] > darkness[1] + 50


@pytest.mark.parametrize("shape", [(1, 1), (500, 6), (2, 64)])
def test_tables_of_every_size(tmp_path, shape):
    table = np.random.default_rng(0).dirichlet(np.ones(shape[1]), size=shape[0])
    with Image.open(heatmap(table, tmp_path / "h.png", "A title")) as image:
        width, height = image.size
    assert 500 <= width <= 1800
    assert 350 <= height <= 1400


def test_labels_and_panels(tmp_path):
    table = np.full((3, 2), 0.5)
    path = heatmap({"seed 0": table, "seed 1": table}, tmp_path / "h.png", "t", ["left", "right"], ["a", "b", "the last state"])
    assert path.exists()
    with pytest.raises(UsageError, match="one label for each action: got 1 for 2"):
        heatmap(table, path, "t", ["left"])
    with pytest.raises(UsageError, match="one label for each state: got 2 for 3"):
        heatmap(table, path, "t", None, ["a", "b"])


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 0)), np.zeros((2, 2, 2)), {}, {"a": np.zeros((2, 2)), "b": np.zeros((2, 3))}])
def test_what_is_no_table_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=r"\[states, actions\]"):
        heatmap(wrong, tmp_path / "h.png", "t")
    assert list(tmp_path.iterdir()) == []
