"""Exports: what other libraries and jax.export make of a run's model."""

import jax
import numpy as np
import pytest

from parity.torchvision_import import import_torchvision
from tests.vitjax.test_train import run
from vitjax.tools import evaluate, export
from vitjax.trained import open_trained


@pytest.fixture(scope="module")
def gap(tmp_path_factory):
    """A small run of quickstart's ViT: mean pooling, constant positions, tanh GELU."""
    workdir = tmp_path_factory.mktemp("gap")
    assert run(workdir, "--config.model.width=32") == 0
    return workdir


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    """A class token, learned positions, the exact GELU, three channels."""
    workdir = tmp_path_factory.mktemp("tok")
    own = {"width": 32, "depth": 1, "mlp_dim": 48, "num_heads": 2, "patch_size": (4, 4)}
    own |= {"pool_type": "tok", "posemb": "learn", "gelu": "exact"}
    pp = "grayscale_to_rgb|keep('image', 'label')"
    flags = [f"--config.model={own}", f"--config.input.pp={pp}"]
    assert run(workdir, *flags, f"--config.evals.val.pp_fn={pp}") == 0
    return workdir


@pytest.fixture(autouse=True)
def torchvision():
    """timm imports it, and a torch for CPUs alone needs help with that."""
    import_torchvision()


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


def test_the_program_serves_any_batch_of_uint8_images(gap, tmp_path):
    out = tmp_path / "x.stablehlo"
    assert export.main(["--ckpt", str(gap), "--to", "stablehlo", str(out)]) == 0
    served = jax.export.deserialize(out.read_bytes())
    assert set(served.platforms) == {"cpu", "cuda", "tpu"}
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    expected, _ = open_trained(gap).apply(images.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(served.call(images), expected, rtol=1e-4, atol=1e-5)


def test_own_names_come_back_as_the_same_model(gap, tmp_path):
    out = tmp_path / "x.safetensors"
    assert export.main(["--ckpt", str(gap), "--to", "safetensors", str(out)]) == 0
    a, b = open_trained(gap), open_trained(out)
    assert a.model == b.model
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert evaluate.main(["--ckpt", str(out), "--out", str(tmp_path / "e")]) == 0


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
