"""randaug of the step on JAX's default device against the CPU's, value for value."""

import jax
import numpy as np
import pytest

from input_pipeline import device_ops, layers
from parity.gpu import randaug
from vitjax.devices import chips

SIDE, IMAGES = 48, 96


def batch():
    """Noise, ramps, blocks and constants, each with every op in turn."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (IMAGES // 4, SIDE, SIDE, 3))
    ramp = np.broadcast_to(np.arange(SIDE)[:, None, None], (SIDE, SIDE, 3))
    ramps = ramp * rng.integers(1, 5, (IMAGES // 4, 1, 1, 3)) + 9
    blocks = noise[:, : SIDE // 8, : SIDE // 8].repeat(8, 1).repeat(8, 2)
    constants = np.broadcast_to(noise[:, :1, :1], noise.shape)
    image = np.stack([noise, ramps, blocks, constants], 1).reshape(-1, SIDE, SIDE, 3)
    plan = rng.integers(0, 2**32, (IMAGES, 2), dtype=np.uint32)
    plan[:, 0] = plan[:, 0] // 32 * 32 + np.arange(IMAGES) // 4 % 32
    assert {layers.NAMES[word & 15] for word in plan[:, 0]} == set(layers.NAMES)
    return {"image": image.astype(np.uint8), "randaug_plan": plan}


@pytest.mark.parametrize("contrast", ["legacy", "fixed"])
def test_the_pixels_are_the_cpus(platform, contrast):
    """On a CPU this compares two compilations: of one device, and of eight."""
    fn, _ = device_ops.in_two(f"randaug(2, 7, contrast={contrast!r})")
    given = batch()
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        want = jax.jit(fn)(jax.device_put(given, cpu))["image"]
    assert (np.asarray(want) != given["image"]).any((1, 2, 3)).mean() > 0.5
    mesh = jax.sharding.Mesh(np.array(jax.devices(platform)), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    got = randaug.program(mesh, contrast, level=7)(jax.device_put(given, rows))
    np.testing.assert_array_equal(got["image"], want)


def test_the_operations_of_a_program_by_hand():
    """A fusion of two operations, a reduction, a look-up, twice in a loop."""
    text = """HloModule m
%fused (p: s32[8]) -> s32[8] {
  %p = s32[8]{0} parameter(0)
  %a = s32[8]{0} add(%p, %p)
  ROOT %b = s32[8]{0} multiply(%a, %p)
}
%plus (x: s32[], y: s32[]) -> s32[] {
  %x = s32[] parameter(0)
  %y = s32[] parameter(1)
  ROOT %s = s32[] add(%x, %y)
}
%body (t: s32[8]) -> s32[8] {
  %t = s32[8]{0} parameter(0)
  ROOT %f = s32[8]{0} fusion(%t), kind=kLoop, calls=%fused
}
%more (u: s32[8]) -> pred[] {
  %u = s32[8]{0} parameter(0)
  ROOT %c = pred[] constant(true)
}
ENTRY %main (m: s32[8], i: s32[3,1]) -> (s32[3], s32[]) {
  %m = s32[8]{0} parameter(0)
  %i = s32[3,1]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %w = s32[8]{0} while(%m), condition=%more, body=%body, backend_config={"known_trip_count":{"n":"2"}}
  %g = s32[3]{0} gather(%w, %i), offset_dims={}
  %r = s32[] reduce(%w, %zero), dimensions={0}, to_apply=%plus
  ROOT %out = (s32[3]{0}, s32[]) tuple(%g, %r)
}
"""
    assert randaug.operations(text) == 2 * (8 + 8) + 3 * 4 + 8


@pytest.mark.aot
@pytest.mark.slow
def test_an_estimate_of_an_absent_chip_is_of_each_devices_own_rows(absent):
    """The goal is at most 5 us an image on an H100, in batches of 1,024."""
    absent("h100")
    found = randaug.estimated("h100", 1024, 224, "legacy")
    assert found["collectives"] == []
    by_name = {name: value for name, value in found.items() if name.startswith("us an")}
    assert len(by_name) == 2
    assert all(0.2 < value < 5 for value in by_name.values())
    # Images in and out, twice, and less than thirty times as much.
    assert 4 * 0.15 < found["MB an image"] < 10
    assert chips.parse("h100").chip.cuda is not None
