"""python -m vitjax.tools.attention_rollout: from a checkpoint and a photo to a picture."""

from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from vitjax.config import experiment
from vitjax.models import MODELS, vit
from vitjax.tools import attention_rollout, photos
from vitjax.tools.trained import Trained, open_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cat.jpg"
    Image.fromarray(skimage.data.chelsea()).save(path)
    return path


def test_both_pictures_are_drawn(tok_run, photo, tmp_path, capsys):
    out, posemb = tmp_path / "out.png", tmp_path / "positions.png"
    flags = ["--ckpt", tok_run, "--image", photo, "--out", out, "--posemb", posemb]
    assert attention_rollout.main([*map(str, flags)]) == 0
    logits, _ = open_trained(tok_run).apply(
        photos.feed(photo, open_trained(tok_run).evaluator()[1])
    )
    best = logits[0].argmax()  # digits are their own names
    assert f"{out}: {best} (class {best})" in capsys.readouterr().out
    for path in (out, posemb):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert pixels.shape[1] > 1200
        assert pixels.shape[0] > 400
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_the_photo_is_left_of_its_two_maps(tmp_path):
    """It is grey there and coloured under the maps, one of which is the same everywhere."""
    grey = np.random.default_rng(0).normal(size=(8, 8, 1)) * 3
    maps = {"rollout": np.arange(16.0).reshape(4, 4), "last": np.full((2, 2), 0.2)}
    attention_rollout.draw(
        tmp_path / "a.png", grey, maps | {"layers": 1, "heads": 1}, ""
    )
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    colour = np.ptp(pixels, axis=-1)[100:400]
    third = colour.shape[1] // 3
    assert (colour[:, : third - 60] == 0).mean() > 0.9
    assert (colour[:, third:] > 20).mean() > 0.5


def test_a_photo_is_fed_as_the_evaluation_feeds_it(digits_run, photo):
    """The data set has grey images of 8 x 8; the photo's middle is resized to them."""
    image = photos.feed(photo, open_trained(digits_run).evaluator()[1])
    assert image.shape == (1, 8, 8, 1)
    cat = Image.open(photo)
    left = (cat.width - cat.height) // 2
    cat = cat.crop((left, 0, left + cat.height, cat.height)).convert("L")
    expected = np.asarray(cat.resize((8, 8), Image.Resampling.BILINEAR)) / 127.5 - 1
    np.testing.assert_allclose(image[0, ..., 0], expected, atol=0.04)


def trained_of(name, image, **model):
    """Return a Trained whose model has random parameters."""
    made = MODELS[name](num_classes=3, **model)
    params = jax.device_get(jax.jit(made.init)(jax.random.key(0), image)["params"])
    e = experiment.Experiment(input={}, num_classes=3, model_name=name, model=model)
    return Trained(
        Path("run"), "run, step 1", 1, {}, e, made, params, "params", image.shape[1:]
    )


TINY = {"patch_size": (4, 4), "width": 16, "num_heads": 2, "mlp_dim": 16, "depth": 2}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vit", {**TINY, "registers": 2}),
        ("vit", {**TINY, "pool_type": "tok", "scan": True, "posemb": "sincos2d"}),
        ("vit", {**TINY, "pool_type": "map", "attn_impl": "xla"}),
        ("nanovit", {**TINY, "dtype_mm": "bfloat16"}),
        ("torchvision_vit", TINY),
        ("tower", {"variant": "vit", "widths": (16, 16), "num_heads": (2, 2),
                   "mlp_dims": (32, 32)}),
        ("simplest_vit", {**TINY, "eta": 0.5}),
        ("simple_vit", TINY),
    ],
    ids=str,
)  # fmt: skip
def test_every_model_with_attention_has_its_maps(name, model):
    """Computed by hand: the row of the class token, or the mean row of the patches."""
    image = np.random.default_rng(0).random((1, 8, 12, 3), np.float32)
    trained = trained_of(name, image, **model)
    maps = attention_rollout.attention_maps(trained, image)
    params = trained.params
    if model.get("scan"):
        params, model = vit.scan_to_loop(params), {**model, "scan": False}
    plain = {k: v for k, v in model.items() if k != "attn_impl"}
    made = MODELS[name](num_classes=3, **plain, return_attn=True)
    _, out = jax.jit(made.apply)({"params": params}, image)
    total = None
    for i in range(maps["layers"]):
        probs = np.asarray(out["encoder"][f"block{i:02d}"]["attn"], np.float64)
        mean = sum(probs[0]) / len(probs[0])
        one = mean + np.eye(len(mean))
        total = one if total is None else one @ total
    total /= total.sum(1, keepdims=True)
    assert maps["layers"] == 2
    for key, matrix in (("rollout", total), ("last", mean)):
        expected = matrix[0, 1:7] if "cls" in params else matrix[:6, :6].mean(0)
        np.testing.assert_allclose(
            maps[key], expected.reshape(2, 3), atol=2e-3 if name == "nanovit" else 1e-5
        )
    assert maps["heads"] == len(probs[0])


def test_a_model_without_attention_is_refused():
    image = np.zeros((1, 28, 28, 1), np.float32)
    cnn = trained_of("small_cnn", image, width=2, code_size=4)
    with pytest.raises(ValueError, match="model 'small_cnn' has no attention to show"):
        attention_rollout.attention_maps(cnn, image)
