"""How differences are measured."""

import numpy as np
import pytest

from parity.rungs.comparison import Comparison, Errors, compared, relative_error, worst


def test_relative_error():
    assert relative_error([1.0, 4.0], [1.0, 5.0]) == pytest.approx(0.2)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error([1e-18], [2e-18], floor=1e-3) == pytest.approx(1e-15)
    assert np.isinf(relative_error([1e-30], [0.0]))
    with pytest.raises(ValueError, match=r"\(2,\), got \(1, 2\)"):
        relative_error([[1.0, 2.0]], [1.0, 2.0])


def test_nan_fails_and_is_the_worst():
    assert not Comparison("x", float("nan"), 1.0).passed
    assert np.isnan(relative_error([np.nan], [1.0]))
    line = worst("x", {"a": 3.0, "b": float("nan")}, 5.0)
    assert line.detail == "b"
    assert not line.passed


def test_blocks_are_grouped_and_the_worst_named():
    errors = {
        "Transformer/encoderblock_0/LayerNorm_0/bias": 1.0,
        "Transformer/encoderblock_11/LayerNorm_0/bias": 2.0,
        "head/bias": 0.5,
    }
    controls = [dict.fromkeys(errors, 0.1), {**errors, "head/bias": 0.0}]
    blocks, head = Errors("float32", errors, controls).grouped()
    assert blocks.name == "Transformer/encoderblock_*/LayerNorm_0/bias"
    assert blocks.detail == "Transformer/encoderblock_11/LayerNorm_0/bias"
    assert (blocks.measured, blocks.bound) == (2.0, 8.0)
    assert head == Comparison("head/bias", 0.5, 0.4)
    assert not head.passed


def test_factor_counts_bounds():
    assert Comparison("x", 3.0, 1.5).factor == 2.0
    assert Comparison("x", float("nan"), 1.0).factor == np.inf
    assert Comparison("x", 0.0, 0.0).factor == 0.0
    assert Comparison("x", 1e-30, 0.0).factor == np.inf


def test_bounds_of_low_precision_are_four_times_the_largest_control():
    ours, theirs = {"a": [1.125], "b": [1.0]}, {"a": [1.0], "b": [1.0]}
    controls = [{"a": [1.0], "b": [1.25]}, {"a": [1.5], "b": [1.0]}]
    errors = compared("float32", ours, theirs, controls)
    assert errors.line("x") == Comparison("x", 0.125, 2.0, "a")
    assert errors.line("x", ["b"]) == Comparison("x", 0.0, 1.0, "b")
    exact = compared("float32", ours, theirs, [theirs])
    assert exact.line("x").bound == 4 * 2.0**-23
    assert compared("float64", ours, theirs).line("x").bound == 1e-9
