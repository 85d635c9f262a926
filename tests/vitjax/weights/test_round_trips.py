"""Parameters -> another library's state dict -> parameters: the same bits."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.models import vit
from vitjax.trees import count
from vitjax.weights.describe import heads_of_width


@pytest.mark.parametrize(
    ("form", "kw", "say"), weights_cases.EXPRESSIBLE, ids=weights_cases.label
)
def test_every_option_comes_back_bit_for_bit(form, kw, say):
    params = weights_cases.params(**kw)
    state = weights_cases.write(params, form, say)
    assert all(x.flags.c_contiguous and type(x) is np.ndarray for x in state.values())
    assert weights.format_of(state) == form
    weights_cases.assert_same_bits(params, weights_cases.read(state, form, say))
    # Constant positions are recognized without being told.
    weights_cases.assert_same_bits(
        params, weights_cases.read(state, form, weights_cases.pool(say))
    )
    again = weights_cases.write(weights_cases.read(state, form, say), form, say)
    weights_cases.assert_same_bits(state, again)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize("index", [3, 9, 11, 18, 20])
def test_every_dtype_comes_back(index, dtype):
    form, kw, say = weights_cases.EXPRESSIBLE[index]
    params = weights_cases.params(dtype=np.dtype(dtype), **kw)
    state = weights_cases.write(params, form, say)
    assert {x.dtype for x in state.values()} == {np.dtype(dtype)}
    weights_cases.assert_same_bits(
        params, weights_cases.read(state, form, weights_cases.pool(say))
    )


@pytest.mark.parametrize(
    ("form", "kw", "say"), weights_cases.EXPRESSIBLE[::4], ids=weights_cases.label
)
def test_scanned_blocks_are_unstacked_and_stacked(form, kw, say):
    params = weights_cases.params(scan=True, **kw)
    state = weights_cases.write(params, form, say)
    looped = weights_cases.write(vit.scan_to_loop(params), form, say)
    weights_cases.assert_same_bits(state, looped)
    weights_cases.assert_same_bits(
        params, weights_cases.read(state, form, say, scan=True)
    )
    assert weights.model_arguments(params)["scan"]


def test_grids_and_patches_need_not_be_square():
    kw = {"grid": weights_cases.WIDE, "patch_size": (4, 6)}
    say = {"grid": weights_cases.WIDE}
    params = weights_cases.params(posemb="learn", **kw)
    state = weights.to_state_dict(params, format="timm")
    weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", {}))
    for form in ("timm", "huggingface"):
        params = weights_cases.params(posemb="learn", pool_type="tok", **kw)
        state = weights.to_state_dict(params, format=form)
        weights_cases.assert_same_bits(params, weights_cases.read(state, form, say))
    params = weights_cases.params(posemb="sincos2d", **kw)
    state = weights.to_state_dict(params, format="timm", posemb="sincos2d", **say)
    weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", {}))
    with pytest.raises(ValueError, match="not those constants"):
        weights_cases.read(state, "timm", {"posemb": "sincos2d", "grid": (3, 2)})
    # Kept, where one says so.
    kept = weights_cases.read(state, "timm", {"posemb": "learn"})
    assert kept["pos_embedding"].shape == (1, 6, weights_cases.WIDTH)


def test_a_class_token_of_negative_zeros_keeps_its_signs():
    params = weights_cases.params(posemb="learn", pool_type="tok")
    params["cls"] = np.copysign(np.float32(0), params["cls"])
    for form in ("torchvision", "timm", "huggingface"):
        state = weights.to_state_dict(params, format=form)
        weights_cases.assert_same_bits(params, weights_cases.read(state, form, {}))


def test_the_number_of_heads_is_that_of_the_variant_of_this_width():
    for name, sizes in vit.VARIANTS.items():
        assert heads_of_width(sizes["width"]) == sizes["num_heads"], name
    params = weights_cases.params(posemb="none")
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
        params = weights_cases.params(**kw)
        made = vit.Model(**weights.model_arguments(params))
        assert made == weights_cases.model(**kw)
        assert count(params) > 0


def test_nothing_is_shared_with_what_came_in():
    """A state dict that is changed later changes no parameters."""
    params = weights_cases.params(posemb="learn")
    state = weights.to_state_dict(params, format="timm")
    back = weights_cases.read(state, "timm", {})
    for tensor in state.values():
        assert not np.shares_memory(tensor, params["head"]["kernel"])
    del back
