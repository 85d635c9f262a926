"""What does not fit is refused, in one sentence that names it."""

import re

import numpy as np
import pytest

from tests.helpers import weights_cases
from vitjax import weights


def state_of(form, **kw):
    say = {"posemb": "none"} if kw.get("posemb") == "none" else {}
    return weights.to_state_dict(weights_cases.params(**kw), format=form, **say)


TOK = {"posemb": "learn", "pool_type": "tok"}


@pytest.mark.parametrize(
    ("form", "kw", "message"),
    [
        (
            "torchvision",
            {"posemb": "learn"},
            "VisionTransformer always has a class token",
        ),
        ("torchvision", {**TOK, "registers": 1}, "cannot express registers"),
        (
            "torchvision",
            {**TOK, "grid": weights_cases.WIDE},
            "a grid of 6 patches, only squares",
        ),
        ("torchvision", {**TOK, "patch_size": (4, 6)}, "patches of 4x6 pixels"),
        ("torchvision", {"posemb": "learn", "pool_type": "map"}, "attention pooling"),
        (
            "huggingface",
            {"posemb": "learn"},
            "ForImageClassification always has a class",
        ),
        ("huggingface", {**TOK, "rep_size": 7}, "cannot express a pre_logits layer"),
        (
            "timm",
            {"posemb": "learn", "rep_size": 7},
            "cannot express a pre_logits layer",
        ),
        ("mup_vit", {"posemb": "learn", "pool_type": "map"}, "attention pooling"),
        ("torchvision", {**TOK, "layer_scale": 0.1}, "cannot express LayerScale"),
        ("mup_vit", {**TOK, "pre_norm": True}, "LayerNorm before the blocks"),
        ("huggingface", {**TOK, "norm_after_pool": True}, "LayerNorm after the pool"),
        (
            "timm",
            {**TOK, "registers": 2, "distilled": True},
            "cannot express 2 registers of a model with distilled",
        ),
        ("timm", {"posemb": "sincos2d"}, "say posemb='sincos2d' and the grid"),
        ("pytorch", TOK, "unknown format 'pytorch'"),
        ("tim", TOK, "did you mean 'timm'"),
    ],
    ids=weights_cases.label,
)
def test_what_a_format_cannot_express(form, kw, message):
    with pytest.raises(ValueError, match=message):
        weights.to_state_dict(weights_cases.params(**kw), format=form)


# Together they have every tensor of every format.
WHOLE = [weights_cases.EXPRESSIBLE[i] for i in (2, 5, 8, 14, 17, 19)]
# Parts that are one tensor: a state dict without it is that of another model.
ALONE = {"pos_embedding", "pos_embed", "cls_token", "class_token", "reg_token", "reg"}


@pytest.mark.parametrize(("form", "kw", "say"), WHOLE, ids=weights_cases.label)
def test_every_key_must_be_there_and_no_other(form, kw, say):
    state, pool = (
        weights_cases.write(weights_cases.params(**kw), form, say),
        weights_cases.pool(say),
    )
    with pytest.raises(ValueError, match=r"not in the table: \['one_more'\]"):
        weights_cases.read({**state, "one_more": np.zeros(3)}, form, pool)
    always = {weights.FORMATS[form].parts[p] for p in weights.FORMATS[form].always}
    for key in state.keys() - (ALONE - always):
        rest = {k: v for k, v in state.items() if k != key}
        # Without its weight, a layer's bias is what is left.
        layer = re.escape(key.rpartition(".")[0] or key)
        with pytest.raises(ValueError, match=layer):
            weights_cases.read(rest, form, pool)


@pytest.mark.parametrize(("form", "kw", "say"), WHOLE, ids=weights_cases.label)
def test_every_shape_is_checked(form, kw, say):
    """Each tensor in turn: one entry longer in its last dimension; flattened."""
    state, pool = (
        weights_cases.write(weights_cases.params(**kw), form, say),
        weights_cases.pool(say),
    )
    for key, value in state.items():
        named = f"{re.escape(key)}.* (shape|cannot be)"
        if value.ndim != 4:  # patches of 4 x 5 pixels would be another good model
            longer = np.concatenate([value, value[..., :1]], axis=-1)
            with pytest.raises(ValueError, match=named):
                weights_cases.read({**state, key: longer}, form, pool)
        if value.ndim > 1:
            with pytest.raises(ValueError, match=named):
                weights_cases.read({**state, key: value.reshape(-1)}, form, pool)


