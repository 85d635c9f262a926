"""Files come back as they were written, and are what other readers expect."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch

from tests.helpers import weights_cases as cases
from vitjax import weights
from vitjax.models import vit
from vitjax.trees import flatten_with_names
from vitjax.weights import files
from vitjax.weights.formats import big_vision

BFLOAT16 = np.dtype(jnp.bfloat16)


def arrays():
    rng = np.random.default_rng(0)
    dtypes = [BFLOAT16, np.float16, np.float32, np.float64, np.int64, np.uint8]
    made = {f"a/{np.dtype(d).name}": rng.normal(size=(3, 5)).astype(d) for d in dtypes}
    made["a/nan"] = np.array([np.nan, np.inf, -0.0], BFLOAT16)
    made["a/scalar"] = np.array(3, np.float32)
    made["a/empty"] = np.zeros((0, 4), np.float32)
    made["a/turned"] = np.arange(6.0).reshape(2, 3).T
    return made


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_kind_of_file_keeps_every_bit(suffix, tmp_path):
    """numpy, torch and safetensors read the same bits."""
    path, made = tmp_path / f"x{suffix}", arrays()
    files.write(path, made, {"format": "pt"})
    back, words = files.read(path)
    cases.assert_same_bits(made, back)
    assert words == ({"format": "pt"} if suffix == ".safetensors" else {})
    if suffix == ".npz":
        with np.load(path) as plain:
            theirs = dict(plain)
        # numpy has no bfloat16; big_vision's files have these dtypes too.
        for name in ("a/bfloat16", "a/nan"):
            assert theirs[name].dtype == np.dtype("V2")
            theirs[name] = theirs[name].view(BFLOAT16)
    else:
        if suffix == ".safetensors":
            tensors = safetensors_torch.load_file(path)
        else:
            tensors = torch.load(path, weights_only=True)
        theirs = {
            k: x.view(torch.int16).numpy().view(BFLOAT16)
            if x.dtype == torch.bfloat16
            else x.numpy()
            for k, x in tensors.items()
        }
    cases.assert_same_bits(made, theirs)


def test_safetensors_of_their_own_library(tmp_path):
    # The library ignores strides, so it would write a turned array wrong.
    made = {k: v for k, v in arrays().items() if v.dtype != BFLOAT16}
    del made["a/turned"]
    safetensors_numpy.save_file(made, tmp_path / "x.safetensors", {"a": "b"})
    back, words = files.read(tmp_path / "x.safetensors")
    cases.assert_same_bits(made, back)
    assert words == {"a": "b"}


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_damaged_files_are_named(suffix, tmp_path):
    path = tmp_path / f"broken{suffix}"
    files.write(path, {"x": np.zeros(1000)}, {})
    for content in (b"\xff" * 100, path.read_bytes()[:900]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"broken{suffix} is (not|damaged)"):
            files.read(path)


def test_files_that_hold_no_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "x.h5").write_text("")
    for name, words in (
        ("x.npz", "there is no file"),
        ("epoch.pth", "no state dict: no tensors, only epoch"),
        ("list.pth", "must hold a state dict, got a list"),
        ("x.h5", r"\.h5.*known: .*\.safetensors"),
    ):
        with pytest.raises(ValueError, match=words):
            files.read(tmp_path / name)
    with pytest.raises(
        ValueError, match='cannot be written: Unknown dtype "complex128"'
    ):
        files.write(tmp_path / "y.safetensors", {"x": np.zeros(1, np.complex128)}, {})


# ------------------------------------------------------------------ load, big_vision


def save_npz(path, params, prefix="", **more):
    named = {prefix + name: leaf for name, leaf in flatten_with_names(params)}
    files.write(path, {**named, **more}, {})
    return path


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_npz_of_big_vision(prefix, tmp_path):
    for scan in (False, True):
        params = cases.params(posemb="learn", pool_type="map", rep_size=True, scan=scan)
        params["pos_embedding"] = params["pos_embedding"].astype(BFLOAT16)
        more = {"opt/0/count": np.int32(3), "chrono": np.ones(2)} if prefix else {}
        path = save_npz(tmp_path / "x.npz", params, prefix, **more)
        got, config = weights.load(path)
        cases.assert_same_bits(params, got)
        assert config is None
        assert weights.model_arguments(got)["scan"] == scan
    # The two forms are vit.py's own.
    cases.assert_same_bits(vit.loop_to_scan(vit.scan_to_loop(params)), got)


def test_one_tree_of_an_npz(tmp_path):
    params = cases.params(posemb="learn", pool_type="map")
    trees = {"img": {"vit": params}, "t": {"a": np.ones(1)}}
    path = save_npz(tmp_path / "x.npz", trees)
    cases.assert_same_bits(params, weights.load(f"{path}:img/vit")[0])
    path = save_npz(tmp_path / "y.npz", {"img": params}, "params/")
    cases.assert_same_bits(params, weights.load(f"{path}:img")[0])
    with pytest.raises(ValueError, match=r"no 'txt' in the file, only \['img'\]"):
        weights.load(f"{path}:txt")


def test_the_old_names_of_vision_transformer():
    """It counted every layer of a block."""
    params = dict(flatten_with_names(cases.params(**cases.TOK)))
    old = {}
    for name, leaf in params.items():
        for new_name, old_name in [
            ("LayerNorm_1", "LayerNorm_2"),
            ("MlpBlock_0", "MlpBlock_3"),
            ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
        ]:
            name = name.replace(new_name, old_name)
        old[name] = leaf
    assert len(params.keys() - old.keys()) > 20
    cases.assert_same_bits(params, big_vision.leaves(old))


def test_a_map_head_that_stood_at_the_top():
    params = dict(flatten_with_names(cases.params(posemb="learn", pool_type="map")))
    leaves = {k.removeprefix("MAPHead_0/"): v for k, v in params.items()}
    assert "probe" in leaves
    cases.assert_same_bits(params, big_vision.leaves(leaves))
    with pytest.raises(ValueError, match="'MAPHead_0/probe' under two names"):
        big_vision.leaves({**leaves, "MAPHead_0/probe": leaves["probe"]})
