"""Compare the bits of repeated trainings: `python -m parity.gpu.repeat --json FILE`.

Each run is a process of its own, which compiles again: XLA chooses kernels by timing
them, and some kernels add in any order.
"""

import argparse
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence

from input_pipeline import home, places

# The first includes no kernel that adds in any order; the second times no kernels.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
STEPS = 5


def trained() -> int:
    """Return a checksum of the parameters after some steps of a shallow S/16."""
    import jax

    from vitjax import synthetic
    from vitjax.devices import sharding

    gpu = jax.default_backend() == "gpu"
    size, batch_size = (224, 64) if gpu else (32, 8)
    fast = {"dtype_mm": "bfloat16", "attn_impl": "cudnn"}
    e = synthetic.flagship("S/16", model={"depth": 2, **(fast if gpu else {})})
    mesh = sharding.make_mesh(e.mesh)
    batches = synthetic.batches(batch_size, size, e.num_classes, mesh, 2)
    run = synthetic.build(e, mesh, batch_size=batch_size, image_size=size)
    state = run.init()
    for at in range(STEPS):
        state, _ = run.train_step(state, batches[at % 2], run.key)
    found = 0
    for leaf in jax.tree.leaves(jax.device_get(state)):
        found = zlib.crc32(leaf.tobytes(), found)
    return found


def checksums(flags: str, times: int = 2) -> list[int]:
    """Return `trained` of several processes with these XLA_FLAGS added.

    Raises CalledProcessError if one fails.
    """
    given = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    # No program may come from a cache: the choice of kernels is part of the question.
    env = {**os.environ, "XLA_FLAGS": given, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "parity.gpu.repeat", "--once"]
    runs = [
        subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        for _ in range(times)
    ]
    return [int(run.stdout.split()[-1]) for run in runs]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m parity.gpu.repeat")
    parser.add_argument("--flags", default="", help="XLA_FLAGS to add")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=places.local, metavar="FILE")
    args = parser.parse_args(home.expanded(argv))
    if args.once:
        print(trained())
        return 0
    found = checksums(args.flags)
    figures = {"XLA_FLAGS": args.flags, "equal": len(set(found)) == 1}
    print(json.dumps(figures))
    if args.json:
        args.json.write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
