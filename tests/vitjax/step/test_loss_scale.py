"""Dynamic loss scaling: float16 trains, overflow skips, and twenty in a row stop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.runs import error_of
from tests.vitjax.step.test_train_step import FSDP, assert_close, host_batch, make
from vitjax.devices.sharding import batch_sharding
from vitjax.step import loss_scale as loss_scale_lib
from vitjax.step.losses import LOSSES

pytestmark = pytest.mark.slow


def steps(mesh, count, **kw):
    state, train_step, key = make(mesh, **kw)
    rows = []
    for i in range(count):
        batch = jax.device_put(host_batch(i), batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


@pytest.mark.parametrize(
    "kw",
    [{}, {"accum_freq": 2}, {"strategy": FSDP}],
    ids=["8 devices", "accum 2", "fsdp"],
)
def test_a_power_of_two_changes_nothing_in_float32(mesh, kw):
    """Scaling by 2^10 and back is exact, but for its order among the sums."""
    scaled, a = steps(mesh, 3, loss_scale={"init_scale": 1024.0}, **kw)
    plain, b = steps(mesh, 3, **kw)
    assert_close(scaled.params, plain.params, rtol=1e-6, atol=1e-8)
    for name in ("training_loss", "l2_grads", "l2_updates"):
        np.testing.assert_allclose(
            [r[name] for r in a], [r[name] for r in b], rtol=1e-6
        )
    assert {r["loss_scale"] for r in a} == {1024.0}
    assert {r["update_skipped"] for r in a} == {0.0}


def test_clipping_sees_true_gradients(mesh):
    """A limit far below the scaled norm and above the true one does nothing."""
    _, a = steps(mesh, 2, optimizer={"grad_clip_norm": 100.0}, loss_scale={})
    _, b = steps(mesh, 2, optimizer={"grad_clip_norm": None}, loss_scale={})
    assert 0.01 < a[0]["l2_grads"] < 100
    assert a[1]["l2_updates"] == pytest.approx(b[1]["l2_updates"], rel=1e-6)


def huge(logits, labels, reduction=True, label_smoothing=0.0):
    """A loss whose gradient is infinite in the float16 of the blocks at 2^16 only."""
    del label_smoothing
    x = jnp.mean(logits.astype(jnp.float16) * 4.0).astype(jnp.float32)
    return x + 0 * labels.sum() if reduction else x


@pytest.mark.parametrize("kw", [{}, {"accum_freq": 2}], ids=["", "accum 2"])
def test_an_overflow_skips_the_update_halves_the_scale_and_is_counted(
    mesh, monkeypatch, kw
):
    monkeypatch.setitem(LOSSES, "softmax_xent", huge)
    state, train_step, key = make(
        mesh,
        model={"dtype_mm": "float16"},
        loss_scale={"init_scale": 2.0**19, "growth_interval": 3},
        ema={"decay": 0.5},
        **kw,
    )
    before = jax.device_get(state)
    skipped, scales = [], []
    for i in range(14):
        batch = jax.device_put(host_batch(i), batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        skipped.append(bool(metrics["update_skipped"]))
        scales.append(float(metrics["loss_scale"]))
        after = jax.device_get(state)
        same = all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves((before.params, before.ema)),
                jax.tree.leaves((after.params, after.ema)),
                strict=True,
            )
        )
        if i:  # the first update is zero: warm-up
            assert same == skipped[-1]
        if skipped[-1]:
            assert metrics["l2_updates"] == 0
            assert not np.isfinite(metrics["l2_grads"])
        adam, old = (
            next(s for s in jax.tree.leaves(x.opt_state, is_leaf=is_adam) if is_adam(s))
            for x in (after, before)
        )
        assert adam.count - old.count == (not skipped[-1])
        for name in schedule_counts(after.opt_state):
            assert name == i + 1, "the schedule goes on with the steps"
        before = after
    first = skipped.index(False)
    assert first >= 1
    assert scales[:first] == [2.0**19 / 2 ** (i + 1) for i in range(first)]
    assert int(after.step) == 14
    assert int(after.loss_scale.skipped) == sum(skipped) == metrics["skipped_updates"]
    assert metrics["most_skipped_updates_in_a_row"] == first
    assert max(scales[first:]) > scales[first], "it grows again"


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def schedule_counts(opt_state):
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState)
    )
    found = [int(x.count) for x in found if isinstance(x, optax.ScaleByScheduleState)]
    assert found
    return found


def test_twenty_in_a_row_are_remembered():
    scale = loss_scale_lib.make()
    after = jax.jit(loss_scale_lib.LossScale.after)
    for finite in [False] * 3 + [True] + [False] * 20 + [True] * 5:
        scale = after(scale, jnp.asarray(finite))
    assert (int(scale.skipped), int(scale.in_a_row), int(scale.longest)) == (23, 0, 20)
    assert int(scale.dynamic.fin_steps) == 5


def test_float16_learns(mesh):
    """Fifty steps on one batch; with the loss scale few or none are skipped."""
    state, train_step, key = make(
        mesh,
        model={"dtype_mm": "float16"},
        optimizer={"lr": 1e-2, "wd": 0.0},
        loss_scale={},
    )
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    losses = []
    for _ in range(50):
        state, metrics = train_step(state, batch, key)
        losses.append(float(metrics["training_loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["skipped_updates"] <= 3
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"init_scale": 0}, "init_scale above 0"),
        ({"growth_factor": 1.0}, "growth_factor above 1"),
        ({"backoff_factor": 1.5}, "backoff_factor in"),
        ({"growth_interval": 0}, "growth_interval of at least 1"),
    ],
)
def test_what_cannot_work_is_refused(kw, words):
    with pytest.raises(ValueError, match=words):
        loss_scale_lib.make(**kw)


def test_a_run_whose_gradients_never_fit_stops(tmp_path, capsys):
    """The scale is far beyond float16 and stays there: twenty updates are skipped."""
    scale = {"init_scale": 1e15, "backoff_factor": 0.999}
    line = error_of(
        capsys,
        tmp_path,
        f"--config.loss_scale={scale}",
        "--config.model.dtype_mm=float16",
        "--config.total_steps=30",
    )
    assert (
        "20 updates in a row were skipped before step 22" in line
    )  # rows come every two steps, one late
