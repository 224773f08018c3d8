from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import policygrad.statistics
from policygrad.errors import UsageError
from policygrad.statistics import bootstrap_interval, final_return, moving_average, on_common_grid, steps_to_solve

# ---------------------------------------------------------------- steps to solve


def test_solved_at_the_end_of_the_first_episode_whose_window_reaches_the_threshold():
    returns = [0.0] * 20 + [500.0] * 20
    ends = np.arange(1, 41) * 100
    # k solved episodes in the last 20 give a mean of 25 k: 475 is reached with 19 of them, in the 39th episode
    assert steps_to_solve(returns, ends, 475.0) == 3900
    assert isinstance(steps_to_solve(returns, ends, 475.0), int)


def test_a_window_that_is_not_full_never_solves():
    assert steps_to_solve([500.0] * 19, range(19), 475.0) is None
    assert steps_to_solve([500.0] * 20, range(20), 475.0) == 19
    assert steps_to_solve([], [], 475.0) is None


def test_equality_with_the_threshold_solves():
    assert steps_to_solve([475.0] * 20, range(20), 475.0) == 19
    assert steps_to_solve([474.0] * 20, range(20), 475.0) is None
    assert steps_to_solve([-200.0] * 19 + [-20.0], range(20), -191.0) == 19


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, -0.1, 1e-3])
def test_rounding_does_not_decide_equality(value):
    # np.sum([0.1] * 20) / 20 and its like miss the exact mean by one unit in the last place
    assert steps_to_solve([value] * 20, range(20), value) == 19
    assert steps_to_solve([value] * 20, range(20), np.nextafter(value, np.inf)) is None


def test_episodes_that_end_at_the_same_step():
    # the mean reaches the threshold with the second of two episodes that end at step 30
    assert steps_to_solve([0, 1, 0, 1, 1], [10, 20, 30, 30, 40], threshold=1, window=2) == 40
    assert steps_to_solve([0, 0, 1, 1], [10, 30, 30, 30], threshold=1, window=2) == 30


def test_the_first_time_counts_even_if_it_is_lost_again():
    assert steps_to_solve([1, 1, 0, 0, 1, 1], [1, 2, 3, 4, 5, 6], 1.0, window=2) == 2


def test_no_threshold_and_never_solved():
    assert steps_to_solve([1.0] * 40, range(40), None) is None
    assert steps_to_solve([1.0] * 40, range(40), 2.0) is None
    assert steps_to_solve([math.nan] * 40, range(40), 2.0) is None


def test_lengths_and_windows_are_checked():
    with pytest.raises(UsageError, match="got 2 and 1"):
        steps_to_solve([1, 2], [1], 0.0)
    with pytest.raises(UsageError, match="at least one element"):
        steps_to_solve([1, 2], [1, 2], 0.0, window=0)


# ---------------------------------------------------------------- means


def test_final_return():
    assert final_return([]) is None
    assert final_return([4.0, 6.0]) == 5.0
    assert final_return([100.0] + [1.0] * 20) == 1.0
    assert final_return([1.0, 2.0, 3.0], window=2) == 2.5


def test_moving_average_looks_back_only():
    np.testing.assert_array_equal(moving_average([1, 2, 3, 4, 5], 2), [1, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_array_equal(moving_average([1, 2, 3], 1), [1, 2, 3])
    np.testing.assert_array_equal(moving_average([1, 2, 3], 10), [1, 1.5, 2])
    assert moving_average([], 5).shape == (0,)


def test_moving_average_leaves_nan_out_and_recovers_from_a_huge_value():
    np.testing.assert_array_equal(moving_average([1, math.nan, 3, math.nan, math.nan], 2), [1, 1, 3, 3, math.nan])
    spike = moving_average([1e20] + [0.1] * 50, 20)
    np.testing.assert_allclose(spike[20:], 0.1, rtol=1e-12)


def test_moving_average_agrees_with_the_definition():
    x = np.random.default_rng(0).normal(size=101)
    expected = [np.mean(x[max(0, i - 6) : i + 1]) for i in range(101)]
    np.testing.assert_allclose(moving_average(x, 7), expected, rtol=0, atol=1e-14)


# ---------------------------------------------------------------- intervals


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[7.0], [7.0] * 5, np.full((2, 3), 7.0)])
def test_values_without_spread_give_a_degenerate_interval(values):
    assert bootstrap_interval(values) == (7.0, 7.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.0, 1.0], [1.0, 1.0, 1.0, 2.0], [500.0] * 99 + [499.0], [1.0, 1.0 + 1e-15]])
