"""A converted model gives the logits of the other library's own class, in float64."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.helpers import weights_cases as cases
from tests.helpers.torch_models import (
    BOUND,
    assert_logits,
    drawn,
    huggingface_config,
    timm_model,
    torchvision_model,
)
from vitjax import weights
from vitjax.models.vit import GELUS
from vitjax.weights import files, other_models
from vitjax.weights.checkpoint_model import HIDDEN_ACTS, model_of

TOK = cases.TOK
MODELS = {"timm": timm_model, "torchvision": torchvision_model}


def arrays(model):
    return {k: v.numpy() for k, v in model.state_dict().items()}


def fill(model, state):
    """The torch model with these weights; nothing is missing or left over."""
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    return model


def check_their_weights(model, form, kw, say, keep=(), grid=cases.SQUARE, **size):
    """Random weights of theirs: each tensor has another part in our logits."""
    params = cases.read(arrays(drawn(model, keep=keep)), form, say)
    image = cases.image(grid, **size)
    ours = cases.logits(params, image, **{"gelu": "exact"} | kw, **size)
    assert_logits(model, ours, image)
    return params, image


@pytest.mark.parametrize(
    ("form", "kw", "say", "theirs"),
    [row for row in cases.EXPRESSIBLE if row[0] in MODELS],
    ids=cases.label,
)
def test_our_keys_and_their_weights(form, kw, say, theirs):
    """Our state dict fits their class; their weights give our logits.

    Every state dict of ours comes back to the bit, as test_round_trips.py shows: one
    direction of the logits is enough.
    """
    model = MODELS[form](**theirs).double()
    fill(model, cases.write(cases.params(dtype=np.float64, **kw), form, say))
    constant = ("pos_embed", "pos_embedding", "encoder.pos_embedding")
    keep = constant if kw["posemb"] == "sincos2d" else ()
    check_their_weights(model, form, kw, say, keep)


def test_the_bound_tells_two_gelus_apart():
    model = drawn(timm_model())
    params = cases.read(arrays(model), "timm", {})
    with pytest.raises(AssertionError):
        assert_logits(model, cases.logits(params, cases.image(), gelu="tanh", **TOK))


@pytest.mark.parametrize(
    ("theirs", "kw", "say"),
    [
        # Class token and registers have positions, which are added to them.
        ({"reg_tokens": 2}, TOK | {"registers": 2}, {}),
        # DeiT-III: the class token has no position, which the grid shows.
        (
            {"init_values": 1e-6, "no_embed_class": True},
            TOK | {"layer_scale": 1e-6},
            {"grid": cases.SQUARE},
        ),
        # MAE as fine-tuned averages with a class token, which is one more register.
        (
            {"global_pool": "avg", "fc_norm": None},
            {"posemb": "learn", "registers": 1, "norm_after_pool": True},
            {},
        ),
        ({"global_pool": "avg"}, {"posemb": "learn", "registers": 1}, {"pool_type": "gap"}),
    ],
    ids=["positions of registers", "deit-iii", "mae", "mae without fc_norm"],
)  # fmt: skip
def test_timm_models_that_are_only_read(theirs, kw, say):
    check_their_weights(timm_model(**theirs), "timm", kw, say)


def test_timm_grids_and_patches_that_are_not_square():
    size = {"grid": cases.WIDE, "patch_size": (4, 6)}
    say = {"posemb": "sincos2d", "grid": cases.WIDE}
    model = timm_model(patch_size=(4, 6), image_size=(8, 18), **cases.GAP).double()
    params = cases.params(dtype=np.float64, posemb="sincos2d", **size)
    fill(model, cases.write(params, "timm", say))
    kw = {"posemb": "sincos2d"}
    check_their_weights(model, "timm", kw, say, ["pos_embed"], **size)


def test_timm_clip():
    """A LayerNorm before the blocks, no bias in the embedding, eps 1e-5, quick GELU."""
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    model = timm_model(pre_norm=True, act_layer="quick_gelu", norm_layer=norm)
    kw = TOK | {"pre_norm": True, "gelu": "quick", "norm_eps": 1e-5}
    params, image = check_their_weights(model, "timm", kw, {})
    assert "bias" not in params["embedding"]
    for change in ({"norm_eps": 1e-6}, {"gelu": "tanh"}):
        with pytest.raises(AssertionError):
            assert_logits(model, cases.logits(params, image, **kw | change))


@pytest.mark.parametrize(
    ("form", "kw", "names"),
    [
        # The published weights of before 2022.
        ("torchvision", TOK, {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}),
        # DeiT-III's published files.
        ("timm", TOK | {"layer_scale": 1.0}, {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}),
    ],
    ids=["torchvision", "deit-iii"],
)  # fmt: skip
def test_older_names(form, kw, names):
    params = cases.params(**kw)
    state = weights.to_state_dict(params, format=form)
    old = {}
    for key, value in state.items():
        for new_name, old_name in names.items():
            key = key.replace(new_name, old_name)
        old[key] = value
    assert old.keys() != state.keys()
    cases.assert_same_bits(params, cases.read(old, form, {}))
    with pytest.raises(ValueError, match="under two names"):
        cases.read({**old, **state}, form, {})


def test_huggingface(tmp_path):
    """Its models travel as folders; config.json has the GELU, heads and class names."""
    config = huggingface_config(hidden_act="gelu_new")
    config.save_pretrained(tmp_path)
    params = cases.params(dtype=np.float64, **TOK)
    state = weights.to_state_dict(params, format="huggingface")
    files.write(tmp_path / "model.safetensors", state, {"format": "pt"})
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert_logits(model.eval(), cases.logits(params, cases.image(), gelu="tanh", **TOK))
    assert model_of(tmp_path)["gelu"] == "tanh"
    cases.assert_same_bits(params, weights.load(tmp_path)[0])
    # The keys that transformers 5 has in memory, and those that it writes.
    cases.assert_same_bits(params, cases.read(arrays(model), "huggingface", {}))
    model.save_pretrained(tmp_path / "again")
    cases.assert_same_bits(params, weights.load(tmp_path / "again")[0])
    # LABEL_i is no name; names are in the order of their numbers, not of the text.
    assert weights.metadata(tmp_path) == {}
    told = json.loads((tmp_path / "config.json").read_text())
    told["id2label"] = {k: f"class {k}, or so" for k in sorted(map(str, range(12)))}
    (tmp_path / "config.json").write_text(json.dumps(told))
    names = [f"class {k}, or so" for k in range(12)]
    assert weights.metadata(tmp_path) == {"class_names": names}
    told["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"unknown hidden_act of config\.json 'relu'"):
        model_of(tmp_path)


@pytest.mark.parametrize("act", HIDDEN_ACTS)
def test_each_activation_of_hugging_face_is_a_gelu_of_ours(act):
    transformers = pytest.importorskip("transformers")
    x = np.linspace(-6, 6, 201)
    theirs = transformers.activations.ACT2FN[act](torch.tensor(x)).numpy()
    with jax.enable_x64(True):
        ours = GELUS[HIDDEN_ACTS[act]](jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUND)


@pytest.fixture
def offline(monkeypatch):
    """A machine that connects to nothing."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("form", "kw"),
    [
        ("timm", TOK | {"registers": 1, "distilled": True, "layer_scale": 0.1}),
        (
            "timm",
            {"posemb": "learn", "norm_after_pool": True, "pre_norm": True, "gelu": "quick"},
        ),
        ("huggingface", TOK | {"gelu": "tanh"}),
    ],
    ids=cases.label,
)  # fmt: skip
def test_their_class_as_export_makes_it(form, kw):
    """float32 logits; transformers' global settings stay."""
    logging = pytest.importorskip("transformers").utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    params = cases.params(**{k: v for k, v in kw.items() if k != "gelu"})
    state = weights.to_state_dict(params, format=form)
    image = cases.image().astype(np.float32)
    kw = {"gelu": "exact", "norm_eps": 1e-3} | kw
    theirs = other_models.logits(form, cases.model(**kw), state, image)
    ours = cases.logits(params, image, **kw)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_files_that_huggingfaces_class_only_warns_of_are_refused():
    pytest.importorskip("transformers")
    whole = weights.to_state_dict(cases.params(**TOK), format="huggingface")
    norm = "vit.encoder.layer.0.layernorm_before.weight"
    for state, words in [
        (
            {k: v for k, v in whole.items() if k != norm},
            f"missing_keys: .*{norm[-23:]}",
        ),
        (whole | {"vit.a.b": whole[norm]}, "unexpected_keys: vit.a.b"),
        (
            whole | {"classifier.bias": np.zeros(7, np.float32)},
            "mismatched_keys: .*classifier.bias",
        ),
    ]:
        image = cases.image().astype(np.float32)
        with pytest.raises(RuntimeError, match=words):
            other_models.logits("huggingface", cases.model(**TOK), state, image)
