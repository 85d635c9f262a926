"""python -m vitjax.tools.convert: every source to every format, verified, or nothing."""

import json

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
    """Out of one of the state dicts of a trainer's file."""
    params = weights_cases.params(posemb="sincos2d", pool_type="tok")
    state = weights.to_state_dict(
        params, format="timm", posemb="sincos2d", grid=weights_cases.SQUARE
    )
    stored = {
        name: {k: torch.tensor(factor * x) for k, x in state.items()}
        for name, factor in (("state_dict", 0), ("state_dict_ema", 1))
    }
    torch.save({"epoch": 3, **stored}, tmp_path / "best.pth.tar")
    source, target = (
        f"{tmp_path}/best.pth.tar:state_dict_ema",
        tmp_path / "hf.safetensors",
    )
    assert run(source, target, "--to", "huggingface", "--num_heads", 3) == 0
    back = tmp_path / "x.npz"
    assert run(target, back, "--to", "big_vision") == 0
    got = weights.load(back)[0]
    table = got.pop("pos_embedding")
    weights_cases.assert_same_bits(params, got)
    assert table.shape == (1, 9, weights_cases.WIDTH)


def test_nothing_is_replaced_unless_one_says_so(npz, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    target.write_text("mine")
    assert run(npz, target, "--to", "timm") == 1
    assert "exists already" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert run(npz, target, "--to", "timm", "--force") == 0
    assert weights.format_of(files.read(target)[0]) == "timm"


@pytest.mark.parametrize("how", ["value", "dtype", "name", "interrupt"])
def test_a_file_that_came_out_wrong_is_not_kept(
    how, npz, tmp_path, monkeypatch, capsys
):
    """The disk changes one bit, one dtype or one name, or Ctrl-C follows the write."""
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
        if how == "interrupt":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write", bad_write)
    before = set(tmp_path.iterdir())
    status = run(npz, tmp_path / "x.pth", "--to", "timm")
    error = capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before
    if how == "interrupt":
        assert (status, error) == (130, "interrupted\n")
    else:
        assert status == 1
        assert "was not stored as it was written" in error


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
