"""Checkpoints come back whole, anywhere."""

import contextlib
import dataclasses
import gc
import os
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.checkpoints import make_state
from vitjax.checkpoints import checkpointer as checkpoint
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.checksums import checksums
from vitjax.checkpoints.read import locate, read_params
from vitjax.devices.sharding import infer_sharding
from vitjax.trees import flatten_with_names

pytestmark = pytest.mark.slow

FSDP = "fsdp('data', min_size_to_shard_mb=0)"


def placed(state, mesh, strategy=FSDP):
    shardings = infer_sharding(state, mesh, [(".*", strategy)])
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        shardings,
    )
    return jax.device_put(state, shardings), shapes


def save(path, states, **meta):
    """States by step, each with its step as meta["at"]."""
    with contextlib.closing(Checkpointer(path)) as checkpointer:
        for step, state in states.items():
            checkpointer.save(step, state, {"at": step, **meta})


@pytest.mark.parametrize(
    ("strategy", "other"), [("replicate", FSDP), (FSDP, "replicate")]
)
def test_a_state_comes_back_bit_for_bit_on_another_placement(
    tmp_path, mesh, strategy, other
):
    state, _ = placed(make_state(), mesh, strategy)
    save(tmp_path, {7: state}, clock={"train_seconds": 1.5})
    _, shapes = placed(make_state(), mesh, other)
    with contextlib.closing(Checkpointer(tmp_path)) as reader:
        assert reader.latest_step() == 7
        assert reader.meta(7)["clock"] == {"train_seconds": 1.5}
        back = reader.restore(7, shapes)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b, s in zip(*map(jax.tree.leaves, (state, back, shapes)), strict=True):
        assert a.dtype == b.dtype
        assert b.sharding.is_equivalent_to(s.sharding, b.ndim)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# orbax does not wait for its other tasks when one of them fails.
ORPHANS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


@pytest.fixture
def collected():
    """Collect what a test leaves behind while the filters of ORPHANS are in force."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, mesh):
    """(a workdir with checkpoints 6 and 7, both states, their shapes)."""
    workdir = tmp_path_factory.mktemp("checkpoints")
    good, shapes = placed(make_state(0, rows=1024), mesh)
    old, _ = placed(make_state(1, rows=1024), mesh)
    save(workdir, {6: old, 7: good})
    return workdir, {6: old, 7: good}, shapes


def files_of(workdir):
    """The files of the newest checkpoint, the largest first."""
    newest = workdir / "checkpoints" / "7"
    files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 10
    return sorted(files, key=lambda path: -path.stat().st_size)


def flip(file, rng):
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(path):
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def newest_after(harm, file, whole, tmp_path):
    """The step that a start restores after harm to one file, or folder, of step 7.

    Its state is whole, and a damaged checkpoint is set aside: there is room for another.
    """
    source, states, shapes = whole
    workdir = tmp_path / "harmed"
    shutil.copytree(source, workdir)
    harm(workdir / file.relative_to(source))
    with contextlib.closing(Checkpointer(workdir)) as checkpointer:
        state, meta = checkpointer.restore_newest(shapes)
        jax.tree.map(np.testing.assert_array_equal, state, states[meta["at"]])
        aside = [p.name for p in (workdir / "damaged").glob("*")]
        assert aside == (["7-0"] if meta["at"] == 6 else [])
        if meta["at"] == 6 and file.name == "metadata":
            checkpointer.save(7, states[7], {"at": 7})
    shutil.rmtree(workdir)
    return meta["at"]


def warnings_of(caplog):
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if "resuming from" in text]


@ORPHANS
@pytest.mark.usefixtures("collected")
def test_one_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path, whole, caplog):
    """Thirty flips, over all files of the newest checkpoint in turn.

    The largest ones hold the values of arrays, where orbax notices nothing.
    """
    rng, files = random.Random(0), files_of(whole[0])
    fell_back = set()
    for number in range(30):
        file = files[number % len(files)]
        if newest_after(lambda path: flip(path, rng), file, whole, tmp_path) == 6:
            fell_back.add(file.name)
    assert len(fell_back) > 3
    assert "metadata" in fell_back
    named = "is damaged: the bits of params/embedding/kernel have changed"
    assert any(named in text for text in warnings_of(caplog))


@ORPHANS
@pytest.mark.usefixtures("collected")
def test_a_part_that_is_cut_or_missing_is_noticed_or_harmless(tmp_path, whole, caplog):
    """Each file of the newest checkpoint in turn, and each of its items."""
    newest = whole[0] / "checkpoints" / "7"
    found = set()
    for file in [*files_of(whole[0]), newest / "state", newest / "meta"]:
        for harm in (cut, remove):
            if newest_after(harm, file, whole, tmp_path) == 6:
                folder = str(file.relative_to(newest).parent)
                found.add((folder if folder.endswith("/d") else file.name, harm))
    values = "state/ocdbt.process_0/d"
    for part in ("metadata", values, "state", "meta"):
        assert {(part, cut), (part, remove)} <= found, part
    warnings = warnings_of(caplog)
    named = [t for t in warnings if re.search(r'reading "[.\w]+\.kernel/\d+\.\d+"', t)]
    assert len(named) >= 2, "each of the two harms to the arrays' values names one"
    assert not any("<bound" in text for text in warnings)


def test_a_changed_value_is_named(tmp_path, mesh, monkeypatch):
    """The leaf's bits differ from those that were saved, in a way that orbax takes."""
    state, shapes = placed(make_state(), mesh)
    other = dataclasses.replace(state, params=jax.tree.map(lambda x: x, state.params))
    other.params["head"]["kernel"] = other.params["head"]["kernel"].at[0, 0].add(1)
    expected = checksums(other)
    monkeypatch.setattr(checkpoint, "checksums", lambda _: expected)
    save(tmp_path, {7: state})
    with contextlib.closing(Checkpointer(tmp_path)) as reader:
        words = "7 is damaged: the bits of params/head/kernel"
        with pytest.raises(ValueError, match=words):
            reader.restore_newest(shapes)
    assert (tmp_path / "checkpoints" / "7").is_dir(), "it is the only one"


