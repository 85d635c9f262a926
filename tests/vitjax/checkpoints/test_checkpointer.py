"""Checkpoints come back whole, anywhere."""

import dataclasses
import gc
import os
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.checkpoints import checkpointer as checkpoint
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.checksums import checksums
from vitjax.checkpoints.read import locate, read_params
from vitjax.devices.sharding import infer_sharding
from vitjax.step import TrainState
from vitjax.trees import flatten_with_names

pytestmark = pytest.mark.slow


def make_state(seed=0, rows=16):
    rng = np.random.default_rng(seed)
    params = {
        "embedding": {"kernel": rng.normal(size=(rows, 8)).astype(np.float32)},
        "head": {"kernel": rng.normal(size=(8, 4)).astype(np.float32)},
    }
    params = jax.tree.map(jnp.asarray, params)
    tx = optax.scale_by_adam(mu_dtype=jnp.bfloat16)
    return TrainState(step=jnp.int32(7), params=params, opt_state=tx.init(params))


def placed(state, mesh, strategy):
    shardings = infer_sharding(state, mesh, [(".*", strategy)])
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        shardings,
    )
    return jax.device_put(state, shardings), shapes


def save(path, state, step=7):
    checkpointer = Checkpointer(path)
    checkpointer.save(step, state, {"clock": {"train_seconds": 1.5}})
    checkpointer.close()


FSDP = "fsdp('data', min_size_to_shard_mb=0)"


@pytest.mark.parametrize(
    ("strategy", "other"), [("replicate", FSDP), (FSDP, "replicate")]
)
def test_a_state_comes_back_bit_for_bit_on_another_placement(
    tmp_path, mesh, strategy, other
):
    state, _ = placed(make_state(), mesh, strategy)
    save(tmp_path, state)
    _, shapes = placed(make_state(), mesh, other)
    reader = Checkpointer(tmp_path)
    assert reader.latest_step() == 7
    assert reader.meta(7)["clock"] == {"train_seconds": 1.5}
    back = reader.restore(7, shapes)
    reader.close()
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b, s in zip(
        jax.tree.leaves(state),
        jax.tree.leaves(back),
        jax.tree.leaves(shapes),
        strict=True,
    ):
        assert a.dtype == b.dtype
        assert b.sharding.is_equivalent_to(s.sharding, b.ndim)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Where one of its tasks fails, orbax forgets about the others.
ORPHANS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


@pytest.fixture
def collected():
    """What a test leaves behind is complained about while ORPHANS is in force."""
    yield
    gc.collect()


