"""A converted model gives the logits of the other library's own class, in float64.

The bound, 1e-9, is far above rounding and far below any wrong place of a number: the
parameters are random, of order one, and no two of them equal.
"""

import contextlib
import functools
import json

import numpy as np
import pytest
import torch

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.trees import flatten_with_names
from vitjax.weights import files, other_models, state_dicts, table
from vitjax.weights.checkpoint_model import model_of
from vitjax.weights.libraries import import_torchvision
from vitjax.weights.table import ATTENTION, BLOCK, Format

BOUND = 1e-9


def fill(model, state):
    """The torch model with these weights, in float64; nothing missing or left over."""
    model.double().eval()
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    return model


@torch.no_grad()
def torch_logits(model, image):
    return model(torch.tensor(image).permute(0, 3, 1, 2))


def assert_close(theirs, ours):
    assert theirs.shape == ours.shape
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=BOUND)


def check_both_ways(model, form, kw, say, grid=weights_cases.SQUARE, patch_size=(4, 4)):
    """Our weights in their model, and back out of it."""
    size = {"grid": grid, "patch_size": patch_size}
    params = weights_cases.params(dtype=np.float64, **size, **kw)
    fill(model, weights.to_state_dict(params, format=form, **say))
    image = weights_cases.image(**size)
    ours = functools.partial(
        weights_cases.logits, image=image, patch_size=patch_size, **kw
    )
    assert_close(torch_logits(model, image), ours(params, gelu="exact"))
    assert np.abs(ours(params, gelu="tanh") - ours(params, gelu="exact")).max() > 1e-5
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    weights_cases.assert_same_bits(params, weights_cases.read(state, form, say))


@torch.no_grad()
def check_their_own_weights(model, form, kw, say, grid=weights_cases.SQUARE):
    """Random weights of theirs: each tensor has another part in our logits."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.double().eval().state_dict().values():
        tensor.normal_(std=0.3, generator=generator)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    params = weights_cases.read(state, form, say)
    image = weights_cases.image(grid)
    ours = weights_cases.logits(params, image, gelu="exact", **kw)
    assert_close(torch_logits(model, image), ours)


def torchvision_model(**kw):
    import_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        image_size=12,
        patch_size=4,
        num_layers=2,
        num_heads=weights_cases.HEADS,
        hidden_dim=weights_cases.WIDTH,
        mlp_dim=40,
        num_classes=weights_cases.CLASSES,
        **kw,
    )


TOK = {"posemb": "learn", "pool_type": "tok"}
SINCOS = {"posemb": "sincos2d", "grid": weights_cases.SQUARE}


@pytest.mark.parametrize(
    ("kw", "say", "theirs"),
    [
        (TOK, {}, {}),
        (TOK | {"rep_size": 7}, {}, {"representation_size": 7}),
        (TOK | {"posemb": "sincos2d"}, SINCOS, {}),
    ],
    ids=weights_cases.label,
)
def test_torchvision(kw, say, theirs):
    check_both_ways(torchvision_model(**theirs), "torchvision", kw, say)
    if not say:
        check_their_own_weights(torchvision_model(**theirs), "torchvision", kw, {})


def test_torchvision_files_of_before_2022():
    """The published weights name the MLP's layers linear_1 and linear_2."""
    params = weights_cases.params(**TOK)
    state = weights.to_state_dict(params, format="torchvision")
    old = {
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
        for k, v in state.items()
    }
    assert old.keys() != state.keys()
    weights_cases.assert_same_bits(params, weights_cases.read(old, "torchvision", {}))
    with pytest.raises(ValueError, match="under two names"):
        weights_cases.read({**old, **state}, "torchvision", {})


def timm_model(patch_size=4, image_size=12, distilled=False, **kw):
    import_torchvision()  # which timm imports
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    cls = VisionTransformerDistilled if distilled else VisionTransformer

    # The arguments that vitjax.weights.formats.timm gives for a model of ours.
    kw = {"fc_norm": False} | kw
    return cls(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=weights_cases.WIDTH,
        depth=2,
        num_heads=weights_cases.HEADS,
        mlp_ratio=40 / weights_cases.WIDTH,
        num_classes=weights_cases.CLASSES,
        **kw,
    )


GAP = {"class_token": False, "global_pool": "avg"}
MAP = {"class_token": False, "global_pool": "map"}


