"""vitjax's parameters <-> the reference's: exact, complete, and refused otherwise."""

import jax
import numpy as np
import pytest

from parity.sides import ours, theirs, weights
from parity.sides.cases import Case, random_params
from vitjax.trees import flatten_with_names

CASES = [
    Case(),
    Case(posemb="learn", pool_type="map", rep_size=0),
    Case(posemb="none", pool_type="tok", registers=2, depth=3),
]


@pytest.mark.parametrize("case", CASES, ids=Case.label)
def test_round_trip_is_bit_exact(case):
    params = random_params(ours.shapes(case))
    state = weights.to_state_dict(params)
    back = weights.from_state_dict(state, ours.shapes(case))
    jax.tree.map(np.testing.assert_array_equal, params, back)
    assert sum(x.size for x in state.values()) == sum(
        x.size for x in jax.tree.leaves(params)
    )


@pytest.mark.parametrize("case", CASES, ids=Case.label)
def test_load_fills_every_tensor_of_the_model(case):
    params = random_params(ours.shapes(case))
    model = theirs.reference_with(case, params)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    back = weights.from_state_dict(state, ours.shapes(case))
    jax.tree.map(np.testing.assert_array_equal, params, back)


def test_rows_of_in_proj_are_query_key_value_head_by_head():
    case = Case()
    params = random_params(ours.shapes(case))
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0"
    leaves = dict(flatten_with_names(params))
    state = weights.to_state_dict(params)
    x = np.random.default_rng(0).standard_normal((5, case.width))
    fused = x @ state["blocks.1.attention.in_proj_weight"].T
    fused += state["blocks.1.attention.in_proj_bias"]
    heads = fused.reshape(5, 3, case.num_heads, -1)
    for i, part in enumerate(("query", "key", "value")):
        kernel, bias = leaves[f"{name}/{part}/kernel"], leaves[f"{name}/{part}/bias"]
        expected = np.einsum("nd,dhk->nhk", x, kernel) + bias[None]
        np.testing.assert_allclose(heads[:, i], expected, rtol=1e-12)
    kernel = leaves[f"{name}/out/kernel"]
    expected = np.einsum("nhk,hkd->nd", heads[:, 0], kernel)
    out = heads[:, 0].reshape(5, -1) @ state["blocks.1.attention.out_proj.weight"].T
    np.testing.assert_allclose(out, expected, rtol=1e-12)


def test_names_that_nobody_knows_are_refused():
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