@ORPHANS
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("strategy", ["replicate", FSDP])
def test_one_flipped_bit_anywhere_is_noticed_or_harmless(
    tmp_path, mesh, strategy, caplog
):
    """Fifty flips, over all files of the newest checkpoint in turn.

    The largest ones hold the values of arrays, of which orbax notices nothing.
    """
    good, shapes = placed(make_state(0, rows=1024), mesh, strategy)
    old, _ = placed(make_state(1, rows=1024), mesh, strategy)
    checkpointer = Checkpointer(tmp_path / "whole")
    checkpointer.save(6, old, {"at": 6})
    checkpointer.save(7, good, {"at": 7})
    checkpointer.close()
    newest = tmp_path / "whole" / "checkpoints" / "7"
    files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
    files.sort(key=lambda path: -path.stat().st_size)
    assert len(files) > 10
    rng = random.Random(0)
    fell_back = set()
    for number in range(50):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        file = files[number % len(files)].relative_to(tmp_path / "whole")
        data = bytearray((workdir / file).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (workdir / file).write_bytes(data)
        checkpointer = Checkpointer(workdir)
        state, meta = checkpointer.restore_newest(shapes)
        expected = {6: old, 7: good}[meta["at"]]
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        aside = [p.name for p in (workdir / "damaged").glob("*")]
        assert aside == (["7-0"] if meta["at"] == 6 else [])
        if meta["at"] == 6:
            fell_back.add(file.name)
            checkpointer.save(7, good, {"at": 7})  # there is room for it again
        checkpointer.close()
        shutil.rmtree(workdir)
    assert len(fell_back) > 3
    assert "metadata" in fell_back
    warnings = [r.getMessage() for r in caplog.records if "going on" in r.getMessage()]
    named = "is damaged: the bits of params/embedding/kernel have changed"
    assert any(named in text for text in warnings)


def test_a_changed_value_is_named(tmp_path, mesh, monkeypatch):
    """The leaf's bits differ from those that were saved, in a way that orbax takes."""
    state, shapes = placed(make_state(), mesh, "replicate")
    other = dataclasses.replace(state, params=jax.tree.map(lambda x: x, state.params))
    other.params["head"]["kernel"] = other.params["head"]["kernel"].at[0, 0].add(1)
    expected = checksums(other)
    monkeypatch.setattr(checkpoint, "checksums", lambda _: expected)
    save(tmp_path, state)
    reader = Checkpointer(tmp_path)
    with pytest.raises(
        ValueError, match="7 is damaged: the bits of params/head/kernel"
    ):
        reader.restore_newest(shapes)
    assert (tmp_path / "checkpoints" / "7").is_dir(), "it is the only one"
    reader.close()


@ORPHANS
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("strategy", ["replicate", FSDP])
def test_one_file_cut_or_missing_is_noticed_or_harmless(
    tmp_path, mesh, strategy, caplog
):
    """Each file of the newest checkpoint in turn; arrays that have files of their own."""
    good, shapes = placed(make_state(0, rows=1024), mesh, strategy)
    old, _ = placed(make_state(1, rows=1024), mesh, strategy)
    whole = tmp_path / "whole"
    checkpointer = Checkpointer(whole)
    checkpointer.save(6, old, {"at": 6})
    checkpointer.save(7, good, {"at": 7})
    checkpointer.close()
    newest = whole / "checkpoints" / "7"
    found = set()
    for file in [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]:
        for harm in ("cut", "missing"):
            workdir = tmp_path / "harmed"
            shutil.copytree(whole, workdir)
            harmed = workdir / file.relative_to(whole)
            if harm == "cut":
                os.truncate(harmed, file.stat().st_size // 2)
            else:
                harmed.unlink()
            checkpointer = Checkpointer(workdir)
            state, meta = checkpointer.restore_newest(shapes)
            checkpointer.close()
            jax.tree.map(
                np.testing.assert_array_equal, state, {6: old, 7: good}[meta["at"]]
            )
            if meta["at"] == 6:
                folder = str(file.relative_to(newest).parent)
                found.add((folder if folder.endswith("/d") else file.name, harm))
            shutil.rmtree(workdir)
    values = "state/ocdbt.process_0/d"
    assert {("metadata", harm) for harm in ("cut", "missing")} <= found
    assert {(values, harm) for harm in ("cut", "missing")} <= found
    warnings = [r.getMessage() for r in caplog.records if "going on" in r.getMessage()]
    named = [t for t in warnings if re.search(r'reading "[.\w]+\.kernel/\d+\.\d+"', t)]
    assert len(named) >= 2, "each of the two harms to the arrays' values names one"
    assert not any("<bound" in text for text in warnings)


@ORPHANS
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("part", ["state", "meta"])
@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_a_truncated_or_missing_part_is_noticed(tmp_path, mesh, part, harm):
    state, shapes = placed(make_state(), mesh, "replicate")
    for step in (6, 7):
        save(tmp_path, state, step)
    folder = tmp_path / "checkpoints" / "7" / part
    if harm == "remove":
        shutil.rmtree(folder)
    else:
        for file in folder.rglob("*"):
            if file.is_file():
                os.truncate(file, file.stat().st_size // 2)
    reader = Checkpointer(tmp_path)
    back, _ = reader.restore_newest(shapes)
    reader.close()
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["7-0"]


def test_old_checkpoints_go_and_kept_ones_stay(tmp_path, mesh):
    state, _ = placed(make_state(), mesh, "replicate")
    checkpointer = Checkpointer(tmp_path, max_to_keep=2, keep_steps=4)
    for step in range(1, 9):
        checkpointer.save(step, state, {})
    checkpointer.close()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 7, 8]


def test_a_new_workdir_stays_untouched_until_the_first_save(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new")
    assert checkpointer.latest_step() is None
    checkpointer.close()
    assert not (tmp_path / "new").exists()


def test_locate_takes_a_workdir_or_a_step(tmp_path, mesh):
    state, _ = placed(make_state(), mesh, "replicate")
    for step in (3, 20):
        save(tmp_path, state, step)
    assert locate(tmp_path) == (tmp_path, 20)
    assert locate(tmp_path / "checkpoints" / "3") == (tmp_path, 3)
    with pytest.raises(ValueError, match="no checkpoint at"):
        locate(tmp_path / "nothing")


@pytest.mark.parametrize("strategy", ["replicate", FSDP])
def test_parameters_alone_come_as_numpy_with_the_config(tmp_path, mesh, strategy):
    state, _ = placed(make_state(), mesh, strategy)
    state = dataclasses.replace(
        state, params={**state.params, "cls": jnp.ones((1, 1, 8), jnp.bfloat16)}
    )
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(7, state, {"config": {"lr": 0.5}})
    checkpointer.close()
    params, config = read_params(tmp_path)
    assert config == {"lr": 0.5}
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    for a, b in zip(
        jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True
    ):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, np.asarray(b))


def test_a_run_keeps_at_least_one_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep must be at least 1, or None"):
        Checkpointer(tmp_path, max_to_keep=0)
    with pytest.raises(ValueError, match=r"keep_ckpt_steps must be at least 1.*got 0"):
        Checkpointer(tmp_path, keep_steps=0)


@ORPHANS
@pytest.mark.usefixtures("collected")
def test_parameters_alone_are_checked_too(tmp_path):
    """One bit of each value file, in turn: named, or harmless."""
    state = make_state()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, state, {"config": {"a": 1}})
    checkpointer.close()
    expected = dict(flatten_with_names(state.params))
    found = 0
    for path in sorted((tmp_path / "checkpoints" / "3" / "state").rglob("*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        for at in range(len(whole) // 2, len(whole), max(1, len(whole) // 3)):
            data = bytearray(whole)
            data[at] ^= 16
            path.write_bytes(data)
            try:
                params, _ = read_params(tmp_path)
            except ValueError as error:
                found += "is damaged" in str(error)
            else:
                for name, value in flatten_with_names(params):
                    np.testing.assert_array_equal(value, expected[name])
        path.write_bytes(whole)
    assert found > 2