@pytest.mark.parametrize(
    ("kw", "say", "theirs"),
    [
        (TOK, {}, {}),
        (TOK | {"registers": 2}, {}, {"reg_tokens": 2, "no_embed_class": True}),
        ({"posemb": "learn"}, {}, GAP),
        ({"posemb": "sincos2d"}, SINCOS, GAP),
        ({"posemb": "none"}, {"posemb": "none"}, GAP | {"pos_embed": "none"}),
        (
            {"posemb": "learn", "registers": 2},
            {},
            GAP | {"reg_tokens": 2, "no_embed_class": True},
        ),
        ({"posemb": "learn", "pool_type": "map"}, {}, MAP),
        # DINOv2, without and with registers.
        (TOK | {"layer_scale": 1e-5}, {}, {"init_values": 1e-5}),
        (
            TOK | {"layer_scale": 1e-5, "registers": 2},
            {},
            {"init_values": 1e-5, "reg_tokens": 2, "no_embed_class": True},
        ),
        # vit_*_reg4_gap_256.
        (
            {"posemb": "learn", "registers": 4, "norm_after_pool": True},
            {},
            GAP | {"reg_tokens": 4, "no_embed_class": True, "fc_norm": None},
        ),
        (
            TOK | {"registers": 1, "distilled": True},
            {},
            {"distilled": True},
        ),
    ],
    ids=weights_cases.label,
)
def test_timm(kw, say, theirs):
    check_both_ways(timm_model(**theirs), "timm", kw, say)
    if not say:
        check_their_own_weights(timm_model(**theirs), "timm", kw, {})


def test_timm_registers_that_have_positions():
    """Positions of class token and registers are added to these."""
    model = timm_model(reg_tokens=2)
    assert model.pos_embed.shape[1] == 12
    check_their_own_weights(model, "timm", TOK | {"registers": 2}, {})


def test_timm_grids_and_patches_that_are_not_square():
    kw, shape = (
        {"posemb": "sincos2d"},
        {"grid": weights_cases.WIDE, "patch_size": (4, 6)},
    )
    model = timm_model(patch_size=(4, 6), image_size=(8, 18), **GAP)
    check_both_ways(model, "timm", kw, SINCOS | {"grid": weights_cases.WIDE}, **shape)


def test_timm_deit_iii_by_its_own_and_its_published_names():
    """The class token has no position, which the grid tells."""
    model = timm_model(init_values=1e-6, no_embed_class=True)
    kw = TOK | {"layer_scale": 1e-6}
    say = {"grid": weights_cases.SQUARE}
    check_their_own_weights(model, "timm", kw, say)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    published = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
        for k, v in state.items()
    }
    assert published.keys() != state.keys()
    expected = weights_cases.read(state, "timm", say)
    weights_cases.assert_same_bits(expected, weights_cases.read(published, "timm", say))


def test_timm_mae_as_fine_tuned_averages_beside_a_class_token():
    """The token, with its position, is one more register."""
    model = timm_model(global_pool="avg", fc_norm=None)
    kw = {"posemb": "learn", "registers": 1, "norm_after_pool": True}
    check_their_own_weights(model, "timm", kw, {})
    model = timm_model(global_pool="avg")
    kw = {"posemb": "learn", "registers": 1}
    check_their_own_weights(model, "timm", kw, {"pool_type": "gap"})


@pytest.mark.parametrize(("act", "gelu"), [("quick_gelu", "quick"), ("gelu", "exact")])
def test_timm_clip(act, gelu):
    """Both ways; a LayerNorm before the blocks, no bias in the embedding, eps 1e-5."""
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    model = timm_model(pre_norm=True, act_layer=act, norm_layer=norm)
    kw = TOK | {"pre_norm": True}
    ours = kw | {"gelu": gelu, "norm_eps": 1e-5}
    params = weights_cases.params(dtype=np.float64, **kw)
    assert "bias" not in params["embedding"]
    fill(model, weights.to_state_dict(params, format="timm"))
    image = weights_cases.image()
    theirs = torch_logits(model, image)
    assert_close(theirs, weights_cases.logits(params, image, **ours))
    for change in ({"norm_eps": 1e-6}, {"gelu": "tanh"}):
        other = weights_cases.logits(params, image, **ours | change)
        assert np.abs(theirs.numpy() - other).max() > 1e-6
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    weights_cases.assert_same_bits(params, weights_cases.read(state, "timm", {}))


