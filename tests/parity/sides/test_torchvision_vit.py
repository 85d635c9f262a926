"""The model of Fashion-MNIST's document against torchvision's own class."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from vitjax import step
from vitjax.models import MODELS
from vitjax.step.losses import LOSSES
from vitjax.trees import count
from vitjax.weights.libraries import import_torchvision

SMALL = {"width": 32, "depth": 2, "num_heads": 4, "mlp_dim": 48, "code_size": 12}


@pytest.fixture(scope="module")
def model():
    return MODELS["torchvision_vit"](num_classes=10, **SMALL)


@pytest.fixture(scope="module")
def initial(model):
    return jax.jit(model.init)(jax.random.key(0), np.zeros((1, 28, 28, 3)))["params"]


def torchs(**kw):
    """torchvision's class, and the last layer that the document adds."""
    vit = import_torchvision().models.VisionTransformer(
        image_size=28, patch_size=7, num_layers=kw["depth"], num_heads=kw["num_heads"],
        hidden_dim=kw["width"], mlp_dim=kw["mlp_dim"], num_classes=kw["code_size"],
    )  # fmt: skip
    return vit.eval(), torch.nn.Linear(kw["code_size"], 10)


def state_dict(params):
    """Our parameters under torchvision's names, written out by hand."""
    flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    d = flat["cls"].shape[-1]
    found = {
        "class_token": flat["cls"],
        "conv_proj.weight": flat["embedding/kernel"].transpose(3, 2, 0, 1),
        "conv_proj.bias": flat["embedding/bias"],
        "encoder.pos_embedding": flat["pos_embedding"],
        "encoder.ln.weight": flat["Transformer/encoder_norm/scale"],
        "encoder.ln.bias": flat["Transformer/encoder_norm/bias"],
        "heads.head.weight": flat["code/kernel"].T,
        "heads.head.bias": flat["code/bias"],
    }
    for i in range(SMALL["depth"]):
        ours = f"Transformer/encoderblock_{i}"
        theirs = f"encoder.layers.encoder_layer_{i}"
        attention = f"{ours}/MultiHeadDotProductAttention_0"
        qkv = [f"{attention}/{name}" for name in ("query", "key", "value")]
        found |= {
            f"{theirs}.self_attention.in_proj_weight": np.concatenate(
                [flat[f"{name}/kernel"].reshape(d, d).T for name in qkv]
            ),
            f"{theirs}.self_attention.in_proj_bias": np.concatenate(
                [flat[f"{name}/bias"].reshape(d) for name in qkv]
            ),
            f"{theirs}.self_attention.out_proj.weight": (
                flat[f"{attention}/out/kernel"].reshape(d, d).T
            ),
            f"{theirs}.self_attention.out_proj.bias": flat[f"{attention}/out/bias"],
        }
        for j, name in enumerate(("ln_1", "ln_2")):
            found[f"{theirs}.{name}.weight"] = flat[f"{ours}/LayerNorm_{j}/scale"]
            found[f"{theirs}.{name}.bias"] = flat[f"{ours}/LayerNorm_{j}/bias"]
        for j, name in enumerate(("mlp.0", "mlp.3")):
            dense = f"{ours}/MlpBlock_0/Dense_{j}"
            found[f"{theirs}.{name}.weight"] = flat[f"{dense}/kernel"].T
            found[f"{theirs}.{name}.bias"] = flat[f"{dense}/bias"]
    return {k: torch.tensor(np.ascontiguousarray(v)) for k, v in found.items()}


def test_code_and_logits_are_torchvisions(model, initial):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), initial
    )
    image = rng.random((3, 28, 28, 3), np.float32)
    logits, out = model.apply({"params": params}, image)
    vit, last = torchs(**SMALL)
    vit.load_state_dict(state_dict(params))
    with torch.no_grad():
        last.weight.copy_(torch.tensor(np.asarray(params["head"]["kernel"]).T))
        last.bias.copy_(torch.tensor(np.asarray(params["head"]["bias"])))
        code = vit(torch.tensor(image.transpose(0, 3, 1, 2)))
        expected = last(code).numpy()
    code = code.numpy()
    np.testing.assert_allclose(out["code"], code, atol=2e-5)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    assert float(np.abs(code).max()) > 0.1


def test_it_begins_as_torchvision_does(model):
    """Mean and deviation of each parameter: 60 seeds of ours and 60 of torch's."""

    def one(key):
        return model.init(key, np.zeros((1, 28, 28, 3)))["params"]

    keys = jax.random.split(jax.random.key(1), 60)
    ours = flatten_dict(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), sep="/")
    drawn = [
        state_dict(unflatten_dict({k: v[i] for k, v in ours.items()}, sep="/"))
        for i in range(60)
    ]
    torch.manual_seed(0)
    theirs = [torchs(**SMALL) for _ in range(60)]
    for name in drawn[0]:
        a = np.stack([d[name].numpy().ravel() for d in drawn]).astype(np.float64)
        b = np.stack([t.state_dict()[name].numpy().ravel() for t, _ in theirs])
        b = b.astype(np.float64)
        if not b.any() or np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b)
            continue
        n = a.size
        # Five standard errors; the kurtosis of a normal is the largest here.
        assert abs(a.mean() - b.mean()) < 5 * b.std() * (2 / n) ** 0.5, name
        assert abs(a.std() / b.std() - 1) < 5 * (1 / n) ** 0.5, name
    bias = np.concatenate([np.asarray(v).ravel() for v in ours["head/bias"]])
    bound = SMALL["code_size"] ** -0.5
    assert np.abs(bias).max() <= bound
    assert abs(bias.std() / (bound / 3**0.5) - 1) < 0.1


def test_at_first_the_code_is_zero_and_the_logits_are_the_last_bias(model, initial):
    rng = np.random.default_rng(0)
    image = rng.random((4, 28, 28, 3), np.float32)
    labels = jax.nn.one_hot(np.array([0, 3, 3, 9]), 10)
    logits, out = model.apply({"params": initial}, image)
    bias = np.asarray(initial["head"]["bias"])
    assert not np.any(out["code"])
    np.testing.assert_array_equal(logits, np.tile(bias, (4, 1)))
    loss = LOSSES["mse"](logits=logits, labels=labels)
    np.testing.assert_allclose(
        loss, np.mean((bias - np.asarray(labels)) ** 2), rtol=1e-6
    )
    tenth = LOSSES["mse"](logits=0.0 * logits + 0.1, labels=labels)
    np.testing.assert_allclose(tenth, 0.09, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, 2_185_610),
        ({"depth": 8, "code_size": 784}, 4_469_178),
        ({"depth": 8, "mlp_dim": 1024}, 6_395_274),
        ({"depth": 8, "width": 768, "num_heads": 12}, 25_453_962),
    ],
)
def test_parameters_are_as_many_as_in_the_document(sizes, expected):
    model = MODELS["torchvision_vit"](num_classes=10, **sizes)
    assert count(step.param_shapes(model, (28, 28, 3))) == expected


def test_the_small_cnn_has_as_many_as_in_the_document():
    model = MODELS["small_cnn"](num_classes=10)
    assert count(step.param_shapes(model, (28, 28, 1))) == 2_002_698
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3), torch.nn.Conv2d(32, 32, 3), torch.nn.Conv2d(32, 32, 3),
        torch.nn.Linear(22 * 22 * 32, 128), torch.nn.Linear(128, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in reference.parameters()) == 2_002_698
