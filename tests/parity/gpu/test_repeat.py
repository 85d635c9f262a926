"""A step repeats to the bit, a CPU's checkpoint continues, and XLA's plan holds."""

import jax
import numpy as np
import pytest

from parity.gpu import repeat
from vitjax import benchmark, synthetic
from vitjax.checkpoints.checkpointer import Checkpointer

# The allocator's peak also has the second batch, the initial state's temporaries and
# what XLA tries when it chooses kernels; the plan has padding that may not be used.
MEMORY_FACTOR = 1.4


@pytest.mark.slow
def test_runs_in_two_processes_are_equal_to_the_bit(platform):
    """With the flags of XLA that docs/numerics.md names."""
    first, second = repeat.checksums(repeat.DETERMINISTIC)
    assert first == second


def build(e, device):
    mesh = jax.sharding.Mesh(np.array([device]), ("data",))
    batches = synthetic.batches(8, 32, e.num_classes, mesh, 1)
    return synthetic.build(e, mesh, batch_size=8, image_size=32), batches[0]


def test_a_checkpoint_of_a_cpu_continues_on_the_device(platform, tmp_path):
    """Restored to the bit, and the next step is the CPU's to float32's rounding."""
    e = synthetic.flagship("mu/16")
    with jax.default_matmul_precision("highest"):
        cpu, cpu_batch = build(e, jax.devices("cpu")[-1])
        state, _ = cpu.train_step(cpu.init(), cpu_batch, cpu.key)
        keeper = Checkpointer(tmp_path)
        keeper.save(1, state, {})
        keeper.poll(wait=True)
        there, batch = build(e, jax.devices(platform)[0])
        restored = keeper.restore(1, there.abstract_state)
        keeper.close()
        for a, b in zip(*map(jax.tree.leaves, (state, restored)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
            assert b.devices() == {jax.devices(platform)[0]}
        theirs, their_row = cpu.train_step(state, cpu_batch, cpu.key)
        ours, row = there.train_step(restored, batch, there.key)
    assert int(ours.step) == int(theirs.step) == 2
    for name in ("training_loss", "l2_grads", "l2_params"):
        np.testing.assert_allclose(row[name], their_row[name], rtol=1e-4)


@pytest.mark.gpu
def test_the_allocators_peak_is_near_xlas_plan(record_property):
    if jax.default_backend() != "gpu":
        pytest.skip(f"needs a GPU that JAX sees, got {jax.default_backend()}")
    model = {"dtype_mm": "bfloat16", "attn_impl": "cudnn"}
    e = synthetic.flagship("S/16", model=model)
    found = benchmark.measure(e, batch_size=128, image_size=224, steps=1)
    peak, plan = (f"{which} memory GiB per device" for which in ("peak", "planned"))
    ratio = found[peak] / found[plan]
    record_property("peak to plan", f"{ratio:.3f} within a factor of {MEMORY_FACTOR}")
    assert found["memory from"] == "allocator's peak"
    assert 1 / MEMORY_FACTOR < ratio < MEMORY_FACTOR
