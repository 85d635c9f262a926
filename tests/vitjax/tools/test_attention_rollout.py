"""python -m vitjax.tools.attention_rollout: from a checkpoint and a photo to a picture."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from vitjax.config import experiment
from vitjax.models import MODELS, vit
from vitjax.records.jsonl import read_rows
from vitjax.tools import attention_rollout, photos
from vitjax.tools.trained import Trained, open_trained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
ON_DEVICE = (
    "value_range(0, 1)|onehot(10, key='label', key_result='labels')"
    "|keep('image', 'labels')"
)
# nanoViT's step 6 on 8 x 8 digits: its recipe, a hundredth of its size.
DIGITS = [
    f"--config={ROOT / 'configs' / 'nanovit.py'}:step=6,dtype=float32",
    "--config.input.data={'kind': 'arrays', 'name': 'digits', 'split': 'train'}",
    "--config.input.pp=pad_crop(8, 1)|keep('image', 'label')",
    f"--config.device_pp={ON_DEVICE}",
    "--config.evals.val.data={'kind': 'arrays', 'name': 'digits', 'split': 'test'}",
    f"--config.evals.val.device_pp={ON_DEVICE}",
    "--config.evals.val.log_steps=240",
    "--config.model.width=48",
    "--config.model.depth=2",
    "--config.model.patch_size=(2, 2)",
    "--config.input.batch_size=64",
    "--config.lr=0.003",
    "--config.wd=0.0003",
    "--config.total_steps=240",
    "--config.ckpt_steps=240",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of nanoViT, trained on digits, on the one device that a shell has."""
    workdir = tmp_path_factory.mktemp("nanovit") / "run"
    command = [sys.executable, "-m", "vitjax.train", *DIGITS, f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cat.jpg"
    Image.fromarray(skimage.data.chelsea()).save(path)
    return path


def test_nanovit_learns(workdir):
    rows = [row for row in read_rows(workdir) if "val/prec@1" in row]
    first, last = rows[0], rows[-1]
    assert (first["step"], last["step"]) == (0, 240)
    assert first["val/prec@1"] < 0.3
    assert last["val/prec@1"] > 0.7
    assert last["val/loss"] < 0.5 * first["val/loss"]
    rates = {row["step"]: row["lr"] for row in read_rows(workdir) if "lr" in row}
    # The first update has a 24th of the rate: a warm-up of a tenth, not from 0.
    assert rates[1] == pytest.approx(0.003 / 24, rel=1e-5)


def test_from_a_shell_to_a_picture(workdir, photo, tmp_path):
    out, posemb = tmp_path / "out.png", tmp_path / "positions.png"
    command = [
        sys.executable, "-m", "vitjax.tools.attention_rollout", "--ckpt", str(workdir),
        "--image", str(photo), "--out", str(out), "--posemb", str(posemb),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    for path in (out, posemb):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[1] > 1200
        assert pixels.shape[0] > 400
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    # The photo stands to the left of its two maps: grey there, coloured here.
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    colour = np.ptp(pixels, axis=-1)[100:400]
    third = colour.shape[1] // 3
    assert (colour[:, : third - 60] == 0).mean() > 0.9
    assert (colour[:, third:] > 20).mean() > 0.5


def test_a_photo_is_fed_as_the_evaluation_feeds_it(workdir, photo):
    """Its middle, 8 x 8, in grey, 0 to 1."""
    image = photos.feed(photo, open_trained(workdir).evaluator()[1])
    assert image.shape == (1, 8, 8, 1)
    cat = Image.open(photo)
    left = (cat.width - cat.height) // 2
    cat = cat.crop((left, 0, left + cat.height, cat.height)).convert("L")
    expected = np.asarray(cat.resize((8, 8), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(image[0, ..., 0], expected, atol=0.02)


def test_a_photo_is_decoded_where_the_evaluation_decodes(photo):
    pp = "decode(precise=True)|central_crop(32)|keep('image', 'label')"
    device_pp = "value_range(-1, 1)|onehot(7, key='label', key_result='labels')"
    image = photos.feed(photo, {"pp_fn": pp, "device_pp": device_pp})
    assert image.shape == (1, 32, 32, 3)
    cat = np.asarray(Image.open(photo))
    top, left = ((side - 32) // 2 for side in cat.shape[:2])
    expected = cat[top : top + 32, left : left + 32] / 127.5 - 1
    np.testing.assert_allclose(image[0], expected, atol=1e-6)


def trained_of(name, image, **model):
    """A Trained of random parameters, of the form that `model` asks for."""
    made = MODELS[name](num_classes=3, **model)
    params = jax.device_get(made.init(jax.random.key(0), image)["params"])
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
        ("tower", {"variant": "vit"}),
        ("simplest_vit", {**TINY, "eta": 0.5}),
        ("simple_vit", TINY),
    ],
    ids=str,
)
def test_every_model_with_attention_has_its_maps(name, model):
    """The rows of the class token, or the mean of the patches', by hand."""
    image = np.random.default_rng(0).random((1, 8, 12, 3), np.float32)
    trained = trained_of(name, image, **model)
    maps = attention_rollout.attention_maps(trained, image)
    params = trained.params
    if model.get("scan"):
        params, model = vit.scan_to_loop(params), {**model, "scan": False}
    plain = {k: v for k, v in model.items() if k != "attn_impl"}
    made = MODELS[name](num_classes=3, **plain, return_attn=True)
    _, out = made.apply({"params": params}, image)
    total = None
    for i in range(maps["layers"]):
        probs = np.asarray(out["encoder"][f"block{i:02d}"]["attn"], np.float64)
        mean = sum(probs[0]) / len(probs[0])
        one = mean + np.eye(len(mean))
        total = one if total is None else one @ total
    total /= total.sum(1, keepdims=True)
    assert maps["layers"] == (3 if name == "tower" else 2)
    for key, matrix in (("rollout", total), ("last", mean)):
        expected = matrix[0, 1:7] if "cls" in params else matrix[:6, :6].mean(0)
        np.testing.assert_allclose(
            maps[key], expected.reshape(2, 3), atol=2e-3 if name == "nanovit" else 1e-5
        )
    assert maps["heads"] == len(probs[0])


def test_a_map_that_is_the_same_everywhere_can_be_drawn(tmp_path):
    maps = {"rollout": np.full((2, 2), 0.2), "last": np.full((2, 2), 0.2)}
    maps |= {"layers": 1, "heads": 1}
    image = np.random.default_rng(0).normal(size=(300, 200, 3)) * 3
    attention_rollout.draw(tmp_path / "a.png", image, maps, "a title")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height > 600


def run(capsys, *flags):
    """The one sentence of a command that must fail."""
    assert attention_rollout.main([str(flag) for flag in flags]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_mistakes_are_one_sentence(workdir, photo, tmp_path, capsys):
    out = tmp_path / "out.png"
    to_out = ("--image", photo, "--out", out)
    assert "no checkpoint at" in run(capsys, "--ckpt", tmp_path, *to_out)
    ckpt = ("--ckpt", workdir)
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    line = run(capsys, *ckpt, "--image", text, "--out", out)
    assert "notes.jpg' is no image that can be decoded" in line
    line = run(capsys, *ckpt, "--image", tmp_path / "no.jpg", "--out", out)
    assert "cannot read" in line
    assert "No such file" in line
    line = run(capsys, *ckpt, "--image", photo, "--out", tmp_path / "out.jpg")
    assert "written as .png" in line
    line = run(capsys, *ckpt, "--image", photo, "--out", tmp_path / "no" / "out.png")
    assert "there is no folder" in line
    line = run(
        capsys, *ckpt, *to_out,
        "--config.evals.val.data={'kind': 'idx', 'data_dir': '/no', 'split': 'test'}",
    )  # fmt: skip
    assert "there is no folder /no; copy it there, or give a pp_fn" in line
    line = run(capsys, *ckpt, *to_out, "--config.evals.val.pp_fn=decode|resize(12)")
    assert "does not fit its model and images of 12 x 12 x 3" in line
    assert not out.exists()


def test_a_model_without_attention_or_positions_says_so(tmp_path):
    image = np.zeros((1, 28, 28, 1), np.float32)
    cnn = trained_of("small_cnn", image, width=2, code_size=4)
    with pytest.raises(ValueError, match="model 'small_cnn' has no attention to show"):
        attention_rollout.attention_maps(cnn, image)
    with pytest.raises(ValueError, match="no learned position embeddings"):
        attention_rollout.draw_posemb(tmp_path / "a.png", cnn)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to draw"),
        (["--image", "a.jpg"], "--image and --out go together"),
    ],
)
def test_flags_that_leave_nothing_to_do(flags, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        attention_rollout.parse_flags(["--ckpt", "run", *flags])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
