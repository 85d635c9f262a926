"""Exports: what other libraries and jax.export make of a run's model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import numpy as their_safetensors

from tests.helpers.runs import run, run_tok
from vitjax.models import MODELS
from vitjax.tools import convert, evaluate, export, predict
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gap(tmp_path_factory):
    """A small run of quickstart's ViT: mean pooling, constant positions, tanh GELU."""
    workdir = tmp_path_factory.mktemp("gap")
    assert run(workdir, "--config.model.width=32") == 0
    return workdir


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tok")
    assert run_tok(workdir) == 0
    return workdir


@pytest.mark.parametrize(
    ("which", "to", "file", "words"),
    [
        ("gap", "timm", "x.safetensors", "timm's own logits differ by"),
        ("tok", "timm", "x.pth", "timm's own logits differ by"),
        ("tok", "torchvision", "x.pth", "torchvision's own logits differ by"),
        ("gap", "big_vision", "x.npz", "read back and compared"),
        ("gap", "mup_vit", "x.pth", "read back and compared"),
        ("gap", "safetensors", "x.safetensors", "read back and compared"),
        ("gap", "stablehlo", "x.stablehlo", "run on batches of 1 and 3 images of 8"),
    ],
)
def test_each_format_is_written_and_checked(
    request, tmp_path, capsys, which, to, file, words
):
    workdir, out = request.getfixturevalue(which), tmp_path / file
    # A lone "of" would hide a skipped check: the words say which one was made.
    code = export.main(["--ckpt", str(workdir), "--to", to, str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert words in printed.out
    assert out.stat().st_size > 10_000
    assert [p.name for p in tmp_path.iterdir()] == [file]
    # A second time it does not write over it.
    before = out.read_bytes()
    assert export.main(["--ckpt", str(workdir), "--to", to, str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize("file", ["x.safetensors", "x.bin"])
def test_hugging_faces_own_class_reads_what_is_written(tok, tmp_path, capsys, file):
    pytest.importorskip("transformers")
    out = tmp_path / file
    assert export.main(["--ckpt", str(tok), "--to", "huggingface", str(out)]) == 0
    printed = capsys.readouterr()
    assert "huggingface's own logits differ by" in printed.out
    # Nor transformers' bar and report.
    assert printed.err == ""
    assert [p.name for p in tmp_path.iterdir()] == [file]


def test_the_program_serves_any_batch_of_uint8_images(gap, tmp_path):
    out = tmp_path / "x.stablehlo"
    assert export.main(["--ckpt", str(gap), "--to", "stablehlo", str(out)]) == 0
    served = jax.export.deserialize(out.read_bytes())
    assert set(served.platforms) == {"cpu", "cuda", "tpu"}
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    expected, _ = open_trained(gap).apply(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(served.call(images), expected, rtol=1e-4, atol=1e-5)


def test_what_the_host_does_to_values_is_in_the_program(gap, tmp_path, capsys):
    """As in configs of big_vision's own style, where pp_fn scales the pixels."""
    out = tmp_path / "x.stablehlo"
    evaluation = "--config.evals.val"
    flags = [f"{evaluation}.device_pp=keep('image', 'labels')"]
    pp = "value_range(-1, 1)|onehot(10, key='label', key_result='labels')"
    keep = "|keep('image', 'labels')"
    own = ["--ckpt", str(gap), "--to", "stablehlo"]
    scaled = f"{evaluation}.pp_fn={pp}{keep}"
    assert export.main([*own, *flags, scaled, str(out)]) == 0
    served = jax.export.deserialize(out.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    expected, _ = open_trained(gap).apply(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(served.call(images), expected, rtol=1e-4, atol=1e-5)
    clipped = f"{evaluation}.pp_fn=clip_value_range(0, 1)|{pp}{keep}"
    other = tmp_path / "y.stablehlo"
    assert export.main([*own, *flags, clipped, str(other)]) == 1
    assert "runs on the host only" in capsys.readouterr().err
    assert not other.exists()


def test_own_names_come_back_as_the_same_model(gap, tmp_path):
    out = tmp_path / "x.safetensors"
    assert export.main(["--ckpt", str(gap), "--to", "safetensors", str(out)]) == 0
    a, b = open_trained(gap), open_trained(out)
    assert a.model == b.model
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert evaluate.main(["--ckpt", str(out), "--out", str(tmp_path / "e")]) == 0


def told(capsys, file, photo):
    """What predict says of a photo with a file alone, no flags beside."""
    capsys.readouterr()
    assert predict.main(["--ckpt", str(file), str(photo), "--json"]) == 0
    printed = capsys.readouterr()
    assert "no names" not in printed.err
    return json.loads(printed.out)["photos"][0]["top"]


def test_a_file_knows_its_classes_and_its_images(tok, tmp_path, capsys):
    """Whichever tool wrote it; other libraries read it all the same."""
    names = [f"the digit {word}" for word in ["zero", "one", "two"]]
    trained = open_trained(tok)
    assert trained.class_names is not None
    names += trained.class_names[3:]
    named = dataclasses.replace(trained, class_names=tuple(names))
    own, timm, again = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    export.export(named, "safetensors", own)
    export.export(named, "timm", timm)
    assert convert.main([str(timm), str(again), "--to", "torchvision"]) == 0
    photo = tmp_path / "photo.png"
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(photo)
    wanted = told(capsys, tok, photo)
    for file in (own, timm, again):
        found = open_trained(file)
        assert found.image_shape == (8, 8, 3)
        assert found.class_names == tuple(names)
        assert their_safetensors.load_file(file).keys()
        guesses = told(capsys, file, photo)
        assert [g["class"] for g in guesses] == [g["class"] for g in wanted]
        assert [g["name"] for g in guesses] == [names[g["class"]] for g in guesses]
    # As of a run that convert reads.
    last = tmp_path / "d.safetensors"
    assert convert.main([str(tok), str(last), "--to", "timm"]) == 0
    assert open_trained(last).class_names == trained.class_names
    assert open_trained(last).image_shape == (8, 8, 3)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cnn")
    own = {"width": 4, "code_size": 8}
    flags = ["--config.model_name=small_cnn", "--config.model=None"]
    assert run(workdir, *flags, f"--config.model={own}") == 0
    return workdir


def test_a_model_of_convolutions_is_exported(cnn, tmp_path, capsys):
    out = tmp_path / "x.stablehlo"
    flags = ["--ckpt", str(cnn), "--to", "stablehlo", str(out), "--image_size"]
    assert export.main([*flags, "8"]) == 0
    assert "images of 8 x 8 x 1" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    expected, _ = open_trained(cnn).apply(images.astype(np.float32) / 127.5 - 1)
    served = jax.export.deserialize(out.read_bytes())
    np.testing.assert_allclose(served.call(images), expected, rtol=1e-4, atol=1e-5)
    out.unlink()
    for pixels, words in [("9", "does not fit its model"), ("6", "less than 7 x 7")]:
        assert export.main([*flags, pixels]) == 1
        assert words in capsys.readouterr().err
    assert export.main([*flags[:2], "--to", "timm", str(tmp_path / "x.pth")]) == 1
    assert "no place for a model 'small_cnn'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


PATCHES = {"width": 16, "depth": 1, "num_heads": 2, "patch_size": (4, 4)}
STEMS = {
    "vit": PATCHES | {"mlp_dim": 32, "posemb": "learn"},
    "nanovit": PATCHES,
    "small_cnn": {"width": 2, "code_size": 4},
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", STEMS)
def test_channels_are_read_off_the_parameters(gap, name, channels):
    """Of any model, where neither a checkpoint nor a file says which images it is for."""
    model = MODELS[name](num_classes=10, **STEMS[name])
    image = np.zeros((1, 8, 8, channels), np.float32)
    params = jax.device_get(model.init(jax.random.key(0), image)["params"])
    trained = dataclasses.replace(
        open_trained(gap), model=model, params=params, image_shape=None
    )
    assert trained.for_images(8).image_shape == (8, 8, channels)
    with pytest.raises(ValueError, match="does not fit its model and images of 12"):
        trained.for_images(12)


def test_wrong_weights_are_noticed_by_the_other_librarys_logits(
    tok, tmp_path, capsys, monkeypatch
):
    """Its class is given one kernel upside down: nothing stays written."""
    from vitjax.weights import other_models

    own = other_models.logits

    def turned(format, model, state, images):
        return own(format, model, state, images[:, ::-1])

    monkeypatch.setattr(other_models, "logits", turned)
    out = tmp_path / "x.pth"
    assert export.main(["--ckpt", str(tok), "--to", "torchvision", str(out)]) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to", "torchvision", "{tmp}/x.pth"], "always has a class token"),
        (["--to", "timm", "{tmp}/x.zip"], "timm is written as"),
        (["--to", "safetensors", "{tmp}/x.pth"], "written as .safetensors"),
        (["--to", "timm", "{tmp}/none/x.pth"], "there is no folder"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(gap, tmp_path, capsys, flags, words):
    flags = [f.format(tmp=tmp_path) for f in flags]
    assert export.main(["--ckpt", str(gap), *flags]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not list(tmp_path.iterdir())
