"""Another order of summation is the same function, and all permutations are undone."""

import numpy as np
import pytest
import torch

from parity.reference import train
from parity.rungs.comparison import compared
from parity.sides import ours, theirs
from parity.sides.cases import Case, random_batch, random_params
from parity.sides.orders import make_order

CASES = [
    Case(),
    Case(posemb="learn", pool_type="map", rep_size=0),
    Case(posemb="none", pool_type="tok", registers=2),
]


@pytest.mark.parametrize("case", CASES, ids=Case.label)
def test_a_reordered_model_is_the_same_function(case):
    """In float64 they are equal to rounding, but not to the bit."""
    order = make_order(case, 0)
    for side in (theirs.forward, theirs.gradients):
        a, b = side(case, order), side(case, None)
        assert a.keys() == b.keys()
        for name in b:
            scale = max(np.abs(b[name]).max(), 1e-3)
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-12 * scale)
        assert any(not np.array_equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("case", CASES, ids=Case.label)
def test_every_tensor_is_permuted_and_back(case):
    order = make_order(case, 1)
    plain = theirs.reference_with(case, random_params(ours.shapes(case)))
    other = theirs.reference_with(case, random_params(ours.shapes(case)), order)
    state = {k: v.numpy() for k, v in other.state_dict().items()}
    back = order.undo_state(state)
    for name, x in plain.state_dict().items():
        np.testing.assert_array_equal(back[name], x.numpy())
        assert x.shape[-1] in (1,) or not np.array_equal(state[name], x.numpy()), name
    image, labels = random_batch(case)
    assert not np.array_equal(order.image(image), image)
    assert sorted(order.image(image).ravel()) == sorted(image.ravel())
    rows = order.undo_labels(order.labels(labels))
    np.testing.assert_array_equal(rows, labels)


def test_mixup_pairs_the_same_rows_in_every_order():
    case = Case()
    order = make_order(case, 2)
    _, labels = random_batch(case)
    a = train.mix(torch.tensor(order.labels(labels)), 0.7).numpy()
    b = train.mix(torch.tensor(labels), 0.7).numpy()
    np.testing.assert_allclose(order.undo_labels(a), b, rtol=1e-15)


def test_a_case_of_low_precision_has_controls_and_bfloat16_one_more():
    def side(case, order):
        return case.precision, order is None

    for precision, expected in (
        ("float64", []),
        ("float32", [("float32", False)] * 2),
        ("bfloat16", [("bfloat16", False)] * 2 + [("float32", True)]),
        ("bfloat16_all", [("bfloat16_all", False)] * 2 + [("float32", True)]),
    ):
        case = Case(precision=precision)
        assert list(theirs.controls(case, side, num_orders=2)) == expected


def test_a_vitjax_that_rounds_badly_fails_in_float32():
    """The bound is the reference's own rounding, so it does not grow with ours."""
    case = Case(precision="float32", depth=1)
    b = theirs.forward(case, None)
    for precision, passed in (("float32", True), ("bfloat16", False)):
        a = ours.forward(case.but(precision=precision))
        controls = theirs.controls(case, theirs.forward)
        line = compared("float32", a, b, controls).line("forward")
        assert line.passed == passed
        assert passed or line.factor > 1e3
