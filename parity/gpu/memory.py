"""The memory that XLA plans for an absent chip: `python -m parity.gpu.memory`.

The process sees no GPU, as on a laptop, so that its plan can be compared with the
memory that the same step takes on the chip.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from input_pipeline import home, places
from parity.gpu import jobs
from vitjax import synthetic
from vitjax.config.experiment import Experiment
from vitjax.devices import chips
from vitjax.estimate import compiled


def planned(e: Experiment, chip: str, batch_size: int, image_size: int) -> float:
    """Return the GiB of a step of `e` on one chip, by XLA's plan.

    Raises ValueError if nothing can be compiled for the chip.
    """
    target = chips.parse(chip)
    devices = np.array(chips.devices(target)[:1])
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    run = synthetic.build(e, mesh, batch_size=batch_size, image_size=image_size)
    built = compiled.compile_for(run.lower(), target)
    return compiled.memory(built)[0] / 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.gpu.memory",
        description="Plan the memory of the flagship's step in bfloat16 on a chip.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--chip", default="h100", help="a GPU, as in vitjax.devices.chips")
    add("--model", default="S/16", help="variant of the ViT")
    add("--batch_size", type=int, default=1024, help="images a step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--attn_impl", default="cudnn", help="flax, xla or cudnn")
    add(
        "--json",
        type=places.local,
        metavar="FILE",
        help="also write the figures to FILE",
    )
    flags = parser.parse_args(home.expanded(argv))
    chips.prepare()
    model = {"dtype_mm": "bfloat16", "attn_impl": flags.attn_impl}
    gib = planned(
        synthetic.flagship(flags.model, model=model),
        flags.chip,
        flags.batch_size,
        flags.image_size,
    )
    text = json.dumps({"chip": flags.chip, jobs.ABSENT: gib})
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # before anything asks for devices
    sys.exit(main())
