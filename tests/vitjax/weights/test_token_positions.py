"""Whether positions are the patches' alone: what decides it, and what is asked.

Of 24 patches and a class token there are 25 positions, as many as of 5 x 5 patches.
"""

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names
from vitjax.weights import files
from vitjax.weights.formats import big_vision
from vitjax.weights.formats.big_vision import VERY_OLD
from vitjax.weights.posemb import GridUnknown

TOK = {"posemb": "learn", "pool_type": "tok"}
ASKED = r"25 positions.*say grid=\(rows, columns\).*--grid.*model_init_grid"


def with_own(params, key="pos_embedding"):
    """A file's leaves: the class token's own position first; its token without it."""
    leaves = dict(flatten_with_names(params))
    own = np.random.default_rng(3).standard_normal((1, 1, weights_cases.WIDTH))
    own = own.astype(np.float32)
    table = leaves.pop("pos_embedding")
    return {**leaves, key: np.concatenate([own, table], axis=1)}, own


@pytest.mark.parametrize("n", range(1, 6))
def test_of_timm_no_grid_n_by_n_plus_2_is_taken_for_a_square(n):
    params = weights_cases.params((n, n + 2), **TOK)
    state = weights.to_state_dict(params, format="timm")
    with pytest.raises(GridUnknown, match=rf"{(n + 1) ** 2} positions"):
        weights_cases.read(state, "timm", {})
    for say in ({"grid": (n, n + 2)}, {"model_grid": (n, n + 2)}):
        weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", say))


def test_timms_class_without_positions_of_its_class_token():
    """DeiT-III's: as many positions as 4 x 6 patches and one would have."""
    params = weights_cases.params((5, 5), **TOK)
    state = weights.to_state_dict(params, format="timm")
    assert state["pos_embed"].shape[1] == 26
    state["pos_embed"] = state["pos_embed"][:, 1:]
    with pytest.raises(GridUnknown, match=ASKED):
        weights_cases.read(state, "timm", {})
    for say in ({"grid": (5, 5)}, {"model_grid": (5, 5)}):
        weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", say))
    other = weights_cases.read(state, "timm", {"model_grid": (4, 6)})
    assert other["pos_embedding"].shape == (1, 24, weights_cases.WIDTH)


def test_registers_tell_that_patches_alone_have_positions():
    params = weights_cases.params((5, 5), registers=2, **TOK)
    state = weights.to_state_dict(params, format="timm")
    assert state["pos_embed"].shape[1] == 25
    weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", {}))
    with pytest.raises(GridUnknown, match="25 positions"):  # 2 x 11 patches and three
        weights_cases.read(state, "timm", {"model_grid": (2, 11)})


def test_a_square_and_its_class_token_are_not_taken_for_another_grid():
    """Ten positions are 3 x 3 and one, also for a model of 2 x 5 patches."""
    params = weights_cases.params((3, 3), **TOK)
    state = weights.to_state_dict(params, format="timm")
    weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", {}))
    with pytest.raises(GridUnknown, match="10 positions"):
        weights_cases.read(state, "timm", {"model_grid": (2, 5)})


def test_the_name_in_an_npz_tells_the_class_tokens_position(tmp_path):
    params = weights_cases.params((4, 6), **TOK)
    leaves, own = with_own(params, VERY_OLD)
    expected = {**params, "cls": params["cls"] + own}
    files.write(tmp_path / "old.npz", leaves, {})
    weights_cases.assert_same_bits(expected, weights.load(tmp_path / "old.npz")[0])
    # Today's models never had one.
    today = dict(flatten_with_names(weights_cases.params((5, 5), **TOK)))
    weights_cases.assert_same_bits(today, big_vision.leaves(today))
    got = big_vision.leaves(today, model_grid=(7, 7))
    weights_cases.assert_same_bits(today, got)


def test_what_the_name_in_an_npz_leaves_open_is_asked_for():
    params = weights_cases.params((4, 6), **TOK)
    leaves, own = with_own(params)
    expected = {**params, "cls": params["cls"] + own}
    got = unflatten_dict(big_vision.leaves(leaves, grid=(4, 6)), sep="/")
    weights_cases.assert_same_bits(expected, got)
    with pytest.raises(GridUnknown, match=ASKED):  # old, or today's and to be resampled
        big_vision.leaves(leaves, model_grid=(4, 6))
    leaves, own = with_own(params, "Transformer/pos_embedding")
    with pytest.raises(GridUnknown, match=ASKED):
        big_vision.leaves(leaves)
    got = unflatten_dict(big_vision.leaves(leaves, model_grid=(4, 6)), sep="/")
    weights_cases.assert_same_bits(expected, got)
    # 3 x 3 and one under the old name; under today's also 2 x 5.
    params = weights_cases.params((3, 3), **TOK)
    leaves, own = with_own(params, "Transformer/pos_embedding")
    expected = {**params, "cls": params["cls"] + own}
    got = unflatten_dict(big_vision.leaves(leaves), sep="/")
    weights_cases.assert_same_bits(expected, got)
    wide = dict(flatten_with_names(weights_cases.params((2, 5), **TOK)))
    with pytest.raises(GridUnknown, match="10 positions"):
        big_vision.leaves(wide)
    weights_cases.assert_same_bits(wide, big_vision.leaves(wide, model_grid=(2, 5)))
    # 197 is no grid but one row.
    params = weights_cases.params((14, 14), **TOK)
    leaves, _ = with_own(params)
    got = big_vision.leaves(leaves)
    assert got["pos_embedding"].shape == (1, 196, weights_cases.WIDTH)


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    model = dict(num_heads=3, pool_type="tok", posemb="learn", gelu="exact")
    return ConfigDict(dict(
        input={}, num_classes=5, lr=1.0, optax_name="identity", model=model
    ))
"""


def test_tools_ask_for_it_and_take_it_from_the_config(tmp_path):
    """And take the config's word for whether mup-vit's first token is the class token."""
    (tmp_path / "config.py").write_text(CONFIG)
    params = weights_cases.params((4, 6), **TOK)
    state = weights.to_state_dict(params, format="timm")
    files.write(tmp_path / "x.pth", state, {})
    config = str(tmp_path / "config.py")
    with pytest.raises(GridUnknown, match=ASKED):
        open_trained(tmp_path / "x.pth", config=config)
    overrides = ["model_init_grid=(4, 6)"]
    trained = open_trained(tmp_path / "x.pth", config=config, overrides=overrides)
    weights_cases.assert_same_bits(params, trained.params)
    params = weights_cases.params(registers=1, **TOK)
    state = weights.to_state_dict(params, format="mup_vit")
    files.write(tmp_path / "y.pth", state, {})
    trained = open_trained(tmp_path / "y.pth", config=config)
    weights_cases.assert_same_bits(params, trained.params)
    assert (trained.model.pool_type, trained.model.registers) == ("tok", 1)
