"""Other libraries' files, and the program that export makes of a run's model."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image
from safetensors import numpy as their_safetensors

from vitjax.models import MODELS
from vitjax.tools import convert, export, photos, predict, programs
from vitjax.tools.trained import open_trained
from vitjax.weights import normalisation, other_models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("which", "to", "file", "words"),
    [
        ("digits", "timm", "x.safetensors", "timm's own logits differ by"),
        ("tok", "torchvision", "x.pth", "torchvision's own logits differ by"),
        ("tok", "huggingface", "x.bin", "huggingface's own logits differ by"),
        ("digits", "big_vision", "x.npz", "read back and compared"),
        ("digits", "mup_vit", "x.pth", "read back and compared"),
    ],
)
def test_each_format_is_written_and_checked(
    request, tmp_path, capsys, which, to, file, words
):
    if to == "huggingface":
        pytest.importorskip("transformers")
    workdir, out = request.getfixturevalue(f"{which}_run"), tmp_path / file
    assert export.main(["--ckpt", str(workdir), "--to", to, str(out)]) == 0
    printed = capsys.readouterr()
    assert words in printed.out  # they say which check was made
    assert printed.err == ""  # nor transformers' bar and report
    assert [p.name for p in tmp_path.iterdir()] == [file]


def program(out, trained):
    """Compare a stored program with the model on a batch of pixels; return it."""
    served = jax.export.deserialize(out.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    expected, _ = trained.apply(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(served.call(images), expected, rtol=1e-4, atol=1e-5)
    return served


def test_the_program_serves_any_batch_of_uint8_images(digits_run, tmp_path, capsys):
    out = tmp_path / "x.stablehlo"
    flags = ["--ckpt", str(digits_run), "--to", "stablehlo", str(out)]
    assert export.main(flags) == 0
    assert "run on batches of 1 and 3 images of 8 x 8 x 1" in capsys.readouterr().out
    served = program(out, open_trained(digits_run))
    assert set(served.platforms) == {"cpu", "cuda", "tpu"}


def test_what_the_host_does_to_values_is_in_the_program(digits_run, tmp_path, capsys):
    """In configs of big_vision's style, pp_fn scales the pixels."""
    out = tmp_path / "x.stablehlo"
    evaluation = "--config.evals.val"
    flags = [f"{evaluation}.device_pp=keep('image', 'labels')"]
    pp = "value_range(-1, 1)|onehot(10, key='label', key_result='labels')"
    keep = "|keep('image', 'labels')"
    own = ["--ckpt", str(digits_run), "--to", "stablehlo"]
    scaled = f"{evaluation}.pp_fn={pp}{keep}"
    assert export.main([*own, *flags, scaled, str(out)]) == 0
    program(out, open_trained(digits_run))
    long = normalisation.CLIP.op  # messages shorten it
    device = {"device_pp": "keep('image')"}
    assert len(long) > 80
    assert programs.pixels_to_input({"pp_fn": f"decode|{long}", **device}).startswith(
        long
    )
    clipped = f"{evaluation}.pp_fn=clip_value_range(0, 1)|{pp}{keep}"
    other = tmp_path / "y.stablehlo"
    assert export.main([*own, *flags, clipped, str(other)]) == 1
    assert "runs on the host only" in capsys.readouterr().err
    assert not other.exists()


def told(capsys, file, photo):
    """Return the guesses of predict for a photo, from a file alone."""
    capsys.readouterr()
    assert predict.main(["--ckpt", str(file), str(photo), "--json"]) == 0
    printed = capsys.readouterr()
    assert "names" not in printed.err
    return json.loads(printed.out)["photos"][0]["top"]


def test_a_file_knows_its_classes_and_its_images(tok_run, tmp_path, capsys):
    """Any tool may have written it; other libraries read it too."""
    names = [f"the digit {word}" for word in ["zero", "one", "two"]]
    trained = open_trained(tok_run)
    assert trained.class_names is not None
    names += trained.class_names[3:]
    named = dataclasses.replace(trained, class_names=tuple(names))
    own, timm, again = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "c"))
    export.export(named, "safetensors", own)
    export.export(named, "timm", timm)
    assert convert.main([str(timm), str(again), "--to", "torchvision"]) == 0
    photo = tmp_path / "photo.png"
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(photo)
    wanted = told(capsys, tok_run, photo)
    for file in (own, timm, again):
        found = open_trained(file)
        assert found.image_shape == (8, 8, 3)
        assert found.class_names == tuple(names)
        assert their_safetensors.load_file(file).keys()
        guesses = told(capsys, file, photo)
        assert [g["class"] for g in guesses] == [g["class"] for g in wanted]
        assert [g["name"] for g in guesses] == [names[g["class"]] for g in guesses]
    own = open_trained(own)
    assert own.model == trained.model
    jax.tree.map(np.testing.assert_array_equal, own.params, trained.params)
    # convert reads a run.
    last = tmp_path / "d.safetensors"
    assert convert.main([str(tok_run), str(last), "--to", "timm"]) == 0
    assert open_trained(last).class_names == trained.class_names
    assert open_trained(last).image_shape == (8, 8, 3)


def without_run(run, name, channels=1, **model):
    """Return a Trained with random parameters, and no word about its images."""
    trained = open_trained(run)
    made = MODELS[name](num_classes=10, **model)
    image = np.zeros((1, 8, 8, channels), np.float32)
    params = jax.device_get(jax.jit(made.init)(jax.random.key(0), image)["params"])
    return dataclasses.replace(
        trained, model=made, params=params, image_shape=None,
        experiment=dataclasses.replace(trained.experiment, model_name=name),
    )  # fmt: skip