def test_old_checkpoints_go_and_kept_ones_stay(tmp_path):
    checkpointer = Checkpointer(tmp_path, max_to_keep=2, keep_steps=4)
    for step in range(1, 9):
        checkpointer.save(step, make_state(), {})
    checkpointer.close()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 7, 8]


def test_a_new_workdir_stays_untouched_until_the_first_save(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new")
    assert checkpointer.latest_step() is None
    checkpointer.close()
    assert not (tmp_path / "new").exists()


def test_locate_takes_a_workdir_or_a_step(tmp_path):
    save(tmp_path, {3: make_state(), 20: make_state()})
    assert locate(tmp_path) == (tmp_path, 20)
    assert locate(tmp_path / "checkpoints" / "3") == (tmp_path, 3)
    with pytest.raises(ValueError, match="no checkpoint at"):
        locate(tmp_path / "nothing")


def test_parameters_alone_come_as_numpy_with_the_config(tmp_path, mesh):
    state, _ = placed(make_state(), mesh)
    half = jnp.ones((1, 1, 8), jnp.bfloat16)
    state = dataclasses.replace(state, params={**state.params, "cls": half})
    save(tmp_path, {7: state}, config={"lr": 0.5})
    params, config = read_params(tmp_path)
    assert config == {"lr": 0.5}
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    for a, b in zip(*map(jax.tree.leaves, (params, state.params)), strict=True):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, np.asarray(b))


@ORPHANS
@pytest.mark.usefixtures("collected")
def test_parameters_alone_are_checked_too(tmp_path):
    """One bit of each value file, in turn: named, or harmless."""
    state = make_state()
    save(tmp_path, {3: state})
    expected = dict(flatten_with_names(state.params))
    found = 0
    for path in sorted((tmp_path / "checkpoints" / "3" / "state").rglob("*")):
        if not path.is_file():
            continue
        original = path.read_bytes()
        for at in range(len(original) // 2, len(original), max(1, len(original) // 3)):
            data = bytearray(original)
            data[at] ^= 16
            path.write_bytes(data)
            try:
                params, _ = read_params(tmp_path)
            except ValueError as error:
                found += "is damaged" in str(error)
            else:
                for name, value in flatten_with_names(params):
                    np.testing.assert_array_equal(value, expected[name])
        path.write_bytes(original)
    assert found > 2


def test_a_run_keeps_at_least_one_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep must be at least 1, or None"):
        Checkpointer(tmp_path, max_to_keep=0)
    with pytest.raises(ValueError, match=r"keep_ckpt_steps must be at least 1.*got 0"):
        Checkpointer(tmp_path, keep_steps=0)
