"""Average the parameters of a run's checkpoints, and evaluate the mean.

`python -m vitjax.tools.average_checkpoints runs/nanovit --steps 280000:400000`
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import places
from vitjax.config.files import parse_with_overrides
from vitjax.tools import command

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Average the parameters of all checkpoints from step A to step B, both included, write the
mean as a checkpoint (parameters only) below --out, and evaluate it there as
vitjax.tools.evaluate does. Other tools and --config.model_init also take the folder.

A run keeps its last two checkpoints unless its config says otherwise: max_to_keep=None
keeps all, keep_ckpt_steps=10_000 each of these multiples.
{command.OVERRIDES}"""
KEPT = ("config", "image_shape", "class_names", "seed")  # metadata that the mean keeps
EXAMPLES = (
    "runs/nanovit --steps 280000:400000",
    "runs/nanovit --out runs/mean --no_evaluation",
)


def average(workdir: Path, first: int | None, last: int | None, out: Path) -> list[int]:
    """Write the mean of a run's checkpoints, `first` to `last`; return their steps.

    Sums are in float64, with one checkpoint in memory at a time. Raises ValueError if
    there are no such checkpoints, or if `out` already has some.
    """
    import contextlib

    import jax
    import numpy as np
    from tqdm import tqdm

    from vitjax.checkpoints.checkpointer import Checkpointer
    from vitjax.checkpoints.read import read_meta, read_params

    with contextlib.closing(Checkpointer(workdir)) as checkpointer:
        there = checkpointer.steps()
    steps = [s for s in there if (first or 0) <= s and (last is None or s <= last)]
    if not steps:
        raise ValueError(
            f"{workdir} has no checkpoint of the steps {_range(first, last)}; it has "
            f"{', '.join(map(str, there)) or 'none'}"
        )
    with contextlib.closing(Checkpointer(out)) as checkpointer:
        if checkpointer.latest_step() is not None:
            raise ValueError(
                f"{out} has checkpoints already: give another --out, or evaluate it with "
                f"vitjax.tools.evaluate --ckpt {out}"
            )
    total: Any = None
    params: Any = None
    for step in tqdm(steps, desc="checkpoints", disable=None):
        params, _ = read_params(workdir / "checkpoints" / str(step))
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        total = wide if total is None else jax.tree.map(np.add, total, wide)
    mean = jax.tree.map(lambda t, x: (t / len(steps)).astype(x.dtype), total, params)
    meta = read_meta(workdir / "checkpoints" / str(steps[-1]))
    kept = {key: meta[key] for key in KEPT if key in meta}
    with contextlib.closing(Checkpointer(out)) as checkpointer:
        checkpointer.save(steps[-1], {"params": mean}, {**kept, "averaged": steps})
        checkpointer.finish()
    return steps


def _range(first: int | None, last: int | None) -> str:
    return f"{'' if first is None else first}:{'' if last is None else last}"


def parse_steps(text: str) -> tuple[int | None, int | None]:
    """Parse "280000:400000" into (280000, 400000), an empty side into None.

    Raises ValueError for any other form.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() or not part for part in parts):
        raise ValueError(f"--steps must be A:B, as in 280000:400000, got {text!r}")
    first, last = (int(part) if part else None for part in parts)
    return first, last


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("average_checkpoints", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("workdir", type=places.anywhere, metavar="WORKDIR",
        help="the workdir of a run, also in a bucket")  # fmt: skip
    add("--steps", default=":", metavar="A:B",
        help="the first and the last step; A: and :B leave a side open (default: all "
        "checkpoints)")  # fmt: skip
    command.add_out(
        parser,
        "DIR",
        "the mean",
        "WORKDIR/averaged, or averaged-A-B; needed for a bucket",
    )
    command.add_evals(parser)
    add("--no_evaluation", action="store_true", help="only write the mean")
    flags, overrides = parse_with_overrides(
        parser, sys.argv[1:] if argv is None else argv
    )

    def work() -> None:
        first, last = parse_steps(flags.steps)
        command.check_folder("--out", flags.out)
        command.check_out(flags.out, flags.workdir)
        from vitjax.mirror import copy
        from vitjax.tools.evaluate import evaluate, tell
        from vitjax.tools.trained import open_trained

        name = "-".join(["averaged", *filter(None, flags.steps.split(":"))])
        out = flags.out or Path(flags.workdir, name)
        steps = average(copy.every(flags.workdir, first, last), first, last, out)
        print(f"the mean of {len(steps)} checkpoints, steps {steps}, is in {out}")
        if not flags.no_evaluation:
            trained = open_trained(out, overrides=overrides)
            evaluate(trained, flags.evals, out / "evaluation")
            tell(out / "evaluation")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
