"""Compare two environments with other releases of JAX: `python -m tests.two_stacks A B`.

A and B are Python interpreters, each with vitjax's dependencies, such as
.venv/bin/python and .venv-3.13/bin/python. The flagship's config is trained in each, on
a small ImageNet that tfds' own builder prepares: ViT-S/16, 224 x 224 pixels, randaug,
mixup, bfloat16 moments; shortened to 6 steps of 8 images. Then each resumes from the
checkpoint that the other wrote after step 3; vitjax verifies its checksums at restore.

The batches, and a checkpoint of step 3 as each reads it, must be equal to the bit, and
losses must agree to a relative 1e-5. Initial parameters and the state after step 6 are
compared and shown, and cannot fail. The exit status is 1 if anything fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vitjax.records.jsonl import read_rows

ROOT = Path(__file__).resolve().parents[1]
STEPS, MIDDLE = 6, 3
# Relative. Float32 sums in another order differ as between one process and two, whose
# bound over 30 steps this is, in tests/runs/test_processes.py.
LOSS = 1e-5
LINE = "{:<7} {:<64} {}"


def main(argv=None):
    """Run both sides; print one line per comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.two_stacks",
        description=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="two of them")
    parser.add_argument("--side", metavar="WORKDIR", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.side:
        return _write_side(Path(flags.side), Path(flags.pythons[0]))
    if len(flags.pythons) != 2:
        parser.error(f"expected two interpreters, got {len(flags.pythons)}")
    with tempfile.TemporaryDirectory(prefix="two-stacks-") as folder:
        return _compare(flags.pythons, Path(folder))


def _compare(pythons, folder):
    from tests.helpers import ilsvrc

    data = ilsvrc.prepare(folder / "imagenet", train_per_class=4, num_classes=10, val=9)
    runs = [folder / "a", folder / "b"]
    for python, run in zip(pythons, runs, strict=True):
        _train(python, data, run)
    # Each reads both: what the one wrote, and what the other did.
    sides = [[_side(python, data, run, folder) for run in runs] for python in pythons]
    (a, b_read_by_a), (a_read_by_b, b) = sides
    print("A:", a["versions"])
    print("B:", b["versions"])
    if a["versions"] == b["versions"]:
        print("two environments of the same versions show nothing: give others")
        return 1
    passed = [
        _said(
            "batches of A and B", a["batches"] == b["batches"],
            f"sha256 {a['batches'][:8]} and {b['batches'][:8]}", must=True,
        ),
        _equal("A's checkpoint, read by A and by B", a, a_read_by_b, MIDDLE, must=True),
        _equal("B's checkpoint, read by B and by A", b, b_read_by_a, MIDDLE, must=True),
        _equal("A and B: initial parameters (the first update is 0)", a, b, 1),
    ]  # fmt: skip
    for step in range(1, STEPS + 1):
        passed.append(_losses(f"A and B: loss of step {step}", runs, step))
    for prefix in ("params", "opt_state"):
        what = f"A and B: {prefix} after step {STEPS}"
        passed.append(_equal(what, a, b, STEPS, prefix))
    for i, name in enumerate("AB"):
        other = "BA"[i]
        on = folder / f"{name}-from-{other}"
        _train(
            pythons[i], data, on,
            f"--config.resume={runs[1 - i]}/checkpoints/{MIDDLE}",
        )  # fmt: skip
        for step in range(MIDDLE + 1, STEPS + 1):
            what = f"{name} from {other}'s checkpoint and {name}: loss of step {step}"
            passed.append(_losses(what, [on, runs[i]], step))
    return 0 if all(passed) else 1


def _train(python, data, run, *more):
    subprocess.run(
        [
            python, "-m", "vitjax.train", "--config", "configs/vit_s16_i1k.py:batch=8",
            "--workdir", str(run), f"--config.total_steps={STEPS}",
            "--config.schedule.warmup_steps=4", "--config.evals=None",
            "--config.log_training_steps=1", "--config.ckpt_steps=1",
            "--config.max_to_keep=None", "--config.tensorboard=False",
            f"--config.input.data.data_dir={data}",
            "--config.input.data.split=train", *more,
        ],
        cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _side(python, data, run, folder):
    """One interpreter's reading of a run: versions, batches, arrays by step and name."""
    out = folder / f"{len(list(folder.iterdir()))}.npz"
    subprocess.run(
        [python, "-m", "tests.two_stacks", "--side", str(run), str(out)],
        cwd=ROOT, env=_environment() | {"TFDS_DATA_DIR": str(data)}, check=True,
    )  # fmt: skip
    with np.load(out) as stored:
        return {
            **json.loads(str(stored["words"])),
            "arrays": {k: stored[k] for k in stored.files if k != "words"},
        }


def _write_side(run, out):
    import hashlib
    import importlib.metadata
    import itertools

    from input_pipeline import pipeline
    from tests.helpers.checkpoints import state_of
    from vitjax.trees import flatten_with_names

    config = json.loads((run / "config.json").read_text())
    stream, _ = pipeline.make_train(
        **config["input"], seed=config["seed"], start_step=0
    )
    digest = hashlib.sha256()
    for batch in itertools.islice(stream, STEPS):
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
    arrays = {}
    for step in (1, MIDDLE, STEPS):
        # As bytes: numpy's files know no bfloat16.
        arrays |= {
            f"{step} {name} {x.dtype} {x.shape}": np.frombuffer(x.tobytes(), np.uint8)
            for name, x in flatten_with_names(state_of(run, step))
            if step != 1 or name.startswith("params")
        }
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    python = "Python " + sys.version.split()[0]
    words = {"versions": ", ".join([python, *versions]), "batches": digest.hexdigest()}
    np.savez(out, words=json.dumps(words), **arrays)
    return 0


def _environment():
    # Compiled as in a user's run.
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def _of_step(side, start):
    found = {k: x for k, x in side["arrays"].items() if k.startswith(start)}
    assert found, f"no array of {start}"
    return found


def _equal(what, a, b, step, prefix="", must=False):
    """Compare the arrays of a step to the bit, and print one line."""
    one, other = (_of_step(side, f"{step} {prefix}") for side in (a, b))
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    unequal = [name for name, x in one.items() if not np.array_equal(x, other[name])]
    shown = "equal to the bit"
    if unequal:
        by = {name: _apart(one[name], other[name], name) for name in unequal}
        worst = max(by, key=lambda name: by[name])
        shown = f"{len(by)} of {len(one)} arrays differ, by at most {by[worst]:.1e} of "
        shown += f"the largest value ({worst.split()[1]}), half by {_median(by):.1e}"
    return _said(what, not unequal, shown, must)


def _median(by):
    return float(np.median(list(by.values())))


def _apart(x, y, name):
    """The largest difference of two arrays in bytes, relative to the largest value."""
    dtype = name.split()[2]
    if dtype == "bfloat16":  # the upper half of a float32
        x, y = (
            (np.frombuffer(v.tobytes(), np.uint16).astype(np.uint32) << 16)
            for v in (x, y)
        )
        dtype = "float32"
    x, y = (np.frombuffer(v.tobytes(), dtype).astype(np.float64) for v in (x, y))
    return float(np.abs(x - y).max() / (np.abs(y).max() or 1.0))


def _said(what, equal, shown, must=False):
    verdict = "pass" if equal else "FAIL" if must else "note"
    print(LINE.format(verdict, what, shown), flush=True)
    return equal or not must


def _losses(what, runs, step):
    one, other = (_loss(run, step) for run in runs)
    apart = abs(one - other) / abs(other)
    passed = apart <= LOSS
    shown = "equal to the bit" if one == other else f"{apart:.1e} (bound {LOSS:.0e})"
    print(LINE.format("pass" if passed else "FAIL", what, shown))
    return passed


def _loss(run, step):
    return next(
        row["training_loss"]
        for row in read_rows(run)
        if row["step"] == step and "training_loss" in row
    )


if __name__ == "__main__":
    sys.exit(main())