@pytest.mark.parametrize(
    "kw",
    [
        TOK | {"registers": 1, "distilled": True, "layer_scale": 0.1},
        {"posemb": "learn", "norm_after_pool": True, "pre_norm": True, "gelu": "quick"},
    ],
    ids=weights_cases.label,
)
def test_timms_class_as_export_makes_it(kw):
    params = weights_cases.params(**{k: v for k, v in kw.items() if k != "gelu"})
    state = weights.to_state_dict(params, format="timm")
    image = weights_cases.image().astype(np.float32)
    model = weights_cases.model(**{"gelu": "exact"} | kw, norm_eps=1e-3)
    theirs = other_models.logits("timm", model, state, image)
    ours = weights_cases.logits(params, image, **{"gelu": "exact"} | kw, norm_eps=1e-3)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("act", "gelu"),
    [
        ("gelu", "exact"),
        ("gelu_python", "exact"),
        ("gelu_pytorch_tanh", "tanh"),
        ("gelu_new", "tanh"),
        ("gelu_fast", "tanh"),
        ("quick_gelu", "quick"),
    ],
)
def test_huggingface(act, gelu, tmp_path):
    """Through a folder on disk, which is how its models travel."""
    pytest.importorskip("transformers")
    import_torchvision()  # which transformers imports where it is installed
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=weights_cases.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=weights_cases.HEADS,
        intermediate_size=40,
        hidden_act=act,
        layer_norm_eps=1e-6,
        image_size=12,
        patch_size=4,
        num_labels=weights_cases.CLASSES,
    )
    config.save_pretrained(tmp_path / "unnamed")
    names = [f"class {k}, or so" for k in range(weights_cases.CLASSES)]
    config.id2label = dict(enumerate(names))
    params = weights_cases.params(dtype=np.float64, **TOK)
    state = weights.to_state_dict(params, format="huggingface")
    config.save_pretrained(tmp_path)
    files.write(tmp_path / "model.safetensors", state, {"format": "pt"})
    model = ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    image = weights_cases.image()
    theirs = torch_logits(lambda x: model.eval()(x).logits, image)
    assert_close(theirs, weights_cases.logits(params, image, gelu=gelu, **TOK))
    # config.json tells the GELU, the heads, and the names of the classes.
    assert model_of(tmp_path)["gelu"] == gelu
    assert weights.beside(tmp_path) == {"class_names": names}
    files.write(tmp_path / "unnamed" / "model.safetensors", state, {"format": "pt"})
    assert weights.beside(tmp_path / "unnamed") == {}
    weights_cases.assert_same_bits(params, weights.load(tmp_path)[0])
    own = {k: v.numpy() for k, v in model.state_dict().items()}
    weights_cases.assert_same_bits(params, weights_cases.read(own, "huggingface", {}))
    model.save_pretrained(tmp_path / "again")
    weights_cases.assert_same_bits(params, weights.load(tmp_path / "again")[0])


