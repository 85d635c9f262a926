"""Files come back as they were written, and are what other readers expect."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch

from tests.helpers import weights_cases
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
    made["a/scalar"] = np.float32(3)[None][0:1].reshape(())
    made["a/empty"] = np.zeros((0, 4), np.float32)
    return made


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_kind_of_file_keeps_every_bit(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    made = arrays()
    files.write(path, made, {"format": "pt"})
    back, words = files.read(path)
    weights_cases.assert_same_bits(made, back)
    assert words == ({"format": "pt"} if suffix == ".safetensors" else {})


def test_safetensors_are_what_their_own_library_reads_and_writes(tmp_path):
    made = arrays() | {"turned": np.arange(6.0).reshape(2, 3).T}
    files.write(tmp_path / "ours.safetensors", made, {"format": "pt"})
    theirs = safetensors_torch.load_file(tmp_path / "ours.safetensors")
    assert theirs.keys() == made.keys()
    assert theirs["a/bfloat16"].dtype == torch.bfloat16
    for name, x in made.items():
        y = theirs[name]
        y = y.view(torch.int16).numpy().view(BFLOAT16) if x.dtype == BFLOAT16 else y
        assert x.tobytes() == np.asarray(y).tobytes(), name
    some = {k: v for k, v in arrays().items() if v.dtype != BFLOAT16}
    safetensors_numpy.save_file(some, tmp_path / "theirs.safetensors", {"a": "b"})
    back, words = files.read(tmp_path / "theirs.safetensors")
    weights_cases.assert_same_bits(some, back)
    assert words == {"a": "b"}


def test_npz_is_plain_numpy(tmp_path):
    made = arrays()
    files.write(tmp_path / "x.npz", made, {})
    with np.load(tmp_path / "x.npz") as plain:
        assert set(plain.files) == made.keys()
        assert plain["a/bfloat16"].dtype == np.dtype("V2")  # as big_vision has it
        np.testing.assert_array_equal(plain["a/float32"], made["a/float32"])


def test_pth_is_a_plain_state_dict(tmp_path):
    made = {k: v for k, v in arrays().items() if v.dtype != BFLOAT16}
    files.write(tmp_path / "x.pth", made, {})
    plain = torch.load(tmp_path / "x.pth", weights_only=True)
    assert plain.keys() == made.keys()
    for name, x in made.items():
        np.testing.assert_array_equal(plain[name].numpy(), x)


class Trap:
    """What a harmful file would hold: unpickling it calls something."""

    def __reduce__(self):
        return (pytest.fail, ("a file's code was run",))


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        files.read(tmp_path / "x.npz")
    for suffix in files.SUFFIXES:
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"\xff" * 100)
        with pytest.raises(ValueError, match=f"broken{suffix} is no"):
            files.read(path)
    for suffix in (".npz", ".pth", ".safetensors"):
        path = tmp_path / f"cut{suffix}"
        files.write(path, {"x": np.zeros(1000)}, {})
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(ValueError, match="damaged"):
            files.read(path)
    with (tmp_path / "trap.pth").open("wb") as file:
        pickle.dump({"x": Trap()}, file, protocol=2)  # torch.save's
    with pytest.raises(
        ValueError, match=r"holds '_pytest.outcomes.* nor one of the pl"
    ):
        files.read(tmp_path / "trap.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match="no state dict, no tensors: epoch"):
        files.read(tmp_path / "epoch.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state dict, but list"):
        files.read(tmp_path / "list.pth")
    (tmp_path / "x.h5").write_text("")
    with pytest.raises(ValueError, match=r"\.h5.*known: .*\.safetensors"):
        files.read(tmp_path / "x.h5")
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
@pytest.mark.parametrize("scan", [False, True])
def test_npz_of_big_vision(prefix, scan, tmp_path):
    params = weights_cases.params(
        posemb="learn", pool_type="map", rep_size=True, scan=scan
    )
    params["pos_embedding"] = params["pos_embedding"].astype(BFLOAT16)
    more = {"opt/0/count": np.int32(3), "chrono": np.ones(2)} if prefix else {}
    path = save_npz(tmp_path / "x.npz", params, prefix, **more)
    got, config = weights.load(path)
    weights_cases.assert_same_bits(params, got)
    assert config is None
    assert weights.model_arguments(got)["scan"] == scan


def test_one_tree_of_an_npz(tmp_path):
    params = weights_cases.params(posemb="learn", pool_type="map")
    path = save_npz(
        tmp_path / "x.npz", {"img": {"vit": params}, "t": {"a": np.ones(1)}}
    )
    weights_cases.assert_same_bits(params, weights.load(f"{path}:img/vit")[0])
    path = save_npz(tmp_path / "y.npz", {"img": params}, "params/")
    weights_cases.assert_same_bits(params, weights.load(f"{path}:img")[0])
    with pytest.raises(ValueError, match=r"no 'txt' in the file, only \['img'\]"):
        weights.load(f"{path}:txt")


def old_names(name):
    """vision_transformer's, which counted every layer of a block."""
    for new, old in [
        ("LayerNorm_1", "LayerNorm_2"),
        ("MlpBlock_0", "MlpBlock_3"),
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
    ]:
        name = name.replace(new, old)
    return name.replace("pos_embedding", "Transformer/posembed_input/pos_embedding")


