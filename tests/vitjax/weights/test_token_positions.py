"""Positions may include the class token's: what decides it, and when it is asked for.

24 patches and a class token have 25 positions, as many as 5 x 5 patches.
"""

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from tests.helpers import weights_cases as cases
from vitjax import weights
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names
from vitjax.weights import files
from vitjax.weights.formats import big_vision
from vitjax.weights.formats.big_vision import VERY_OLD
from vitjax.weights.posemb import GridUnknown

TOK = cases.TOK
ASKED = r"25 positions.*give grid=\(rows, columns\).*--grid.*model_init_grid"


def timm(grid, drop_own=False, **kw):
    """(params, timm's state dict); without the class token's position on request."""
    params = cases.params(grid, **TOK, **kw)
    state = weights.to_state_dict(params, format="timm")
    if drop_own:
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return params, state


# grid, positions of the class token dropped, positions: no square, or of two readings.
@pytest.mark.parametrize(
    ("grid", "drop_own", "stored"),
    [
        *((((n, n + 2), False, (n + 1) ** 2)) for n in (1, 4, 5)),
        ((5, 5), True, 25),  # DeiT-III's: 4 x 6 patches and one would have as many
    ],
)
def test_timm_positions_of_two_readings_are_asked_for(grid, drop_own, stored):
    params, state = timm(grid, drop_own)
    assert state["pos_embed"].shape[1] == stored
    with pytest.raises(GridUnknown, match=rf"{stored} positions"):
        cases.read(state, "timm", {})
    for say in ({"grid": grid}, {"model_grid": grid}):
        cases.assert_same_bits(params, cases.read(state, "timm", say))
    if drop_own:
        other = cases.read(state, "timm", {"model_grid": (4, 6)})
        assert other["pos_embedding"].shape == (1, 24, cases.WIDTH)


@pytest.mark.parametrize(
    ("grid", "kw", "other"),
    [
        # With registers, patches alone have positions; 2 x 11 patches and 3 as many.
        ((5, 5), {"registers": 2}, (2, 11)),
        # Ten are 3 x 3 and the class token's, also for a model of 2 x 5 patches.
        ((3, 3), {}, (2, 5)),
    ],
)
def test_timm_positions_of_one_likely_reading(grid, kw, other):
    params, state = timm(grid, **kw)
    cases.assert_same_bits(params, cases.read(state, "timm", {}))
    stored = state["pos_embed"].shape[1]
    with pytest.raises(GridUnknown, match=f"{stored} positions"):
        cases.read(state, "timm", {"model_grid": other})


def old_npz(grid, key="pos_embedding"):
    """(a file's leaves with the class token's own position first, what they mean)."""
    params = cases.params(grid, **TOK)
    leaves = dict(flatten_with_names(params))
    own = np.random.default_rng(3).standard_normal((1, 1, cases.WIDTH), np.float32)
    leaves[key] = np.concatenate([own, leaves.pop("pos_embedding")], axis=1)
    return leaves, {**params, "cls": params["cls"] + own}


def assert_read(expected, leaves, **kw):
    got = unflatten_dict(big_vision.leaves(leaves, **kw), sep="/")
    cases.assert_same_bits(expected, got)


def test_the_name_in_an_npz_tells_the_class_tokens_position(tmp_path):
    leaves, expected = old_npz((4, 6), VERY_OLD)
    files.write(tmp_path / "old.npz", leaves, {})
    cases.assert_same_bits(expected, weights.load(tmp_path / "old.npz")[0])
    # Today's models never had one.
    params = cases.params((5, 5), **TOK)
    today = dict(flatten_with_names(params))
    for model_grid in (None, (7, 7)):
        assert_read(params, today, model_grid=model_grid)


def test_what_the_name_in_an_npz_leaves_open_is_asked_for(tmp_path):
    leaves, expected = old_npz((4, 6))
    assert_read(expected, leaves, grid=(4, 6))
    files.write(tmp_path / "x.npz", leaves, {})
    with pytest.raises(GridUnknown, match=ASKED):  # old, or today's and to be resampled
        weights.load(tmp_path / "x.npz", model_grid=(4, 6))
    # Positions in the encoder: with or without the class token's.
    between = "Transformer/pos_embedding"
    leaves, expected = old_npz((4, 6), between)
    with pytest.raises(GridUnknown, match=ASKED):
        big_vision.leaves(leaves)
    assert_read(expected, leaves, model_grid=(4, 6))
    params = cases.params((5, 5), **TOK)
    leaves = dict(flatten_with_names(params))
    leaves[between] = leaves.pop("pos_embedding")
    assert_read(params, leaves, grid=(5, 5))
    # 3 x 3 and one under the old name; under today's also 2 x 5.
    leaves, expected = old_npz((3, 3), between)
    assert_read(expected, leaves)
    params = cases.params((2, 5), **TOK)
    wide = dict(flatten_with_names(params))
    with pytest.raises(GridUnknown, match="10 positions"):
        big_vision.leaves(wide)
    assert_read(params, wide, model_grid=(2, 5))
    # 197 is no grid but one row.
    leaves, expected = old_npz((14, 14))
    assert_read(expected, leaves)


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    model = dict(num_heads=3, pool_type="tok", posemb="learn", gelu="exact")
    return ConfigDict(dict(
        input={}, num_classes=5, lr=1.0, optax_name="identity", model=model
    ))
"""


def test_tools_ask_for_it_and_take_it_from_the_config(tmp_path):
    """The config decides too if mup-vit's first token is the class token."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    params, state = timm((4, 6))
    files.write(tmp_path / "x.pth", state, {})
    with pytest.raises(GridUnknown, match=ASKED):
        open_trained(tmp_path / "x.pth", config=str(config))
    overrides = ["model_init_grid=(4, 6)"]
    trained = open_trained(tmp_path / "x.pth", config=str(config), overrides=overrides)
    cases.assert_same_bits(params, trained.params)
    params = cases.params(registers=1, **TOK)
    state = weights.to_state_dict(params, format="mup_vit")
    files.write(tmp_path / "y.pth", state, {})
    trained = open_trained(tmp_path / "y.pth", config=str(config))
    cases.assert_same_bits(params, trained.params)
    assert (trained.model.pool_type, trained.model.registers) == ("tok", 1)