def test_a_folder_opens_in_transformers_with_classes_and_pixels(
    tok_run, tmp_path, capsys
):
    """At the model's own size nothing is resized, and the logits are ours."""
    pytest.importorskip("transformers")
    trained = open_trained(tok_run)
    names = ("tench", "goldfish", *(trained.class_names or ())[2:])
    named = dataclasses.replace(trained, class_names=names)
    folder = tmp_path / "vit"
    assert "huggingface's own logits differ by" in export.export(
        named, "huggingface", folder
    )
    assert [p.name for p in tmp_path.iterdir()] == ["vit"]
    other = other_models.from_pretrained(folder)
    assert other.config.id2label == dict(enumerate(names))
    assert other.config.label2id["goldfish"] == 1
    assert other.config.layer_norm_eps == trained.model.norm_eps
    rng = np.random.default_rng(0)
    # The run's data is grey.
    photo = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).convert("RGB")
    pixels = other_models.processed(folder, photo)
    expected = photos.feed(_saved(photo, tmp_path), trained.evaluator()[1])
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    ours = np.asarray(trained.apply(expected)[0])
    np.testing.assert_allclose(other_models.run(other, pixels), ours, atol=1e-5)
    assert np.abs(ours).max() > 1e-3
    assert open_trained(folder).class_names == names  # our tools open it too
    assert (
        export.main(["--ckpt", str(tok_run), "--to", "huggingface", str(folder)]) == 1
    )
    assert "exists already" in capsys.readouterr().err


def _saved(photo, folder):
    photo.save(folder / "photo.png")
    return folder / "photo.png"


RESIZED = "decode|resize_small(12, 'bicubic', antialias=True)|central_crop(8)"


def test_a_folder_resizes_and_crops_as_the_evaluation(tok_run, tmp_path):
    """The kernels are the same, but the roundings of PIL's and TensorFlow's differ."""
    pytest.importorskip("transformers")
    device_pp = "normalize((0.48, 0.45, 0.4), (0.22, 0.23, 0.24))|keep('image')"
    trained = open_trained(
        tok_run,
        overrides=[f"evals.val.pp_fn={RESIZED}", f"evals.val.device_pp={device_pp}"],
    )
    export.export(trained, "huggingface", tmp_path / "vit")
    photo = Image.fromarray(skimage.data.chelsea()[:120, :200]).resize((50, 30))
    expected = photos.feed(_saved(photo, tmp_path), trained.evaluator()[1])
    found = other_models.processed(tmp_path / "vit", photo)
    assert found.shape == expected.shape == (1, 8, 8, 3)
    level = 1 / 255 / 0.22
    assert np.abs(found - expected).max() < 2.01 * level
    assert np.std(np.asarray(expected)) > 20 * level


def test_onnx_is_the_same_program(digits_run, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "x.onnx"
    with jax.numpy_rank_promotion("allow"):  # jax2onnx's own code needs it
        assert export.main(["--ckpt", str(digits_run), "--to", "onnx", str(out)]) == 0
    assert "run on batches of 1 and 3 images of 8 x 8 x 1" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    [found] = onnxruntime.InferenceSession(out).run(["logits"], {"images": images})
    expected, _ = open_trained(digits_run).apply(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_onnx_without_its_packages_is_one_sentence(
    digits_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    flags = ["--ckpt", str(digits_run), "--to", "onnx", str(tmp_path / "x.onnx")]
    assert export.main(flags) == 1
    assert "install them by pip install onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_of_convolutions_is_exported(digits_run, tmp_path):
    cnn = without_run(digits_run, "small_cnn", width=4, code_size=8)
    out = tmp_path / "x.stablehlo"
    with pytest.raises(ValueError, match="give --image_size"):
        export.export(cnn, "stablehlo", out)
    assert "images of 8 x 8 x 1" in export.export(cnn.for_images(8), "stablehlo", out)
    program(out, cnn)
    with pytest.raises(ValueError, match="at least 7 x 7 pixels, got"):
        cnn.for_images(6)
    with pytest.raises(ValueError, match="cannot hold a model 'small_cnn'"):
        export.export(cnn, "timm", tmp_path / "x.pth")


PATCHES = {"width": 16, "depth": 1, "num_heads": 2, "patch_size": (4, 4)}


@pytest.mark.parametrize(
    ("name", "channels", "model"),
    [
        ("vit", 1, PATCHES | {"mlp_dim": 32, "posemb": "learn"}),
        ("nanovit", 3, PATCHES),
        ("small_cnn", 4, {"width": 2, "code_size": 4}),
    ],
)
def test_channels_are_read_off_the_parameters(digits_run, name, channels, model):
    """Neither a checkpoint nor a file may say which images a model is for."""
    trained = without_run(digits_run, name, channels, **model)
    assert trained.for_images(8).image_shape == (8, 8, channels)
    with pytest.raises(ValueError, match="does not fit its model and images of 12"):
        trained.for_images(12)


def test_image_size_replaces_the_checkpoints(tok_run, tmp_path, capsys):
    flags = ["--ckpt", str(tok_run), "--to", "timm", str(tmp_path / "x.pth")]
    assert export.main([*flags, "--image_size", "12"]) == 1
    assert "does not fit its model and images of 12 x 12 x 3" in capsys.readouterr().err


def test_wrong_weights_are_noticed_by_the_other_librarys_logits(
    tok_run, tmp_path, capsys, monkeypatch
):
    """It is given images upside down: no file remains."""
    own = other_models.logits

    def turned(format, model, state, images):
        return own(format, model, state, images[:, ::-1])

    monkeypatch.setattr(other_models, "logits", turned)
    out = tmp_path / "x.pth"
    assert export.main(["--ckpt", str(tok_run), "--to", "torchvision", str(out)]) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not out.exists()
