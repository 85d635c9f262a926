"""What a model starts from: any file or run, fitted to it or refused with a list."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy import ndimage

from tests.helpers import weights_cases
from vitjax import weights
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.devices.sharding import replicated
from vitjax.models import vit
from vitjax.step import TrainState
from vitjax.trees import flatten_with_names
from vitjax.weights import files, fit
from vitjax.weights.libraries import import_torchvision

FRESH = {"seed": 9}


def save_run(path, params):
    state = TrainState(step=jnp.int32(4), params=params, opt_state=())
    checkpointer = Checkpointer(path)
    checkpointer.save(4, state, {"config": None})
    checkpointer.close()
    return path


def save_file(path, params, form=None, **say):
    leaves = dict(flatten_with_names(params))
    if form is not None:
        leaves = weights.to_state_dict(params, format=form, **say)
    files.write(path, leaves, {})
    return path


def load(
    path, mesh, fresh, dont_load=(), stored_grid=None, grid=weights_cases.SQUARE,
    channels=None, **kw,
):  # fmt: skip
    """Into the model of `kw`, whose parameters are `fresh`."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
        fresh,
    )
    fresh = jax.device_put(fresh, replicated(mesh))
    size = (grid[0] * 4, grid[1] * 4, 3)
    got = fit.load_into(
        path,
        shapes,
        fresh,
        dont_load,
        model=weights_cases.model(**kw),
        image_shape=size,
        stored_grid=stored_grid,
        channels=channels,
    )
    for leaf in jax.tree.leaves(got):
        assert leaf.sharding.is_equivalent_to(replicated(mesh), leaf.ndim)
    return jax.tree.map(np.asarray, got)


def test_every_source_gives_the_same_start(tmp_path, mesh):
    kw = {"posemb": "learn", "pool_type": "tok"}
    stored = weights_cases.params(**kw)
    sources = [
        save_run(tmp_path / "run", stored),
        tmp_path / "run" / "checkpoints" / "4",
        save_file(tmp_path / "x.npz", stored),
        save_file(tmp_path / "scan.npz", vit.loop_to_scan(stored)),
        save_file(tmp_path / "x.pth", stored, "torchvision"),
        *(save_file(tmp_path / f"{f}.safetensors", stored, f) for f in weights.FORMATS),
    ]
    fresh = weights_cases.params(**kw, **FRESH)
    for source in sources:
        weights_cases.assert_same_bits(stored, load(source, mesh, fresh, **kw))
    scanned = vit.loop_to_scan(fresh)
    got = load(sources[0], mesh, scanned, **kw, scan=True)
    weights_cases.assert_same_bits(vit.loop_to_scan(stored), got)


def test_dont_load_leaves_some_fresh(tmp_path, mesh):
    kw = {"posemb": "learn"}
    stored, fresh = weights_cases.params(**kw), weights_cases.params(**kw, **FRESH)
    del stored["head"]["bias"]
    stored["extra"] = {"a": np.ones(3, np.float32)}
    path = save_file(tmp_path / "x.npz", stored)
    got = load(path, mesh, fresh, ["head/.*", "extra/a", ".*Dense_0.*"], **kw)
    found, old, new = (flatten_dict(t, sep="/") for t in (got, stored, fresh))
    for name, value in found.items():
        skipped = name.startswith("head/") or "Dense_0" in name
        np.testing.assert_array_equal(value, (new if skipped else old)[name])
    with pytest.raises(ValueError, match=r"dont_load: 'hed/.\*' matches no parameter"):
        load(path, mesh, fresh, ["hed/.*"], **kw)
    with pytest.raises(
        ValueError, match=r"dont_load: 'a\(' is not a regular expression"
    ):
        load(path, mesh, fresh, ["a("], **kw)


def test_everything_that_does_not_fit_is_listed(tmp_path, mesh):
    kw = {"posemb": "learn"}
    leaves = flatten_dict(weights_cases.params(**kw), sep="/")
    block = "Transformer/encoderblock_{}/MlpBlock_0/Dense_0"
    for i in range(2):
        del leaves[f"{block.format(i)}/bias"]
        leaves[f"{block.format(i)}/kernel"] = np.zeros((24, 44), np.float32)
    for i in range(2, 14):
        leaves[f"Transformer/encoderblock_{i}/LayerNorm_0/scale"] = np.zeros(24)
    leaves["extra"] = np.zeros(3)
    path = save_file(tmp_path / "x.npz", unflatten_dict(leaves, sep="/"))
    fresh = weights_cases.params(**kw, **FRESH)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load(path, mesh, fresh, **kw)
    message = str(error.value)
    mlp = "Transformer/encoderblock_{0-1}/MlpBlock_0/Dense_0"
    assert f"missing there: {mlp}/bias; " in message
    assert f"shape (24, 44) there, (24, 40) here: {mlp}/kernel" in message
    assert (
        "left over there: Transformer/encoderblock_{2-13}/LayerNorm_0/scale" in message
    )
    assert ", extra" in message
    assert len(message) < 700
    patterns = [".*Dense_0.*", "extra", r".*encoderblock_(2|3|4|5|6|7|8|9|1\d)/.*"]
    load(path, mesh, fresh, patterns, **kw)


