"""Parameters -> another library's state dict -> parameters: the same bits."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.vitjax.weights import cases
from vitjax import weights
from vitjax.models import vit
from vitjax.trees import count
from vitjax.weights.describe import heads_of_width


@pytest.mark.parametrize(("form", "kw", "say"), cases.EXPRESSIBLE, ids=cases.label)
def test_every_option_comes_back_bit_for_bit(form, kw, say):
    params = cases.params(**kw)
    state = cases.write(params, form, say)
    assert all(x.flags.c_contiguous and type(x) is np.ndarray for x in state.values())
    assert weights.format_of(state) == form
    cases.assert_same_bits(params, cases.read(state, form, say))
    # Constant positions are recognized without being told.
    cases.assert_same_bits(params, cases.read(state, form, cases.pool(say)))
    again = cases.write(cases.read(state, form, say), form, say)
    cases.assert_same_bits(state, again)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize("index", [3, 9, 11, 18, 20])
def test_every_dtype_comes_back(index, dtype):
    form, kw, say = cases.EXPRESSIBLE[index]
    params = cases.params(dtype=np.dtype(dtype), **kw)
    state = cases.write(params, form, say)
    assert {x.dtype for x in state.values()} == {np.dtype(dtype)}
    cases.assert_same_bits(params, cases.read(state, form, cases.pool(say)))


@pytest.mark.parametrize(("form", "kw", "say"), cases.EXPRESSIBLE[::4], ids=cases.label)
def test_scanned_blocks_are_unstacked_and_stacked(form, kw, say):
    params = cases.params(scan=True, **kw)
    state = cases.write(params, form, say)
    looped = cases.write(vit.scan_to_loop(params), form, say)
    cases.assert_same_bits(state, looped)
    cases.assert_same_bits(params, cases.read(state, form, say, scan=True))
    assert weights.model_arguments(params)["scan"]


def test_grids_and_patches_need_not_be_square():
    kw = {"grid": cases.WIDE, "patch_size": (4, 6)}
    say = {"grid": cases.WIDE}
    params = cases.params(posemb="learn", **kw)
    state = weights.to_state_dict(params, format="timm")
    cases.assert_same_bits(params, cases.read(state, "timm", {}))
    for form in ("timm", "huggingface"):
        params = cases.params(posemb="learn", pool_type="tok", **kw)
        state = weights.to_state_dict(params, format=form)
        cases.assert_same_bits(params, cases.read(state, form, say))
    params = cases.params(posemb="sincos2d", **kw)
    state = weights.to_state_dict(params, format="timm", posemb="sincos2d", **say)
    cases.assert_same_bits(params, cases.read(state, "timm", {}))
    with pytest.raises(ValueError, match="not those constants"):
        cases.read(state, "timm", {"posemb": "sincos2d", "grid": (3, 2)})
    # Kept, where one says so.
    kept = cases.read(state, "timm", {"posemb": "learn"})
    assert kept["pos_embedding"].shape == (1, 6, cases.WIDTH)


def test_a_class_token_of_negative_zeros_keeps_its_signs():
    params = cases.params(posemb="learn", pool_type="tok")
    params["cls"] = np.copysign(np.float32(0), params["cls"])
    for form in ("torchvision", "timm", "huggingface"):
        state = weights.to_state_dict(params, format=form)
        cases.assert_same_bits(params, cases.read(state, form, {}))


def test_the_number_of_heads_is_that_of_the_variant_of_this_width():
    for name, sizes in vit.VARIANTS.items():
        assert heads_of_width(sizes["width"]) == sizes["num_heads"], name
    params = cases.params(posemb="none")
    state = weights.to_state_dict(params, format="mup_vit", posemb="none")
    with pytest.raises(ValueError, match=r"the width 24: say num_heads"):
        weights.from_state_dict(state, format="mup_vit")


def test_parameters_tell_their_model():
    for kw in (
        {"posemb": "learn", "pool_type": "tok", "registers": 2},
        {"posemb": "none", "pool_type": "map", "rep_size": 9, "patch_size": (4, 6)},
        {"layer_scale": 1e-5, "pre_norm": True, "norm_after_pool": True},
        {"pool_type": "tok", "registers": 1, "distilled": True, "scan": True},
    ):
        params = cases.params(**kw)
        made = vit.Model(**weights.model_arguments(params))
        assert made == cases.model(**kw)
        assert count(params) > 0


def test_nothing_is_shared_with_what_came_in():
    """A state dict that is changed later changes no parameters."""
    params = cases.params(posemb="learn")
    state = weights.to_state_dict(params, format="timm")
    back = cases.read(state, "timm", {})
    for tensor in state.values():
        assert not np.shares_memory(tensor, params["head"]["kernel"])
    del back
