"""Conversion of parameters to the reference's and back: exact, complete or refused."""

import jax
import numpy as np
import pytest

from parity.sides import ours, theirs, weights
from parity.sides.cases import Case, random_params

CASES = [
    Case(),
    Case(posemb="learn", pool_type="map", rep_size=0),
    Case(posemb="none", pool_type="tok", registers=2, depth=3),
]


@pytest.mark.parametrize("case", CASES, ids=Case.label)
def test_a_loaded_model_has_every_parameter_to_the_bit(case):
    params = random_params(ours.shapes(case))
    model = theirs.reference_with(case, params)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    back = weights.from_state_dict(state, ours.shapes(case))
    jax.tree.map(np.testing.assert_array_equal, params, back)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, params)]
    assert sizes[0] == sizes[1]


def test_unknown_and_missing_names_are_refused():
    case = Case()
    params = random_params(ours.shapes(case))
    with pytest.raises(ValueError, match=r"not in the table: \['extra/kernel'\]"):
        weights.to_state_dict({**params, "extra": {"kernel": np.zeros(1)}})
    with pytest.raises(ValueError, match=r"missing: \['embedding/bias'"):
        weights.to_state_dict({k: v for k, v in params.items() if k != "embedding"})

    state = weights.to_state_dict(params)
    with pytest.raises(ValueError, match=r"not in the table: \['fc.weight'\]"):
        weights.from_state_dict({**state, "fc.weight": np.zeros(1)}, ours.shapes(case))
    del state["head.bias"]
    with pytest.raises(ValueError, match=r"missing: \['head.bias'\]"):
        weights.from_state_dict(state, ours.shapes(case))


def test_wrong_shapes_are_refused():
    case = Case()
    params = random_params(ours.shapes(case))
    state = weights.to_state_dict(params)
    state["head.weight"] = state["head.weight"].T
    with pytest.raises(ValueError, match=r"head.weight .* \(10, 20\), got \(20, 10\)"):
        weights.from_state_dict(state, ours.shapes(case))
    other = theirs.make_reference(case.but(num_classes=11))
    with pytest.raises(ValueError, match=r"head.weight .* \(11, 20\), got \(10, 20\)"):
        weights.load(other, params)
    deeper = theirs.make_reference(case.but(depth=3))
    with pytest.raises(ValueError, match=r"blocks\.2\.attention\.in_proj_bias"):
        weights.load(deeper, params)
