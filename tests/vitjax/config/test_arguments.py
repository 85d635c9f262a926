"""The keys and values of a config section are the arguments of a function."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from vitjax.config.arguments import call, fits


def function(*, batch_size: int, pp: str = "", seed: int = 0):
    return batch_size, pp, seed


def test_a_section_is_a_call():
    assert call("input", function, {"batch_size": 3}, seed=5) == (3, "", 5)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"batchsize": 3}, r"in input: 'batchsize'; did you mean 'batch_size'"),
        ({"batch": 3}, r"in input: 'batch'; did you mean 'batch_size'"),
        ({}, r"lacks input\.batch_size"),
        ({"batch_size": 3, "seed": 1}, "'seed'"),
        ({"batch_size": "x"}, r"input\.batch_size must be a whole number, got 'x'"),
        ({"batch_size": 3, "pp": None}, r"input\.pp must be a string, got None"),
        (3, "input must be a section"),
    ],
)
def test_what_does_not_fit_is_one_sentence(section, words):
    with pytest.raises(ValueError, match=words):
        call("input", function, section, seed=5)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, float, True),
        (3.0, int, False),
        (True, int, False),
        (True, bool, True),
        (None, int | None, True),
        ("x", int | None, False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ((1, 2, 3), tuple[int, ...], True),
        ("ab", Sequence[str], False),
        (["a", 1], Sequence[str], False),
        ({"a": 1}, Mapping[str, Any], True),
        ([("a", 1)], Mapping[str, Any], False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (object(), Any, True),
    ],
)
def test_values_and_annotations(value, hint, expected):
    assert fits(value, hint) is expected