def test_small_and_nearly_constant_samples_give_numbers_without_warnings(values):
    low, high = bootstrap_interval(values)
    assert min(values) <= low <= high <= max(values)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        low, high = bootstrap_interval(rng.normal(size=30), 0.9, seed=trial)
        covered += low <= 0.0 <= high
    # 54 expected; the standard deviation is 2.3, and the bootstrap of 30 values covers a little less than it says
    assert 54 - 4 * 2.3 - 2 <= covered <= 60


def test_a_higher_confidence_is_wider_and_a_seed_repeats():
    x = np.random.default_rng(2).exponential(size=25)
    narrow, wide = bootstrap_interval(x, 0.5), bootstrap_interval(x, 0.99)
    assert wide[0] < narrow[0] < np.mean(x) < narrow[1] < wide[1]
    assert bootstrap_interval(x, seed=3) == bootstrap_interval(x, seed=3)


def test_a_large_sample_is_close_to_the_normal_interval():
    x = np.random.default_rng(3).normal(size=20_000)
    low, high = bootstrap_interval(x)
    half = 1.96 * x.std() / math.sqrt(x.size)
    np.testing.assert_allclose([low, high], [x.mean() - half, x.mean() + half], atol=0.2 * half)


def test_bad_input_to_the_interval():
    assert all(math.isnan(end) for end in bootstrap_interval([1.0, math.nan]))
    with pytest.raises(UsageError, match="got none"):
        bootstrap_interval([])
    with pytest.raises(UsageError, match="between 0 and 1"):
        bootstrap_interval([1.0], confidence=95)


# ---------------------------------------------------------------- curves of several seeds


def test_lines_are_interpolated_exactly():
    grid, curves = on_common_grid([[0, 10], [0, 2, 10]], [[0, 100], [0, 20, 100]], num_points=11)
    np.testing.assert_array_equal(grid, np.arange(11))
    np.testing.assert_allclose(curves, np.tile(np.arange(11) * 10.0, (2, 1)), rtol=1e-15)


def test_a_curve_is_nan_before_it_begins_and_keeps_its_last_value():
    grid, curves = on_common_grid([[0, 4], [2, 3]], [[0, 4], [5, 7]], num_points=5)
    np.testing.assert_array_equal(grid, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(curves, [[0, 1, 2, 3, 4], [math.nan, math.nan, 5, 7, 7]])


def test_repeated_steps_and_nan_points():
    _, curves = on_common_grid([[0, 1, 1, 1, 2]], [[0, 5, 6, 1, 2]], num_points=3)
    np.testing.assert_array_equal(curves, [[0, 1, 2]])
    _, curves = on_common_grid([[0, 1, 2]], [[0, math.nan, 2]], num_points=3)
    np.testing.assert_array_equal(curves, [[0, 1, 2]])


def test_curves_without_numbers():
    grid, curves = on_common_grid([[], [1, 2]], [[], [math.nan, math.nan]])
    assert grid.size == curves.size == 0
    grid, curves = on_common_grid([[], [1, 2]], [[], [3, 4]], num_points=2)
    np.testing.assert_array_equal(curves, [[3, 4]])
    with pytest.raises(UsageError, match="2 steps and 1 values"):
        on_common_grid([[1, 2]], [[1]])


def test_nothing_heavy_is_imported_at_module_level():
    # read from the source, not from sys.modules: the package's own __init__ may import jax
    tree = ast.parse(Path(policygrad.statistics.__file__).read_text())
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not {"jax", "scipy", "matplotlib"} & {name.split(".")[0] for name in names}
