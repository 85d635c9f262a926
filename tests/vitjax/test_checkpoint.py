"""Checkpoints come back whole, anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.checkpoint import Checkpointer, load_params, locate
from vitjax.sharding import infer_sharding, replicated
from vitjax.step import TrainState


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "embedding": {"kernel": rng.normal(size=(16, 8)).astype(np.float32)},
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
    assert reader.meta(7) == {"clock": {"train_seconds": 1.5}}
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


def _load(path, mesh, fresh, dont_load=()):
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)),
        fresh,
    )
    return load_params(path, shapes, fresh, dont_load)


def test_parameters_alone_can_be_loaded_leaving_some_fresh(tmp_path, mesh):
    stored = make_state(0)
    save(tmp_path, placed(stored, mesh, "replicate")[0])
    fresh = make_state(1).params
    got = _load(tmp_path, mesh, fresh)
    jax.tree.map(np.testing.assert_array_equal, got, stored.params)
    got = _load(tmp_path, mesh, fresh, ["head/.*"])
    np.testing.assert_array_equal(
        got["embedding"]["kernel"], stored.params["embedding"]["kernel"]
    )
    np.testing.assert_array_equal(got["head"]["kernel"], fresh["head"]["kernel"])


def test_what_does_not_fit_is_listed(tmp_path, mesh):
    save(tmp_path, placed(make_state(), mesh, "replicate")[0])
    fresh = make_state().params
    fresh["head"] = {"kernel": jnp.zeros((8, 5)), "bias": jnp.zeros(5)}
    del fresh["embedding"]
    with pytest.raises(ValueError, match="does not fit") as error:
        _load(tmp_path, mesh, fresh)
    message = str(error.value)
    assert "head/bias is missing there" in message
    assert "embedding/kernel is left over there" in message
    assert "head/kernel has shape (8, 4) there, (8, 5) here" in message
    with pytest.raises(ValueError, match=r"dont_load: 'hed/.\*' matches no parameter"):
        _load(tmp_path, mesh, fresh, ["head/.*", "hed/.*", "embedding/.*"])
    got = _load(tmp_path, mesh, fresh, ["head/.*", "embedding/.*"])
    np.testing.assert_array_equal(got["head"]["kernel"], np.zeros((8, 5)))


def test_a_run_keeps_at_least_one_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep must be at least 1, or None"):
        Checkpointer(tmp_path, max_to_keep=0)


def test_a_long_list_of_misfits_is_cut(tmp_path, mesh):
    save(tmp_path, placed(make_state(), mesh, "replicate")[0])
    fresh = {f"layer{i}": {"kernel": jnp.zeros(3)} for i in range(50)}
    with pytest.raises(ValueError, match=r"; and 49 more$") as error:
        _load(tmp_path, mesh, fresh)
    assert len(str(error.value)) < 600
