"""python -m vitjax.tools.convert: every source to every format, verified, or nothing."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.models import vit
from vitjax.step import TrainState
from vitjax.tools import convert
from vitjax.trees import flatten_with_names
from vitjax.weights import files

TOK = {"posemb": "learn", "pool_type": "tok"}
CONFIG = {"model": {"posemb": "sincos2d"}, "lr": 0.5}


def save_run(path, params, config=None):
    state = TrainState(step=jnp.int32(4), params=params, opt_state=())
    checkpointer = Checkpointer(path)
    checkpointer.save(4, state, {"config": config})
    checkpointer.close()
    return path


@pytest.fixture
def npz(tmp_path):
    params = weights_cases.params(**TOK)
    files.write(tmp_path / "in.npz", dict(flatten_with_names(params)), {})
    return tmp_path / "in.npz"


def run(*argv):
    return convert.main([str(a) for a in argv])


def test_a_run_goes_through_every_format_and_comes_back(tmp_path, capsys):
    params = weights_cases.params(**TOK)
    source = save_run(tmp_path / "run", params, {"lr": 0.5})
    for form, suffix in [
        ("timm", ".safetensors"),
        ("torchvision", ".pth"),
        ("huggingface", ".bin"),
        ("mup_vit", ".pt"),
        ("big_vision", ".npz"),
    ]:
        target = tmp_path / f"{form}{suffix}"
        pool = ("--pool_type", "tok") if "mup_vit" in source.name else ()
        assert run(source, target, "--to", form, "--num_heads", 3, *pool) == 0
        told = capsys.readouterr()
        assert (
            f"{form}, {sum(x.size for _, x in flatten_with_names(params)):,}"
            in told.out
        )
        assert "num_heads=3" in told.out
        assert told.err == ""
        source = target
    weights_cases.assert_same_bits(params, weights.load(source)[0])
    assert not list(tmp_path.glob(".*"))


def test_safetensors_remember_what_a_state_dict_does_not_say(tmp_path):
    params = weights_cases.params(weights_cases.WIDE, posemb="sincos2d", scan=True)
    run_dir = save_run(tmp_path / "run", params, CONFIG)
    target = tmp_path / "x.safetensors"
    assert run(run_dir, target, "--to", "timm", "--grid", 2, 3) == 0
    got, config = weights.load(target)  # neither heads, nor grid, nor posemb
    weights_cases.assert_same_bits(vit.scan_to_loop(params), got)
    assert config == CONFIG
    back = tmp_path / "back.npz"
    assert run(target, back, "--to", "big_vision", "--scan") == 0
    weights_cases.assert_same_bits(params, weights.load(back)[0])
    _, words = files.read(target)
    assert words["format"] == "pt"
    assert json.loads(words["vitjax"])["posemb"] == "sincos2d"


def test_constants_of_another_library_stay_a_table_for_the_next(tmp_path):
    params = weights_cases.params(posemb="sincos2d", pool_type="tok")
    state = weights.to_state_dict(
        params, format="timm", posemb="sincos2d", grid=weights_cases.SQUARE
    )
    files.write(tmp_path / "timm.pth", state, {})
    target = tmp_path / "hf.safetensors"
    assert (
        run(tmp_path / "timm.pth", target, "--to", "huggingface", "--num_heads", 3) == 0
    )
    back = tmp_path / "x.npz"
    assert run(target, back, "--to", "big_vision") == 0
    got = weights.load(back)[0]
    table = got.pop("pos_embedding")
    weights_cases.assert_same_bits(params, got)
    assert table.shape == (1, 9, weights_cases.WIDTH)


def test_one_of_the_state_dicts_of_a_trainers_file(tmp_path, caplog):
    averaged, last = weights_cases.params(**TOK), weights_cases.params(**TOK, seed=1)
    stored = {
        name: {k: torch.tensor(x) for k, x in state.items()}
        for name, state in (
            ("state_dict", weights.to_state_dict(last, format="timm")),
            ("state_dict_ema", weights.to_state_dict(averaged, format="timm")),
        )
    }
    source, more = tmp_path / "model_best.pth.tar", ["--to", "big_vision"]
    torch.save({"epoch": 3, **stored}, source)
    assert run(source, tmp_path / "x.npz", *more, "--num_heads", 3) == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert f"as in {source}:state_dict_ema" in said
    asked = f"{source}:state_dict_ema"
    assert run(asked, tmp_path / "y.npz", *more, "--num_heads", 3) == 0
    assert len(caplog.records) == 1
    for name, params in (("x", last), ("y", averaged)):
        weights_cases.assert_same_bits(
            params, weights.load(tmp_path / f"{name}.npz")[0]
        )


def test_nothing_is_replaced_unless_one_says_so(npz, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    target.write_text("mine")
    assert run(npz, target, "--to", "timm") == 1
    assert "exists already" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert run(npz, target, "--to", "timm", "--force") == 0
    assert weights.format_of(files.read(target)[0]) == "timm"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x.npz", "--to", "timm"], r"timm is written as \.safetensors or"),
        (["x.pth", "--to", "big_vision"], r"big_vision is written as \.npz"),
        (["x.pth", "--to", "timm", "--scan"], "scan is for big_vision only"),
        (["no/x.pth", "--to", "timm"], "there is no folder"),
        (["x.pth", "--to", "timm", "--posemb", "none"], "have a pos_embedding"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(npz, tmp_path, capsys, argv, message):
    before = set(tmp_path.iterdir())
    assert run(npz, tmp_path / argv[0], *argv[1:]) == 1
    error = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_source_that_is_not_there(tmp_path, capsys):
    assert run(tmp_path / "no", tmp_path / "x.npz", "--to", "big_vision") == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_after_ctrl_c_nothing_is_half_written(npz, tmp_path, monkeypatch, capsys):
    write = files.write

    def stopped(path, arrays, words):
        write(path, arrays, words)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write", stopped)
    before = set(tmp_path.iterdir())
    assert run(npz, tmp_path / "x.pth", "--to", "timm") == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("how", ["value", "dtype", "name"])
def test_a_file_that_came_out_wrong_is_not_kept(
    how, npz, tmp_path, monkeypatch, capsys
):
    """With a disk that changes one bit, one dtype or one name."""
    write = files.write

    def bad_write(path, arrays, words):
        arrays = dict(arrays)
        x = arrays.pop("head.bias")
        if how == "value":
            x = x.copy()
            x[0] = np.nextafter(x[0], np.inf)
        name = "head.bia" if how == "name" else "head.bias"
        arrays[name] = x.astype(np.float64) if how == "dtype" else x
        write(path, arrays, words)

    monkeypatch.setattr(files, "write", bad_write)
    before = set(tmp_path.iterdir())
    assert run(npz, tmp_path / "x.pth", "--to", "timm") == 1
    assert "was not stored as it was written" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


def test_a_table_that_loses_a_number_is_noticed(npz, tmp_path, monkeypatch, capsys):
    good = weights.from_state_dict

    def bad(*args, **kw):
        params = good(*args, **kw)
        params["cls"] = params["cls"] + np.float32(1e-3)
        return params

    monkeypatch.setattr(weights, "from_state_dict", bad)
    assert run(npz, tmp_path / "x.pth", "--to", "timm") == 1
    assert "cls does not come back from this format" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


def test_the_command_itself(npz, tmp_path):
    root = Path(convert.__file__).resolve().parents[2]
    command = [sys.executable, "-W", "error", "-m", "vitjax.tools.convert"]
    target = str(tmp_path / "x.safetensors")
    done = subprocess.run(
        [*command, str(npz), target, "--to", "timm"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "verified; a ViT of width=24, depth=2" in done.stdout
    done = subprocess.run(
        [*command, "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    for word in ("--to", "--grid", "examples:", *convert.FORMATS):
        assert word in done.stdout