def test_the_old_names_of_vision_transformer(tmp_path):
    """Their models add positions with the class token already in front."""
    params = weights_cases.params(posemb="learn", pool_type="tok")
    leaves = {old_names(k): v for k, v in flatten_with_names(params)}
    at = "Transformer/posembed_input/pos_embedding"
    own = np.random.default_rng(3).standard_normal((1, 1, 24)).astype(np.float32)
    leaves[at] = np.concatenate([own, leaves[at]], axis=1)
    files.write(tmp_path / "x.npz", leaves, {})
    expected = {**params, "cls": params["cls"] + own}
    weights_cases.assert_same_bits(expected, weights.load(tmp_path / "x.npz")[0])
    # Between those and today's: positions in the encoder, without the class token.
    leaves = dict(flatten_with_names(params))
    leaves["Transformer/pos_embedding"] = leaves.pop("pos_embedding")
    files.write(tmp_path / "y.npz", leaves, {})
    got = weights.load(tmp_path / "y.npz", grid=weights_cases.SQUARE)[0]
    weights_cases.assert_same_bits(params, got)
    # Positions of a grid that is no square need it.
    params = weights_cases.params(weights_cases.WIDE, posemb="learn", pool_type="tok")
    wide = dict(flatten_with_names(params))
    wide["pos_embedding"] = np.concatenate([own, wide["pos_embedding"]], axis=1)
    files.write(tmp_path / "z.npz", wide, {})
    expected = {**params, "cls": params["cls"] + own}
    got = weights.load(tmp_path / "z.npz", grid=weights_cases.WIDE)[0]
    weights_cases.assert_same_bits(expected, got)


def test_a_map_head_that_stood_at_the_top():
    params = weights_cases.params(posemb="learn", pool_type="map")
    leaves = {k.removeprefix("MAPHead_0/"): v for k, v in flatten_with_names(params)}
    assert "probe" in leaves
    weights_cases.assert_same_bits(
        dict(flatten_with_names(params)), big_vision.leaves(leaves)
    )
    with pytest.raises(ValueError, match="'MAPHead_0/probe' under two names"):
        big_vision.leaves({**leaves, "MAPHead_0/probe": leaves["probe"]})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_load_finds_out_the_format(suffix, tmp_path):
    for form, kw, say in weights_cases.EXPRESSIBLE[::3]:
        params = weights_cases.params(**kw)
        state, pool = weights_cases.write(params, form, say), weights_cases.pool(say)
        path = tmp_path / f"{form}{suffix}"
        files.write(path, state, {})
        got, config = weights.load(path, num_heads=weights_cases.HEADS, **pool)
        weights_cases.assert_same_bits(params, got)
        assert config is None
        with pytest.raises(ValueError, match="say num_heads"):
            weights.load(path, **pool)


def test_a_hugging_face_folder_tells_its_heads_and_classes(tmp_path):
    params = weights_cases.params(posemb="learn", pool_type="tok")
    state = weights.to_state_dict(params, format="huggingface")
    files.write(tmp_path / "model.safetensors", state, {})
    config: dict = {"hidden_size": 24, "num_attention_heads": weights_cases.HEADS}
    config["id2label"] = {k: f"class {k}" for k in sorted(map(str, range(12)))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights_cases.assert_same_bits(params, weights.load(tmp_path)[0])
    names = [f"class {k}" for k in range(12)]
    assert weights.beside(tmp_path) == {"class_names": names}
    # The keys that transformers 5 has in memory.
    new = {}
    for key, value in state.items():
        key = key.replace("vit.encoder.layer.", "vit.layers.")
        for part in ("query", "key", "value"):
            key = key.replace(
                f"attention.attention.{part}.", f"attention.{part[0]}_proj."
            )
        key = key.replace("attention.output.dense.", "attention.o_proj.")
        key = key.replace("intermediate.dense.", "mlp.fc1.")
        new[key.replace(".output.dense.", ".mlp.fc2.")] = value
    assert "vit.layers.1.attention.q_proj.weight" in new
    weights_cases.assert_same_bits(params, weights_cases.read(new, "huggingface", {}))


def test_loops_and_scans_are_vit_pys_own():
    params = weights_cases.params(posemb="learn")
    stacked = vit.loop_to_scan(params)
    assert set(big_vision.flat(stacked)) != set(big_vision.flat(params))
    weights_cases.assert_same_bits(params, vit.scan_to_loop(stacked))
