"""Parameters -> another library's state dict -> parameters: the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import weights_cases as cases
from vitjax import weights
from vitjax.models import vit
from vitjax.weights.describe import heads_of_width

ALL = [row[:3] for row in cases.EXPRESSIBLE]


@pytest.mark.parametrize(("form", "kw", "say"), ALL, ids=cases.label)
def test_every_option_comes_back_bit_for_bit(form, kw, say):
    drawn = cases.params(**kw)
    for dtype in (np.float32, np.float64, np.float16, jnp.bfloat16):
        params = jax.tree.map(lambda x, d=dtype: x.astype(d), drawn)
        state = cases.write(params, form, say)
        assert weights.format_of(state) == form
        for x in state.values():
            assert type(x) is np.ndarray
            assert x.flags.c_contiguous
            assert x.dtype == dtype
        # Constant positions are recognised without an argument too.
        for told in (say, cases.pool(say)):
            back = cases.read(state, form, told)
            cases.assert_same_bits(params, back)
        cases.assert_same_bits(state, cases.write(back, form, say))


@pytest.mark.parametrize(("form", "kw", "say"), ALL[::6], ids=cases.label)
def test_scanned_blocks_are_unstacked_and_stacked(form, kw, say):
    params = cases.params(scan=True, **kw)
    state = cases.write(params, form, say)
    cases.assert_same_bits(state, cases.write(vit.scan_to_loop(params), form, say))
    cases.assert_same_bits(params, cases.read(state, form, say, scan=True))
    assert weights.model_arguments(params)["scan"]


@pytest.mark.parametrize(
    ("form", "kw", "told"),
    [
        ("timm", {"posemb": "learn"}, {}),
        ("timm", cases.TOK, {"grid": cases.WIDE}),
        ("huggingface", cases.TOK, {"grid": cases.WIDE}),
        ("timm", {"posemb": "sincos2d"}, {}),
    ],
    ids=cases.label,
)
def test_grids_and_patches_need_not_be_square(form, kw, told):
    params = cases.params(grid=cases.WIDE, patch_size=(4, 6), **kw)
    constant = kw["posemb"] == "sincos2d"
    say = {"posemb": "sincos2d", "grid": cases.WIDE} if constant else {}
    state = cases.write(params, form, say)
    cases.assert_same_bits(params, cases.read(state, form, told))
    if constant:
        with pytest.raises(ValueError, match="not those constants"):
            cases.read(state, form, {"posemb": "sincos2d", "grid": (3, 2)})
        kept = cases.read(state, form, {"posemb": "learn"})
        assert kept["pos_embedding"].shape == (1, 6, cases.WIDTH)


def test_a_class_token_of_negative_zeros_keeps_its_signs():
    params = cases.params(**cases.TOK)
    params["cls"] = np.copysign(np.float32(0), params["cls"])
    for form in ("torchvision", "timm", "huggingface"):
        state = weights.to_state_dict(params, format=form)
        cases.assert_same_bits(params, cases.read(state, form, {}))


def test_the_number_of_heads_is_that_of_the_variant_of_this_width():
    for name, sizes in vit.VARIANTS.items():
        assert heads_of_width(sizes["width"]) == sizes["num_heads"], name
    state = weights.to_state_dict(cases.params(**cases.TOK), format="timm")
    with pytest.raises(ValueError, match=r"the width 24: give num_heads"):
        weights.from_state_dict(state, format="timm")


def test_parameters_tell_their_model():
    for kw in (
        {"posemb": "learn", "pool_type": "tok", "registers": 2},
        {"posemb": "none", "pool_type": "map", "rep_size": 9, "patch_size": (4, 6)},
        {"layer_scale": 1e-5, "pre_norm": True, "norm_after_pool": True},
        {"pool_type": "tok", "registers": 1, "distilled": True, "scan": True},
    ):
        made = vit.Model(**weights.model_arguments(cases.params(**kw)))
        assert made == cases.model(**kw)