def test_a_huggingface_model_of_another_activation_is_refused(tmp_path):
    params = weights_cases.params(**TOK)
    state = weights.to_state_dict(params, format="huggingface")
    files.write(tmp_path / "model.safetensors", state, {"format": "pt"})
    config = {"hidden_act": "relu", "num_attention_heads": weights_cases.HEADS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown hidden_act of config\.json 'relu'"):
        model_of(tmp_path)


@pytest.fixture
def offline(monkeypatch):
    """A machine of which nothing leaves."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def written_for_huggingface(seed=0):
    params = weights_cases.params(seed=seed, **TOK)
    return params, weights.to_state_dict(params, format="huggingface")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_huggingfaces_class_as_export_makes_it(gelu):
    """From a folder of its own, in float32; its settings are as they were."""
    transformers = pytest.importorskip("transformers")
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    params, state = written_for_huggingface()
    image = weights_cases.image().astype(np.float32)
    model = weights_cases.model(gelu=gelu, **TOK)
    theirs = other_models.logits("huggingface", model, state, image)
    ours = weights_cases.logits(params, image, gelu=gelu, **TOK)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


NORM = "vit.encoder.layer.0.layernorm_before.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop(NORM), "missing_keys: .*layernorm_before.weight"),
        (
            lambda state: state.update({"vit.a.b": state[NORM]}),
            "unexpected_keys: vit.a.b",
        ),
        (
            lambda state: state.update({"classifier.bias": np.zeros(7, np.float32)}),
            "mismatched_keys: .*classifier.bias",
        ),
    ],
    ids=["missing", "unexpected", "mismatched"],
)
def test_what_huggingfaces_class_would_only_warn_of_is_refused(change, words):
    pytest.importorskip("transformers")
    _, state = written_for_huggingface()
    change(state)
    image = weights_cases.image().astype(np.float32)
    with pytest.raises(RuntimeError, match=words):
        other_models.logits("huggingface", weights_cases.model(**TOK), state, image)


def _simple_vit(parts):
    """vit-pytorch's SimpleViT as a format: what of it can hold a model of ours."""

    def rows(leaves):  # pixels before channels, as big_vision's patches too
        return [leaves[0].reshape(-1, leaves[0].shape[-1]).T]

    theirs, ours = ("to_patch_embedding.2.weight",), ("embedding/kernel",)
    yield table.Entry(
        theirs, ours, rows, lambda tensors: [tensors[0].T.reshape(4, 4, 3, -1)]
    )
    yield table.same("to_patch_embedding.2.bias", "embedding/bias")
    for i in range(parts.depth):
        attention, mlp = f"transformer.layers.{i}.0", f"transformer.layers.{i}.1.net"
        block = BLOCK.format(i)
        yield from table.norm(f"{attention}.norm", f"{block}/LayerNorm_0")
        yield from table.fused(
            f"{attention}.to_qkv.weight",
            f"{attention}.to_qkv.bias",
            f"{block}/{ATTENTION}",
        )
        yield from table.dense(f"{attention}.to_out", f"{block}/{ATTENTION}/out", 2)
        yield from table.norm(f"{mlp}.0", f"{block}/LayerNorm_1")
        yield from table.dense(f"{mlp}.1", f"{block}/MlpBlock_0/Dense_0")
        yield from table.dense(f"{mlp}.3", f"{block}/MlpBlock_0/Dense_1")
    yield from table.norm("transformer.norm", "Transformer/encoder_norm")
    yield from table.dense("linear_head", "head")


SIMPLE_VIT = Format(
    title="vit-pytorch's SimpleViT",
    table=_simple_vit,
    signature=(),
    block="transformer.layers.{}.",
    parts={"head": "linear_head.weight"},
    stores_sincos=False,
)


@contextlib.contextmanager
def default_dtype(dtype):
    """What torch computes with where nothing is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("grid", [weights_cases.SQUARE, weights_cases.WIDE])
def test_vit_pytorch(grid):
    """The third opinion on sincos2d and on the order of pixels inside a patch.

    Its SimpleViT has two LayerNorms around the embedding, which ours has not, and no
    biases in its attention: without the first, it is ours with zeros for the second.
    """
    import_torchvision()  # which vit_pytorch imports
    from vit_pytorch import SimpleViT
    from vit_pytorch.simple_vit import posemb_sincos_2d

    model = SimpleViT(
        image_size=(grid[0] * 4, grid[1] * 4),
        patch_size=4,
        num_classes=weights_cases.CLASSES,
        dim=weights_cases.WIDTH,
        depth=2,
        heads=weights_cases.HEADS,
        dim_head=weights_cases.WIDTH // weights_cases.HEADS,
        mlp_dim=40,
    )
    model.to_patch_embedding[1] = model.to_patch_embedding[3] = torch.nn.Identity()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    params = weights_cases.params(grid, dtype=np.float64, posemb="sincos2d")
    for name, leaf in flatten_with_names(params):
        if ATTENTION in name and name.endswith("/bias"):
            leaf[:] = 0
    state = state_dicts.write(params, SIMPLE_VIT, posemb="sincos2d")
    back = state_dicts.read(state, SIMPLE_VIT, num_heads=weights_cases.HEADS)
    weights_cases.assert_same_bits(params, back)
    # Its own function, of whose table it keeps float32.
    with default_dtype(torch.float64):
        model.pos_embedding = posemb_sincos_2d(
            *grid, weights_cases.WIDTH, dtype=torch.float64
        )
    state = {k: v for k, v in state.items() if not k.endswith(("qkv.bias", "out.bias"))}
    fill(model, state)
    kw = {"posemb": "sincos2d", "gelu": "exact"}
    ours = weights_cases.logits(params, weights_cases.image(grid), **kw)
    assert_close(torch_logits(model, weights_cases.image(grid)), ours)
    turned = weights_cases.logits(params, weights_cases.image(grid)[:, ::-1], **kw)
    assert np.abs(turned - ours).max() > 1e-2
