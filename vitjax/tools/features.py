"""Write the features of photos or of a data set.

`python -m vitjax.tools.features --ckpt runs/quickstart --evals val --out digits.npz`
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax.config.files import parse_with_overrides
from vitjax.files import write_whole
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
SUFFIXES = (".npz", ".parquet")
DESCRIPTION = f"""\
Write the features that a model computes of photos (and of each image below a folder), or
of the data set of the evaluator that --evals names. Weights need no head. Images are
prepared as in evaluation; --feature names the model's intermediate.

OUT.npz has the arrays features (n, f) float32, files (of photos and folders), and, for a
data set, labels, index and class_names. OUT.parquet has the same columns, with a list of
numbers in each row of features, and label_name.

A file that is not an image is named on stderr; the others are still written, and the exit
status is 1.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit holiday/ --out holiday.npz",
    "--ckpt runs/quickstart --evals val --feature head_input\n--out digits.parquet",
    "--ckpt dino.pth --norm imagenet photos/ --out dino.npz",
)


def of_photos(
    trained: "Trained", paths: Sequence[Path], feature: str, batch_size: int
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return ({"features", "files"} of the readable photos, reason by broken photo)."""
    import jax
    import numpy as np

    from vitjax.evaluators.features import take
    from vitjax.tools import photos

    @jax.jit
    def vectors(params: Any, images: Any) -> Any:
        return take(trained.model.apply({"params": params}, images)[1], feature)

    broken: dict[Path, str] = {}
    files: list[str] = []
    rows = []
    section = trained.evaluator()[1]
    params = jax.device_put(trained.params)
    for held, images in photos.batches(section, paths, batch_size, broken):
        trained.check(images.shape[1:])
        files += map(str, held)
        rows.append(np.asarray(vectors(params, images), np.float32)[: len(held)])
    if not rows:
        raise ValueError(f"none of the {len(paths)} files could be read; see above")
    return {"features": np.concatenate(rows), "files": files}, broken


def of_data(trained: "Trained", name: str, feature: str) -> dict[str, Any]:
    """Return features, files (of a folder), labels, index and class_names, if known.

    The data is that of the evaluator `name`; examples without a label are left out. The
    labels are those of the data.
    """
    import numpy as np

    from vitjax import data as data_lib
    from vitjax.devices import sharding
    from vitjax.evaluators.features import Features

    e = trained.experiment
    section = trained.evaluator(name)[1]
    mesh = sharding.make_mesh(e.mesh)
    its = Features(
        lambda params, image: trained.model.apply({"params": params}, image),
        data_lib.eval_data(mesh),
        mesh,
        batch_size=section.get("batch_size")
        or e.batch_size_eval
        or e.input.get("batch_size", mesh.size),
        pp_fn=section.get("pp_fn", ""),
        device_pp=section.get("device_pp", ""),
        feature=feature,
        label_key=None,
    )
    if not section.get("data"):
        raise ValueError(
            f"evaluator {name!r} has no data: give --config, or photos in place of --evals"
        )
    [(batches, _)] = its.open(section["data"])
    x, y, index = its.indexed(trained.params, batches)
    found: dict[str, Any] = {"features": x.astype(np.float32)}
    path_of = getattr(batches.host_batches.source, "path", None)
    if path_of is not None:
        found["files"] = [path_of(i) for i in index.tolist()]
    found |= {"labels": y, "index": index}
    if batches.class_names is not None:
        found["class_names"] = list(batches.class_names)
    return found


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write the arrays of `of_photos` or `of_data`; an existing file is replaced."""
    import numpy as np

    from vitjax.tools import tables

    if out.suffix == ".npz":
        content = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(x) for name, x in found.items()}
        np.savez(content, **arrays)
        write_whole(out, content.getvalue())
        return
    columns = dict(found)
    names = columns.pop("class_names", None)
    if names is not None:
        columns["label_name"] = [names[k] for k in found["labels"]]
    tables.write(out, columns)


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("features", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    command.add_norm(parser)
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="PATH", help="a photo, or a folder")
    add("--evals", metavar="NAME",
        help="the evaluator whose data set is used in place of photos")  # fmt: skip
    add("--feature", default="pre_logits", metavar="NAME",
        help="the model's intermediate, one vector for each image: pre_logits, "
        "head_input, logits (default: pre_logits)")  # fmt: skip
    add("--batch_size", type=int, default=32, metavar="N",
        help="number of photos in a batch (default: 32)")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE",
        help="where they are written: .npz or .parquet")  # fmt: skip
    flags, overrides = parse_with_overrides(parser, argv)
    if bool(flags.paths) == (flags.evals is not None):
        parser.error("give photos or --evals NAME, and not both")
    if flags.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, got {flags.batch_size}")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    from vitjax.tools import photos, tables
    from vitjax.tools.trained import open_trained

    tables.check("--out", flags.out, SUFFIXES)
    paths = photos.find(flags.paths)
    trained = open_trained(
        flags.ckpt,
        config=flags.config,
        overrides=overrides,
        ema=flags.ema,
        norm=flags.norm,
        head=False,
    )
    broken: dict[Path, str] = {}
    if flags.evals is not None:
        found = of_data(trained, flags.evals, flags.feature)
    else:
        found, broken = of_photos(trained, paths, flags.feature, flags.batch_size)
    write(flags.out, found)
    rows, width = found["features"].shape
    known = [name for name in ("files", "labels") if name in found]
    print(f"{flags.out}: {flags.feature} of {rows:,} x {width}, {', '.join(known)}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(paths)} files could not be read; see above"
        )


if __name__ == "__main__":
    sys.exit(main())
