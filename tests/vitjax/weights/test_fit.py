"""A model starts from any file or run, fitted to it or refused with a list."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy import ndimage

from tests.helpers import weights_cases as cases
from tests.helpers.weights_cases import params
from vitjax import weights
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.devices.sharding import replicated
from vitjax.models import vit
from vitjax.step import TrainState
from vitjax.trees import flatten_with_names
from vitjax.weights import files, fit
from vitjax.weights.libraries import import_torchvision

TOK, LEARN = cases.TOK, {"posemb": "learn"}


def fresh_params(*args, **kw):
    return params(*args, seed=9, **kw)


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


@pytest.fixture
def load(mesh):
    """A function that loads a path into the model of `kw`, with parameters `fresh`."""

    def run(
        path, fresh, dont_load=(), stored_grid=None, grid=cases.SQUARE,
        channels=None, **kw,
    ):  # fmt: skip
        everywhere = replicated(mesh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), fresh
        )
        got = fit.load_into(
            path,
            shapes,
            jax.device_put(fresh, everywhere),
            dont_load,
            model=cases.model(**kw),
            image_shape=(grid[0] * 4, grid[1] * 4, 3),
            stored_grid=stored_grid,
            channels=channels,
        )
        for leaf in jax.tree.leaves(got):
            assert leaf.sharding.is_equivalent_to(everywhere, leaf.ndim)
        return jax.tree.map(np.asarray, got)

    return run


def test_every_source_gives_the_same_start(tmp_path, load):
    stored, fresh = params(**TOK), fresh_params(**TOK)
    sources = [
        save_run(tmp_path / "run", stored),
        tmp_path / "run" / "checkpoints" / "4",
        save_file(tmp_path / "x.npz", stored),
        save_file(tmp_path / "scan.npz", vit.loop_to_scan(stored)),
        save_file(tmp_path / "x.pth", stored, "torchvision"),
        *(save_file(tmp_path / f"{f}.safetensors", stored, f) for f in weights.FORMATS),
    ]
    for source in sources:
        cases.assert_same_bits(stored, load(source, fresh, **TOK))
    got = load(sources[0], vit.loop_to_scan(fresh), **TOK, scan=True)
    cases.assert_same_bits(vit.loop_to_scan(stored), got)


def test_dont_load_leaves_some_fresh(tmp_path, load):
    stored, fresh = params(**LEARN), fresh_params(**LEARN)
    del stored["head"]["bias"]
    stored["extra"] = {"a": np.ones(3, np.float32)}
    path = save_file(tmp_path / "x.npz", stored)
    got = load(path, fresh, ["head/.*", "extra/a", ".*Dense_0.*"], **LEARN)
    found, old, new = (flatten_dict(t, sep="/") for t in (got, stored, fresh))
    for name, value in found.items():
        skipped = name.startswith("head/") or "Dense_0" in name
        np.testing.assert_array_equal(value, (new if skipped else old)[name])
    for regex, words in (
        ("hed/.*", r"dont_load: 'hed/.\*' matches no parameter"),
        ("a(", r"dont_load: 'a\(' is not a regular expression"),
    ):
        with pytest.raises(ValueError, match=words):
            load(path, fresh, [regex], **LEARN)


def test_everything_that_does_not_fit_is_listed(tmp_path, load):
    leaves = flatten_dict(params(**LEARN), sep="/")
    block = "Transformer/encoderblock_{}/MlpBlock_0/Dense_0"
    for i in range(2):
        del leaves[f"{block.format(i)}/bias"]
        leaves[f"{block.format(i)}/kernel"] = np.zeros((24, 44), np.float32)
    for i in range(2, 14):
        leaves[f"Transformer/encoderblock_{i}/LayerNorm_0/scale"] = np.zeros(24)
    leaves["extra"] = np.zeros(3)
    path = save_file(tmp_path / "x.npz", unflatten_dict(leaves, sep="/"))
    fresh = fresh_params(**LEARN)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load(path, fresh, **LEARN)
    message = str(error.value)
    mlp = "Transformer/encoderblock_{0-1}/MlpBlock_0/Dense_0"
    assert f"missing in the file: {mlp}/bias; " in message
    assert f"shape (24, 44) in the file, (24, 40) in the model: {mlp}/kernel" in message
    left = "only in the file: Transformer/encoderblock_{2-13}/LayerNorm_0/scale, extra"
    assert left in message
    assert len(message) < 700
    patterns = [".*Dense_0.*", "extra", r".*encoderblock_(2|3|4|5|6|7|8|9|1\d)/.*"]
    load(path, fresh, patterns, **LEARN)


def test_long_lists_are_short_but_whole():
    names = [f"a/encoderblock_{i}/b" for i in (0, 1, 2, 5, 7, 8)] + ["cls", "x_3/y"]
    assert fit._brief(names) == ["a/encoderblock_{0-2,5,7-8}/b", "cls", "x_3/y"]
    assert fit._brief(["encoderblock_4/b"]) == ["encoderblock_4/b"]


# A model of 8 patches leaves open whether one of 9 positions is the class token's.
@pytest.mark.parametrize(
    ("old", "new", "say"),
    [
        (cases.SQUARE, (5, 5), {}),
        (cases.WIDE, (2, 4), {"stored_grid": cases.WIDE}),
    ],
)
def test_positions_are_resampled_to_the_models_grid(old, new, say, tmp_path, load):
    stored, fresh = params(old, **TOK), fresh_params(new, **TOK)
    table = stored["pos_embedding"].reshape(*old, -1)
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = ndimage.zoom(table, zoom, order=1).reshape(1, -1, cases.WIDTH)
    paths = [save_file(tmp_path / "x.npz", stored)]
    paths += [save_file(tmp_path / "x.safetensors", stored, "timm")]
    for path in [*paths, save_run(tmp_path / "run", stored)]:
        got = load(path, fresh, grid=new, **say, **TOK)
        np.testing.assert_allclose(got["pos_embedding"], expected, rtol=0, atol=1e-6)
        got["pos_embedding"] = stored["pos_embedding"]
        cases.assert_same_bits(stored, got)
        if say:
            with pytest.raises(ValueError, match=r"6 positions|7 positions"):
                load(path, fresh, grid=new, **TOK)
        left = load(path, fresh, ["pos_embedding"], grid=new, **say, **TOK)
        np.testing.assert_array_equal(left["pos_embedding"], fresh["pos_embedding"])


def test_grids_of_as_many_patches_are_still_two_grids(tmp_path, load):
    stored, fresh = params((2, 3), **LEARN), fresh_params((3, 2), **LEARN)
    path = save_file(tmp_path / "x.npz", stored)
    got = load(path, fresh, stored_grid=[2, 3], grid=(3, 2), **LEARN)
    assert not np.array_equal(got["pos_embedding"], stored["pos_embedding"])
    got = load(path, fresh, grid=(3, 2), **LEARN)  # without stored_grid
    np.testing.assert_array_equal(got["pos_embedding"], stored["pos_embedding"])


def test_constant_positions_of_a_file_are_no_parameters(tmp_path, load):
    constant = {"posemb": "sincos2d"}
    stored = params(**constant)
    path = save_file(tmp_path / "x.safetensors", stored, "timm", **cases.SINCOS)
    cases.assert_same_bits(stored, load(path, fresh_params(**constant), **constant))
    # A model that learns them starts from the constants.
    got = load(path, fresh_params(**LEARN), **LEARN)
    expected = vit.posemb_sincos_2d(3, 3, cases.WIDTH).astype(np.float32)
    np.testing.assert_array_equal(got["pos_embedding"], expected)
    learned = save_file(tmp_path / "y.npz", params(**LEARN))
    with pytest.raises(ValueError, match="only in the file: pos_embedding"):
        load(learned, fresh_params(**constant), **constant)


def test_other_dtypes_become_the_models(tmp_path, load):
    stored = params(**LEARN, dtype=np.dtype(jnp.bfloat16))
    got = load(save_file(tmp_path / "x.npz", stored), fresh_params(**LEARN), **LEARN)
    expected = jax.tree.map(lambda x: x.astype(np.float32), stored)
    cases.assert_same_bits(expected, got)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 4), (3, 2), (4, 3), (1, 3)])
def test_channels_are_fitted_by_timms_rule(old, new):
    import_torchvision()  # timm imports it
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
    if old % new == 0 or new % old == 0:  # a grey image keeps its embedding
        np.testing.assert_allclose(got.sum(2), kernel.sum(2), rtol=1e-4, atol=1e-5)


def test_channels_are_fitted_on_request_with_a_warning(tmp_path, load, caplog):
    stored, fresh = params(**LEARN), fresh_params(**LEARN)
    path = save_file(tmp_path / "x.npz", stored)
    fresh["embedding"]["kernel"] = fresh["embedding"]["kernel"][:, :, :1]
    with pytest.raises(ValueError, match="which model_init_channels='sum' can adapt"):
        load(path, fresh, **LEARN)
    got = load(path, fresh, **LEARN, channels="sum")
    [said] = [r.getMessage() for r in caplog.records]
    assert "is for 3 channels: model_init_channels='sum' adapts it to 1" in said
    kernel = stored["embedding"]["kernel"].sum(2, keepdims=True)
    np.testing.assert_allclose(got["embedding"]["kernel"], kernel, rtol=1e-6)
    got["embedding"] = stored["embedding"]
    cases.assert_same_bits(stored, got)
    with pytest.raises(ValueError, match="unknown model_init_channels 'mean'"):
        load(path, fresh, **LEARN, channels="mean")


def test_heads_are_not_mistaken(tmp_path, load):
    """Six heads' numbers would fit into three, in the wrong places."""
    state = weights.to_state_dict(params(**LEARN), format="timm")
    words = {weights.WORD: '{"num_heads": 6}'}
    files.write(tmp_path / "x.safetensors", state, words)
    with pytest.raises(ValueError, match="has 6 heads, but num_heads is 3"):
        load(tmp_path / "x.safetensors", fresh_params(**LEARN), **LEARN)