def test_a_wrong_shape_is_named_with_both():
    state = state_of("timm", posemb="learn")
    state["blocks.1.mlp.fc1.weight"] = np.zeros((41, 24))
    with pytest.raises(
        ValueError,
        match=r"blocks.1.mlp.fc1.weight must have the shape \(40, 24\), got \(41, 24\)",
    ):
        weights_cases.read(state, "timm", {})
    params = weights_cases.params(posemb="learn")
    params["head"]["bias"] = np.zeros(6, np.float32)
    with pytest.raises(ValueError, match=r"head/bias must have the shape \(5,\)"):
        weights.to_state_dict(params, format="timm")


def test_parameters_must_be_whole():
    params = weights_cases.params(posemb="learn")
    with pytest.raises(ValueError, match=r"not in the table: \['extra/kernel'\]"):
        weights.to_state_dict(
            {**params, "extra": {"kernel": np.zeros(1)}}, format="timm"
        )
    del params["embedding"]
    with pytest.raises(ValueError, match=r"missing: \['embedding/bias', 'embedding/k"):
        weights.to_state_dict(params, format="timm")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("blocks.0.attn.q_norm.weight", "no normalization of queries and keys"),
    ],
)
def test_timm_models_that_are_unlike_ours_are_refused_with_the_reason(key, message):
    state = state_of("timm", posemb="learn")
    with pytest.raises(ValueError, match=f"'{key}' of timm's .*{message}"):
        weights_cases.read({**state, key: np.ones(24)}, "timm", {})


def test_a_class_token_beside_attention_pooling_is_refused():
    state = state_of("timm", posemb="learn", pool_type="map", grid=(3, 3))
    state["cls_token"] = np.zeros((1, 1, 24))
    with pytest.raises(ValueError, match="both a class token and attention pooling"):
        weights_cases.read(state, "timm", {"grid": (3, 3)})


def test_posemb_that_is_not_there_or_not_that():
    learned = weights_cases.params(posemb="learn")
    state = weights.to_state_dict(learned, format="timm")
    with pytest.raises(ValueError, match="not those constants"):
        weights_cases.read(state, "timm", {"posemb": "sincos2d"})
    with pytest.raises(ValueError, match="has position embeddings"):
        weights_cases.read(state, "timm", {"posemb": "none"})
    with pytest.raises(ValueError, match=r"'sincos2d', but the parameters have a pos"):
        weights.to_state_dict(learned, format="timm", posemb="sincos2d", grid=(3, 3))
    with pytest.raises(ValueError, match="posemb must be one of"):
        weights.to_state_dict(learned, format="timm", posemb="sincos")
    none = weights_cases.params(posemb="none")
    with pytest.raises(ValueError, match="the parameters have no pos_embedding"):
        weights.to_state_dict(none, format="timm", posemb="learn")
    state = weights.to_state_dict(none, format="timm", posemb="none")
    with pytest.raises(ValueError, match="no position embeddings"):
        weights_cases.read(state, "timm", {"posemb": "sincos2d"})


def test_positions_of_no_square_need_their_grid():
    state = state_of("timm", posemb="learn", pool_type="tok", grid=weights_cases.WIDE)
    with pytest.raises(ValueError, match="7 positions, with or without the 1 other"):
        weights_cases.read(state, "timm", {})
    with pytest.raises(ValueError, match=r"not of the grid \(4, 2\)"):
        weights_cases.read(state, "timm", {"grid": (4, 2)})


def test_a_state_dict_of_no_known_format():
    with pytest.raises(
        ValueError, match=r"none of the formats .*keys like conv1.weight"
    ):
        weights.format_of({"conv1.weight": np.zeros(1)})
    with pytest.raises(ValueError, match="lacks 'class_token'"):
        weights.from_state_dict(state_of("timm", posemb="learn"), format="torchvision")