def test_long_lists_are_told_briefly_but_whole():
    names = [f"a/encoderblock_{i}/b" for i in (0, 1, 2, 5, 7, 8)] + ["cls", "x_3/y"]
    assert fit._brief(names) == ["a/encoderblock_{0-2,5,7-8}/b", "cls", "x_3/y"]
    assert fit._brief(["encoderblock_4/b"]) == ["encoderblock_4/b"]


@pytest.mark.parametrize("new", [(5, 5), (2, 4)])
@pytest.mark.parametrize("old", [weights_cases.SQUARE, weights_cases.WIDE])
def test_positions_are_resampled_to_the_models_grid(old, new, tmp_path, mesh):
    kw = {"posemb": "learn", "pool_type": "tok"}
    stored = weights_cases.params(old, **kw)
    fresh = weights_cases.params(new, **kw, **FRESH)
    table = stored["pos_embedding"].reshape(*old, -1)
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = ndimage.zoom(table, zoom, order=1).reshape(1, -1, weights_cases.WIDTH)
    # Of 9 positions, a model of 8 patches leaves open whether one is the class token's.
    open_ = old == weights_cases.WIDE or new == (2, 4)
    say = {"stored_grid": old} if open_ else {}
    paths = [save_file(tmp_path / "x.npz", stored)]
    paths += [save_file(tmp_path / "x.safetensors", stored, "timm")]
    for path in [*paths, save_run(tmp_path / "run", stored)]:
        got = load(path, mesh, fresh, grid=new, **say, **kw)
        np.testing.assert_allclose(got["pos_embedding"], expected, rtol=0, atol=1e-6)
        got["pos_embedding"] = stored["pos_embedding"]
        weights_cases.assert_same_bits(stored, got)
        if old == weights_cases.WIDE:
            with pytest.raises(ValueError, match=r"6 positions|7 positions"):
                load(path, mesh, fresh, grid=new, **kw)
        left = load(path, mesh, fresh, ["pos_embedding"], grid=new, **say, **kw)
        weights_cases.assert_same_bits(
            {"x": left["pos_embedding"]}, {"x": fresh["pos_embedding"]}
        )


def test_grids_of_as_many_patches_are_still_two_grids(tmp_path, mesh):
    kw = {"posemb": "learn"}
    stored, fresh = (
        weights_cases.params((2, 3), **kw),
        weights_cases.params((3, 2), **kw, **FRESH),
    )
    path = save_file(tmp_path / "x.npz", stored)
    got = load(path, mesh, fresh, stored_grid=[2, 3], grid=(3, 2), **kw)
    assert not np.array_equal(got["pos_embedding"], stored["pos_embedding"])
    got = load(path, mesh, fresh, grid=(3, 2), **kw)  # nobody says otherwise
    np.testing.assert_array_equal(got["pos_embedding"], stored["pos_embedding"])


def test_constant_positions_of_a_file_are_no_parameters(tmp_path, mesh):
    stored = weights_cases.params(posemb="sincos2d")
    say = {"posemb": "sincos2d", "grid": weights_cases.SQUARE}
    path = save_file(tmp_path / "x.safetensors", stored, "timm", **say)
    fresh = weights_cases.params(posemb="sincos2d", **FRESH)
    weights_cases.assert_same_bits(stored, load(path, mesh, fresh, posemb="sincos2d"))
    # A model that learns them starts from the constants.
    fresh = weights_cases.params(posemb="learn", **FRESH)
    got = load(path, mesh, fresh, posemb="learn")
    expected = vit.posemb_sincos_2d(3, 3, weights_cases.WIDTH).astype(np.float32)
    np.testing.assert_array_equal(got["pos_embedding"], expected)
    learned = save_file(tmp_path / "y.npz", weights_cases.params(posemb="learn"))
    fresh = weights_cases.params(posemb="sincos2d", **FRESH)
    with pytest.raises(ValueError, match="left over there: pos_embedding"):
        load(learned, mesh, fresh, posemb="sincos2d")


def test_other_dtypes_become_the_models(tmp_path, mesh):
    stored = weights_cases.params(posemb="learn", dtype=np.dtype(jnp.bfloat16))
    fresh = weights_cases.params(posemb="learn", **FRESH)
    got = load(save_file(tmp_path / "x.npz", stored), mesh, fresh, posemb="learn")
    expected = jax.tree.map(lambda x: x.astype(np.float32), stored)
    weights_cases.assert_same_bits(expected, got)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 4), (3, 2), (4, 3), (1, 3)])