def test_blocks_that_cannot_be_stacked(tmp_path, load):
    stored = params(**LEARN)
    del stored["Transformer"]["encoderblock_1"]["LayerNorm_0"]
    path = save_file(tmp_path / "x.npz", stored)
    fresh = fresh_params(**LEARN, scan=True)
    with pytest.raises(ValueError, match=r"blocks of .* differ from each other"):
        load(path, fresh, **LEARN, scan=True)


def test_nothing_there(tmp_path, load):
    for name, message in [
        ("nowhere", "no checkpoint at"),
        ("nowhere.npz", "there is no file"),
        ("nowhere.npz:img", "there is no file"),
        ("nowhere.safetensors", "there is no file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name, fresh_params(**LEARN), **LEARN)


def test_another_gelu_is_reported(tmp_path, load, caplog):
    """The config of a run has it, or the format of a file; the arrays do not."""
    # A file that cannot be read leaves warnings as they were.
    with pytest.raises(ValueError, match="no checkpoint"):
        weights.load(tmp_path / "none")
    stored = params(**TOK)
    theirs = save_file(tmp_path / "x.pth", stored, "torchvision")
    ours = save_file(tmp_path / "x.npz", stored)
    for path, gelu in ((theirs, "exact"), (ours, "tanh")):
        load(path, stored, **TOK, gelu=gelu)
    assert not caplog.records
    for path, gelu, other in ((theirs, "tanh", "exact"), (ours, "exact", "tanh")):
        load(path, stored, **TOK, gelu=gelu)
        said = caplog.records.pop().getMessage()
        assert f"trained with gelu='{other}', but the model has gelu='{gelu}'" in said
    assert weights.usual_gelu(theirs, {"model": {"gelu": "tanh"}}) == "tanh"
    assert weights.usual_gelu(theirs, {"model": {}}) == "tanh"


def test_a_backbone_gets_a_fresh_head(tmp_path, load, caplog):
    """Its classes are the config's; each other parameter that is missing is named."""
    stored, fresh = params(**TOK), fresh_params(**TOK)
    state = weights.to_state_dict(stored, format="timm")
    state = {f"net.{k}": x for k, x in state.items() if not k.startswith("head.")}
    path = tmp_path / "x.safetensors"
    files.write(path, {**state, "net.mask_token": np.zeros((1, 24))}, {})
    kw = TOK | {"gelu": "exact"}
    cases.assert_same_bits({**stored, "head": fresh["head"]}, load(path, fresh, **kw))
    taken, headless = (record.getMessage() for record in caplog.records)
    assert taken == f"{path}: 'net.' removed from its keys; left out: net.mask_token"
    assert headless == f"{path} has no head: the model's head keeps its initial values"
    caplog.clear()
    load(path, fresh, ["head/.*"], **kw)
    assert len(caplog.records) == 1
    wider = fresh_params(**TOK, rep_size=7)
    with pytest.raises(
        ValueError, match=r"dont_load .*missing in the file: pre_logits/bias"
    ):
        load(path, wider, **kw, rep_size=7)
