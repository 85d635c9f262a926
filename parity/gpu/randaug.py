"""The time of randaug in the step: `python -m parity.gpu.randaug --json FILE`.

With --chip it is an estimate for an absent chip: the compiled program's bytes and
products, as vitjax.benchmark counts them, and beside them its single operations. Those
decide on a GPU, and the roofline knows nothing of them.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from input_pipeline import device_ops, home, layers, places
from vitjax.devices import chips, sharding
from vitjax.estimate import compiled, count, hlo

# A core of an H100 or A100 has 64 lanes for integers, which a program fills to about a
# third.
LANES, FILLED = 64, 0.35
ASSUMED = f"{LANES} lanes a core, filled to {FILLED:.0%}"
# Instructions that move or name values, but compute none.
_NO_WORK = {
    "bitcast", "broadcast", "concatenate", "constant", "copy", "dot", "fusion",
    "get-tuple-element", "iota", "pad", "parameter", "reshape", "slice", "transpose",
    "tuple",
}  # fmt: skip
# A look-up computes its address; an update also compares it with the bounds.
_LOOK_UP, _UPDATE = 4, 8


def program(
    mesh: jax.sharding.Mesh, contrast: str, level: int = 10
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the jitted randaug(2, level), each device on its own rows, as in the step."""
    augment, _ = device_ops.in_two(f"randaug(2, {level}, contrast={contrast!r})")
    assert augment is not None
    axes = mesh.axis_names
    own_rows = jax.shard_map(
        augment, mesh=mesh, in_specs=P(axes), out_specs=P(axes), check_vma=False
    )
    return jax.jit(own_rows)


def batch(size: int, side: int, only: str | None = None) -> dict[str, np.ndarray]:
    """Return noise and random plans, or those with one op alone."""
    rng = np.random.default_rng(0)
    plan = rng.integers(0, 2**32, (size, 2), dtype=np.uint32)
    if only is not None:
        plan = plan // 16 * 16 + np.uint32(layers.NAMES.index(only))
    image = rng.integers(0, 256, (size, side, side, 3), np.uint8)
    return {"image": image, "randaug_plan": plan}


def measured(size: int, side: int, contrast: str, steps: int) -> dict[str, Any]:
    """Time randaug on JAX's devices: usual plans, and one op for all images."""
    mesh = sharding.make_mesh()
    run = program(mesh, contrast)
    found: dict[str, Any] = {}
    for title, only in (("usual", None), ("all Sharpness", "Sharpness")):
        given = jax.device_put(batch(size, side, only), sharding.batch_sharding(mesh))
        seconds = []
        jax.block_until_ready(run(given))
        for _ in range(steps):
            start = time.perf_counter()
            jax.block_until_ready(run(given))
            seconds.append(time.perf_counter() - start)
        each = statistics.median(seconds) / size * mesh.size
        found[f"us an image, {title}"] = round(1e6 * each, 3)
    found["device"] = jax.devices()[0].device_kind
    return found


def estimated(chip: str, size: int, side: int, contrast: str) -> dict[str, Any]:
    """Compile randaug for an absent chip, and estimate its time.

    Raises ValueError if nothing can be compiled for it.
    """
    target = chips.parse(chip)
    mesh = sharding.make_mesh(devices=chips.devices(target))
    rows = sharding.batch_sharding(mesh)
    shapes = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=rows)
        for name, value in batch(size, side).items()
    }
    lowered: Any = program(mesh, contrast)
    built = compiled.compile_for(lowered.lower(shapes), target)
    text = built.as_text()
    one = compiled.estimate(built, target.chip, target.count)
    images = size / target.count
    work = operations(text) / images
    figures = {
        "us an image, roofline": 1e6 * one.seconds / images,
        "MB an image": one.traffic / images / 1e6,
        "million operations an image": work / 1e6,
        "GiB of temporaries": one.temporaries / 2**30,
    }
    cuda = target.chip.cuda
    if cuda is not None:
        rate = cuda.cores * LANES * cuda.clock_ghz * 1e9 * FILLED
        figures[f"us an image, operations ({ASSUMED})"] = 1e6 * work / rate
    return {
        **{name: round(value, 3) for name, value in figures.items()},
        "kernels": one.kernels,
        "collectives": sorted(one.collectives),
    }


def operations(text: str) -> float:
    """Return the operations on single numbers of one run of a compiled program.

    Products of matrices do not count. What a fusion computes twice counts once.
    """
    module = hlo.parse(text)
    by_name = {
        name: one for body in module.computations.values() for name, one in body.items()
    }

    def work(one: hlo.Instruction) -> float:
        if one.opcode == "fusion":
            inner = module.computations[one.attribute("calls") or ""]
            return sum(map(work, inner.values()))
        # A reduction takes an operation for each number that it reads.
        whole = by_name[one.operands[0]] if one.opcode.startswith("reduce") else one
        size = float(sum(shape.size for shape in whole.shapes))
        if one.opcode == "gather":
            return size * _LOOK_UP
        if one.opcode in ("scatter", "dynamic-update-slice"):
            return float(by_name[one.operands[-1]].shapes[0].size) * _UPDATE
        return 0.0 if one.opcode in _NO_WORK else size

    return sum(k.times * work(by_name[k.name]) for k in count.kernels(module))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.gpu.randaug",
        description="Time randaug(2, 10) alone, as the training step computes it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--batch_size", type=int, default=1024, help="images a step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--contrast", default="legacy", choices=("legacy", "fixed"), help="of randaug")
    add("--steps", type=int, default=20, help="timed runs")
    add(
        "--chip", metavar="NAME", help="estimate for an absent chip: h100, v5e:2x4, ..."
    )
    add(
        "--json",
        type=places.local,
        metavar="FILE",
        help="also write the figures to FILE",
    )
    flags = parser.parse_args(home.expanded(argv))
    size, side = flags.batch_size, flags.image_size
    if flags.chip is None:
        found = measured(size, side, flags.contrast, flags.steps)
    else:
        chips.prepare()
        found = estimated(flags.chip, size, side, flags.contrast)
    text = json.dumps({"batch size": size, "contrast": flags.contrast, **found})
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