def test_channels_are_fitted_by_timms_rule(old, new):
    import_torchvision()  # which timm imports
    from timm.models._manipulate import adapt_input_conv

    kernel = np.random.default_rng(0).standard_normal((4, 2, old, 24))
    kernel = kernel.astype(np.float32)
    got = fit.CHANNELS["sum"](kernel, new)
    base = inspect.signature(adapt_input_conv).parameters.get("base_chans")
    if old == 3 or base is not None:
        more = {} if base is None else {"base_chans": old}
        theirs = torch.tensor(kernel.transpose(3, 2, 0, 1))
        theirs = adapt_input_conv(new, theirs, **more).permute(2, 3, 1, 0)
        np.testing.assert_allclose(got, theirs, rtol=1e-6)
    if old % new == 0 or new % old == 0:  # of grey the embedding is the same
        np.testing.assert_allclose(got.sum(2), kernel.sum(2), rtol=1e-4, atol=1e-5)


def test_channels_are_fitted_if_one_says_so_and_it_is_said(tmp_path, mesh, caplog):
    stored = weights_cases.params(posemb="learn")
    path = save_file(tmp_path / "x.npz", stored)
    fresh = weights_cases.params(posemb="learn", **FRESH)
    fresh["embedding"]["kernel"] = fresh["embedding"]["kernel"][:, :, :1]
    with pytest.raises(ValueError, match="which model_init_channels='sum' may fit"):
        load(path, mesh, fresh, posemb="learn")
    got = load(path, mesh, fresh, posemb="learn", channels="sum")
    [said] = [r.getMessage() for r in caplog.records]
    assert "is for 3 channels: model_init_channels='sum' fits it to 1" in said
    kernel = stored["embedding"]["kernel"].sum(2, keepdims=True)
    np.testing.assert_allclose(got["embedding"]["kernel"], kernel, rtol=1e-6)
    got["embedding"] = stored["embedding"]
    weights_cases.assert_same_bits(stored, got)
    with pytest.raises(ValueError, match="unknown model_init_channels 'mean'"):
        load(path, mesh, fresh, posemb="learn", channels="mean")


def test_heads_are_not_mistaken(tmp_path, mesh):
    """Six heads' numbers would fit into three, in the wrong places."""
    kw = {"posemb": "learn"}
    state = weights.to_state_dict(weights_cases.params(**kw), format="timm")
    words = {weights.WORD: '{"num_heads": 6}'}
    files.write(tmp_path / "x.safetensors", state, words)
    with pytest.raises(ValueError, match="is of 6 heads, not of 3"):
        load(
            tmp_path / "x.safetensors", mesh, weights_cases.params(**kw, **FRESH), **kw
        )


def test_blocks_that_cannot_be_stacked(tmp_path, mesh):
    stored = weights_cases.params(posemb="learn")
    del stored["Transformer"]["encoderblock_1"]["LayerNorm_0"]
    path = save_file(tmp_path / "x.npz", stored)
    fresh = weights_cases.params(posemb="learn", scan=True, **FRESH)
    with pytest.raises(ValueError, match=r"blocks of .* differ from each other"):
        load(path, mesh, fresh, posemb="learn", scan=True)


def test_nothing_there(tmp_path, mesh):
    fresh = weights_cases.params(posemb="learn", **FRESH)
    for name, message in [
        ("nowhere", "no checkpoint at"),
        ("nowhere.npz", "there is no file"),
        ("nowhere.npz:img", "there is no file"),
        ("nowhere.safetensors", "there is no file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name, mesh, fresh, posemb="learn")


def test_another_gelu_is_said(tmp_path, mesh, caplog):
    """Of a run the config tells, of a file the format; the arrays cannot."""
    # A file that cannot be read leaves warnings as they were.
    with pytest.raises(ValueError, match="no checkpoint"):
        weights.load(tmp_path / "none")
    kw = {"posemb": "learn", "pool_type": "tok"}
    stored = weights_cases.params(**kw)
    theirs = save_file(tmp_path / "x.pth", stored, "torchvision")
    ours = save_file(tmp_path / "x.npz", stored)
    for path, gelu in ((theirs, "exact"), (ours, "tanh")):
        load(path, mesh, stored, **kw, gelu=gelu)
    assert not caplog.records
    for path, gelu, other in ((theirs, "tanh", "exact"), (ours, "exact", "tanh")):
        load(path, mesh, stored, **kw, gelu=gelu)
        said = caplog.records.pop().getMessage()
        assert f"trained with gelu='{other}', but the model has gelu='{gelu}'" in said
    assert weights.usual_gelu(theirs, {"model": {"gelu": "tanh"}}) == "tanh"
    assert weights.usual_gelu(theirs, {"model": {}}) == "tanh"
