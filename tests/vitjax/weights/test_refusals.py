"""Models and files that do not fit are refused in one sentence that names the part."""

import re

import numpy as np
import pytest

from tests.helpers import weights_cases as cases
from vitjax import weights

TOK = cases.TOK
LEARN = {"posemb": "learn"}


def state_of(form, **kw):
    return weights.to_state_dict(cases.params(**kw), format=form)


@pytest.mark.parametrize(
    ("form", "kw", "message"),
    [
        ("torchvision", LEARN, "VisionTransformer always has a class token"),
        ("torchvision", {**TOK, "registers": 1}, "cannot express registers"),
        ("torchvision", {**TOK, "grid": cases.WIDE}, "a grid of 6 patches, only squares"),
        ("torchvision", {**TOK, "patch_size": (4, 6)}, "patches of 4x6 pixels"),
        ("torchvision", {**LEARN, "pool_type": "map"}, "attention pooling"),
        ("huggingface", LEARN, "ForImageClassification always has a class"),
        ("timm", {**LEARN, "rep_size": 7}, "cannot express a pre_logits layer"),
        ("torchvision", {**TOK, "layer_scale": 0.1}, "cannot express LayerScale"),
        ("mup_vit", {**TOK, "pre_norm": True}, "LayerNorm before the blocks"),
        ("huggingface", {**TOK, "norm_after_pool": True}, "LayerNorm after the pool"),
        ("timm", {**TOK, "registers": 2, "distilled": True},
         "cannot express 2 registers of a model with distilled"),
        ("timm", {"posemb": "sincos2d"}, "give posemb='sincos2d' and the grid"),
        ("tim", TOK, "unknown format 'tim'; did you mean 'timm'"),
    ],
    ids=cases.label,
)  # fmt: skip
def test_what_a_format_cannot_express(form, kw, message):
    with pytest.raises(ValueError, match=message):
        state_of(form, **kw)


# Together they have every tensor of every format.
WHOLE = [
    ("mup_vit", {**TOK, "registers": 2, "rep_size": 7}, {"pool_type": "tok"}),
    ("torchvision", {**TOK, "rep_size": 7}, {}),
    ("timm", {**TOK, "registers": 2, "layer_scale": 1e-5, "pre_norm": True}, {}),
    ("timm", {**LEARN, "pool_type": "map", "registers": 2}, {}),
    ("timm", {**LEARN, "registers": 4, "norm_after_pool": True}, {}),
    ("timm", {**TOK, "registers": 1, "distilled": True}, {}),
    ("huggingface", TOK, {}),
]
# Parts that are one tensor: a state dict without it is that of another model.
ALONE = {"pos_embedding", "pos_embed", "cls_token", "class_token", "reg_token", "reg"}
# Without these, the tensors that belong to them are named.
INSTEAD = {"blocks.0.ls1.gamma": "blocks.0.ls2.gamma", "dist_token": "pos_embed"}


@pytest.mark.parametrize(("form", "kw", "pool"), WHOLE, ids=cases.label)
def test_every_key_and_every_shape_is_checked(form, kw, pool):
    """Each tensor in turn: missing; one entry longer in its last dimension; flattened."""
    state = cases.write(cases.params(**kw), form, pool)
    with pytest.raises(ValueError, match=r"not in the table: \['one_more'\]"):
        cases.read({**state, "one_more": np.zeros(3)}, form, pool)
    always = {weights.FORMATS[form].parts[p] for p in weights.FORMATS[form].always}
    for key, value in state.items():
        if key not in ALONE - always:
            rest = {k: v for k, v in state.items() if k != key}
            # Without its weight, a layer's bias is left over.
            layer = INSTEAD.get(key, key.rpartition(".")[0] or key)
            with pytest.raises(ValueError, match=re.escape(layer)):
                cases.read(rest, form, pool)
        named = f"{re.escape(key)}.* (shape|cannot be)"
        wrong = [value.reshape(-1)] if value.ndim > 1 else []
        if value.ndim != 4:  # patches of 4 x 5 pixels would be another good model
            wrong.append(np.concatenate([value, value[..., :1]], axis=-1))
        for other in wrong:
            with pytest.raises(ValueError, match=named):
                cases.read({**state, key: other}, form, pool)


def test_a_wrong_shape_is_named_with_both():
    state = state_of("timm", **LEARN)
    state["blocks.1.mlp.fc1.weight"] = np.zeros((41, 24))
    words = r"blocks.1.mlp.fc1.weight must have the shape \(40, 24\), got \(41, 24\)"
    with pytest.raises(ValueError, match=words):
        cases.read(state, "timm", {})
    params = cases.params(**LEARN)
    params["head"]["bias"] = np.zeros(6, np.float32)
    with pytest.raises(ValueError, match=r"head/bias must have the shape \(5,\)"):
        weights.to_state_dict(params, format="timm")


def test_parameters_must_be_whole():
    params = cases.params(**LEARN)
    more = {**params, "extra": {"kernel": np.zeros(1)}}
    with pytest.raises(ValueError, match=r"not in the table: \['extra/kernel'\]"):
        weights.to_state_dict(more, format="timm")
    del params["embedding"]
    with pytest.raises(ValueError, match=r"missing: \['embedding/bias', 'embedding/k"):
        weights.to_state_dict(params, format="timm")


def test_timm_models_that_are_unlike_ours_are_refused_with_the_reason():
    key = "blocks.0.attn.q_norm.weight"
    state = {**state_of("timm", **LEARN), key: np.ones(24)}
    words = f"'{key}' of timm's .*no normalization of queries and keys"
    with pytest.raises(ValueError, match=words):
        cases.read(state, "timm", {})
    state = state_of("timm", **LEARN, pool_type="map")
    state["cls_token"] = np.zeros((1, 1, 24))
    with pytest.raises(ValueError, match="both a class token and attention pooling"):
        cases.read(state, "timm", {"grid": (3, 3)})


def test_posemb_that_is_not_there_or_not_that():
    learned, none = cases.params(**LEARN), cases.params(posemb="none")
    for params, say, words in (
        (learned, {"posemb": "sincos2d", "grid": (3, 3)},
         r"'sincos2d', but the parameters have a pos"),
        (learned, {"posemb": "sincos"}, "posemb must be one of"),
        (none, {"posemb": "learn"}, "the parameters have no pos_embedding"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            weights.to_state_dict(params, format="timm", **say)
    state = weights.to_state_dict(learned, format="timm")
    bare = weights.to_state_dict(none, format="timm", posemb="none")
    for stored, posemb, words in (
        (state, "sincos2d", "not those constants"),
        (state, "none", "has position embeddings"),
        (state, "sincos", "posemb must be one of"),
        (bare, "sincos2d", "no position embeddings"),
    ):
        with pytest.raises(ValueError, match=words):
            cases.read(stored, "timm", {"posemb": posemb})


def test_positions_of_no_square_need_their_grid():
    state = state_of("timm", **TOK, grid=cases.WIDE)
    with pytest.raises(ValueError, match="7 positions, with or without the 1 other"):
        cases.read(state, "timm", {})
    with pytest.raises(ValueError, match=r"do not fit the grid \(4, 2\)"):
        cases.read(state, "timm", {"grid": (4, 2)})


def test_a_state_dict_of_no_known_format():
    words = r"none of the formats .*keys include conv1.weight"
    with pytest.raises(ValueError, match=words):
        weights.format_of({"conv1.weight": np.zeros(1)})
    with pytest.raises(ValueError, match="lacks 'class_token'"):
        weights.from_state_dict(state_of("timm", **LEARN), format="torchvision")
