from __future__ import annotations

import numpy as np
import pytest

from policygrad.report import style


def test_short_curves_are_left_alone():
    x = np.arange(10.0)
    thin_x, thin_y = style.thin(x, x**2, max_points=10)
    np.testing.assert_array_equal(thin_x, x)
    np.testing.assert_array_equal(thin_y, x**2)


def test_thinning_keeps_the_extremes_and_the_ends():
    rng = np.random.default_rng(0)
    x, y = np.arange(100_000.0), rng.normal(size=100_000)
    y[12_345], y[77_777] = 50.0, -50.0
    thin_x, thin_y = style.thin(x, y, max_points=1_000)
    assert thin_x.size <= 1_000
    assert (thin_x[0], thin_x[-1]) == (0.0, 99_999.0)
    assert (thin_y.max(), thin_y.min()) == (50.0, -50.0)
    assert np.all(np.diff(thin_x) > 0)
    np.testing.assert_array_equal(thin_y, y[thin_x.astype(int)])


def test_thinning_takes_nan():
    y = np.full(5_000, np.nan)
    y[2_500:] = 1.0
    thin_x, thin_y = style.thin(np.arange(5_000.0), y, max_points=100)
    assert thin_x.size <= 100
    assert np.isnan(thin_y[0])
    assert thin_y[-1] == 1.0


@pytest.mark.parametrize(("x", "text"), [(0, "0"), (500, "500"), (50_000, "50k"), (1_500_000, "1.5M"), (2e9, "2G"), (-100_000, "-100k")])
def test_steps_are_written_short(x, text):
    assert style.short_number(x) == text


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 50.0], "linear"),
        (list(np.geomspace(1, 1e4, 50)), "log"),
        ([0.0] * 5, "linear"),
        ([*np.geomspace(1, 1e4, 50), np.nan, 0.0], "log"),
        ([5.0] * 1000 + [1e-9], "linear"),  # one value next to nothing spans no decades
    ],
)
def test_an_axis_is_logarithmic_only_where_the_values_span_decades(values, scale):
    _, (ax,) = style.canvas("title", "")
    assert style.logarithmic_if_wide(ax, np.array(values)) == (scale == "log")
    assert ax.get_yscale() == scale


def test_a_long_legend_makes_the_figure_taller():
    from matplotlib.lines import Line2D

    figure, (ax,) = style.canvas("title", "subtitle")
    before = figure.get_figheight()
    style.legend(ax, [Line2D([], [], label=f"a label of some length, number {k} " + "x" * 100) for k in range(20)])
    figure.canvas.draw()
    assert figure.get_figheight() > before + 3
    assert ax.get_position().height * figure.get_figheight() > 2.5  # the axes keep their size


def test_colours_styles_and_markers_repeat_together_only_after_many():
    lengths = [len(style.COLOURS), len(style.LINES), len(style.MARKERS)]
    assert np.lcm.reduce(lengths) == np.prod(lengths)
