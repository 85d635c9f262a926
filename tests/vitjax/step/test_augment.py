"""randaug in the step: once for each row, on its own device, before mixup."""

import jax
import numpy as np
import pytest

from input_pipeline import device_ops
from tests.helpers.steps import (
    BATCH,
    FSDP,
    MIXUP,
    device_pp,
    host_batch,
    make,
)
from vitjax import step as step_lib
from vitjax.devices.sharding import batch_sharding


@pytest.fixture(scope="module")
def augment():
    augment, _ = device_ops.in_two("randaug(2, 10)|value_range(-1, 1)")
    return augment


def batches(augment):
    """(a batch with plans, the same images augmented): both on the host."""
    rng = np.random.default_rng(3)
    plan = rng.integers(0, 2**32, (BATCH, 2), dtype=np.uint32)
    batch = host_batch() | {"randaug_plan": plan}
    after = jax.device_get(jax.jit(augment)(batch))
    assert (after["image"] != batch["image"]).any((1, 2, 3)).mean() > 0.5
    return batch, after


@pytest.mark.parametrize(("strategy", "accum_freq"), [("replicate", 4), (FSDP, 2)])
def test_a_step_is_that_on_images_augmented_before(mesh, augment, strategy, accum_freq):
    how = {"strategy": strategy, "accum_freq": accum_freq, "mixup": MIXUP}
    rows = {}
    given = dict(zip((True, False), batches(augment), strict=True))
    for inside, batch in given.items():
        state, train_step, key = make(mesh, augment=augment if inside else None, **how)
        batch = jax.device_put(batch, batch_sharding(mesh))
        compiled = train_step.lower(state, batch, key).compile()
        if inside:
            moved = [
                line for line in compiled.as_text().splitlines()
                if " all-gather(" in line or " all-to-all(" in line
            ]  # fmt: skip
            assert not [line for line in moved if "u8[" in line or "u32[" in line]
            assert bool(moved) is (strategy == FSDP)
        state, metrics = jax.block_until_ready(compiled(state, batch, key))
        _, again = compiled(state, batch, key)
        rows[inside] = jax.device_get((metrics, again))
    for ours, theirs in zip(*map(jax.tree.leaves, rows.values()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_preview_shows_what_the_step_makes(mesh, augment):
    """train_batch.png: the same mixed pictures, also of the last row's partner."""
    batch, after = batches(augment)
    shown = []
    for how, given in ((augment, batch), (None, after)):
        preview = step_lib.make_preview(
            mesh=mesh, mixup=MIXUP, augment=how, device_pp=device_pp, rows=16
        )
        given = jax.device_put(given, batch_sharding(mesh))
        shown.append(preview(given, jax.random.key(0), np.int32(7)))
    for ours, theirs in zip(*shown, strict=True):
        np.testing.assert_array_equal(ours, theirs)
