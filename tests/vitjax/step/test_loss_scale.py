"""Dynamic loss scaling: float16 trains, overflow skips, and twenty in a row stop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.steps import FSDP, make, placed_batch
from vitjax.step import loss_scale as loss_scale_lib
from vitjax.step.losses import LOSSES

pytestmark = pytest.mark.slow


def steps(mesh, count, **kw):
    state, train_step, key = make(mesh, **kw)
    rows = []
    for i in range(count):
        state, metrics = train_step(state, placed_batch(mesh, i), key)
        rows.append({k: float(v) for k, v in metrics.items()})
    return state, rows


@pytest.mark.parametrize(
    "kw", [{"accum_freq": 2}, {"strategy": FSDP}], ids=["8 devices, accum 2", "fsdp"]
)
def test_a_power_of_two_changes_nothing_in_float32(mesh, kw):
    """Scaling by 2^10 and back is exact, but for its order among the sums.

    The limit of the clip is above the true norm and below the scaled one.
    """
    kw = kw | {"optimizer": {"grad_clip_norm": 100.0}}
    scaled, a = steps(mesh, 3, loss_scale={"init_scale": 1024.0}, **kw)
    plain, b = steps(mesh, 3, **kw)
    for x, y in zip(
        jax.tree.leaves(scaled.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-8)
    for scaled_row, row in zip(a, b, strict=True):
        for name in ("training_loss", "l2_grads", "l2_updates"):
            assert scaled_row[name] == pytest.approx(row[name], rel=1e-6), name
        assert 0.1 < row["l2_grads"] < 100
        assert scaled_row["loss_scale"] == 1024
        assert scaled_row["update_skipped"] == 0


def huge(logits, labels, reduction=True, **_):
    """A loss whose gradient is infinite in the float16 of the blocks at 2^16 only."""
    x = jnp.mean(logits.astype(jnp.float16) * 4.0).astype(jnp.float32)
    return x + 0 * labels.sum() if reduction else x


def states_of(opt_state, kind):
    found = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in found if isinstance(x, kind)]


def test_an_overflow_skips_the_update_halves_the_scale_and_is_counted(
    mesh, monkeypatch
):
    monkeypatch.setitem(LOSSES, "softmax_xent", huge)
    state, train_step, key = make(
        mesh,
        model={"dtype_mm": "float16"},
        loss_scale={"init_scale": 2.0**19, "growth_interval": 3},
        ema={"decay": 0.5},
        accum_freq=2,
    )
    before = jax.device_get(state)
    skipped, scales = [], []
    for i in range(14):
        state, metrics = train_step(state, placed_batch(mesh, i), key)
        skipped.append(bool(metrics["update_skipped"]))
        scales.append(float(metrics["loss_scale"]))
        after = jax.device_get(state)
        pairs = zip(
            jax.tree.leaves((before.params, before.ema)),
            jax.tree.leaves((after.params, after.ema)),
            strict=True,
        )
        if i:  # the first update is zero: warm-up
            assert all(np.array_equal(a, b) for a, b in pairs) == skipped[-1]
        if skipped[-1]:
            assert metrics["l2_updates"] == 0
            assert not np.isfinite(metrics["l2_grads"])
        [adam], [old] = (
            states_of(x.opt_state, optax.ScaleByAdamState) for x in (after, before)
        )
        assert adam.count - old.count == (not skipped[-1])
        schedules = states_of(after.opt_state, optax.ScaleByScheduleState)
        assert {int(x.count) for x in schedules} == {i + 1}, "a skipped step counts too"
        before = after
    first = skipped.index(False)
    assert first >= 1
    assert scales[:first] == [2.0**19 / 2 ** (i + 1) for i in range(first)]
    assert int(after.step) == 14
    assert int(after.loss_scale.skipped) == sum(skipped) == metrics["skipped_updates"]
    assert metrics["most_skipped_updates_in_a_row"] == first
    assert max(scales[first:]) > scales[first], "it grows again"


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
    batch = placed_batch(mesh)
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
def test_settings_that_cannot_work_are_refused(kw, words):
    with pytest.raises(ValueError, match=words):
        loss_scale_lib.make(**kw)
