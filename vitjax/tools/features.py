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

from input_pipeline import places
from vitjax.config.files import parse_with_overrides
from vitjax.files import write_whole
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
SUFFIXES = (".npz", ".parquet")
DESCRIPTION = f"""\
Write the features that a model computes of photos (and of each image below a folder), or
without photos of the data sets of evaluators. Weights need no head. Images are prepared
as in evaluation; --feature names the model's intermediate.

OUT.npz has the arrays features (n, f) float32 and files (n), and for data sets evaluator,
index, labels and label_name (n). OUT.parquet has the same columns, with a list of numbers
in each row of features. The labels are those of the data.

A file that is not an image is named on stderr; the others are still written, and the exit
status is 1.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit holiday/ --out holiday.npz",
    "--ckpt runs/quickstart --evals val\n--feature head_input --out digits.parquet",
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
    """Return the columns of the data set of the evaluator `name`.

    Examples without a label are left out. `files` is empty unless the data set is a
    folder; a class without a name is named by its number.
    """
    import numpy as np

    from vitjax import data as data_lib
    from vitjax.devices import sharding
    from vitjax.evaluators.features import Features

    e = trained.experiment
    section = trained.evaluator(name)[1]
    if not section.get("data"):
        raise ValueError(
            f"evaluator {name!r} has no data: give photos, or a --config with data"
        )
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
    [(batches, _)] = its.open(section["data"])
    x, y, index = its.indexed(trained.params, batches)
    path_of = getattr(batches.host_batches.source, "path", None)
    names = dict(enumerate(batches.class_names or ()))
    return {
        "features": x.astype(np.float32),
        "files": [path_of(i) if path_of else "" for i in index.tolist()],
        "evaluator": [name] * len(x),
        "index": index,
        "labels": y,
        "label_name": [names.get(k, str(k)) for k in y.tolist()],
    }


def write(out: Path, columns: Mapping[str, Any]) -> None:
    """Write the columns of `of_photos` or `of_data`; an existing file is replaced."""
    import numpy as np

    from vitjax.tools import tables

    if out.suffix != ".npz":
        tables.write(out, columns)
        return
    content = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(x) for name, x in columns.items()}
    np.savez(content, **arrays)
    write_whole(out, content.getvalue())


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("features", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    add = parser.add_argument
    add(
        "paths",
        nargs="*",
        type=places.local,
        metavar="PATH",
        help="a photo, or a folder",
    )
    command.add_evals(parser, ", if no photo is given")
    command.add_feature(parser, "pre_logits")
    add("--batch_size", type=int, default=32, metavar="N",
        help="number of photos in a batch (default: 32)")  # fmt: skip
    add("--out", type=places.local, required=True, metavar="FILE",
        help="where the file is written, .npz or .parquet")  # fmt: skip
    flags, overrides = parse_with_overrides(parser, argv)
    if flags.paths and flags.evals:
        parser.error("--evals is for data sets: give it or photos, not both")
    if flags.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, got {flags.batch_size}")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    import numpy as np

    from vitjax.evaluators import schedule
    from vitjax.tools import photos, tables

    tables.check("--out", flags.out, SUFFIXES)
    paths = photos.find(flags.paths)
    trained = command.open_ckpt(flags, overrides, head=False)
    broken: dict[Path, str] = {}
    if paths:
        found, broken = of_photos(trained, paths, flags.feature, flags.batch_size)
    else:
        chosen = flags.evals or schedule.classifiers(trained.experiment.evals)
        parts = [of_data(trained, name, flags.feature) for name in chosen]
        found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    write(flags.out, found)
    rows, width = found["features"].shape
    print(f"{flags.out}: {flags.feature} of {rows:,} x {width}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(paths)} files could not be read; see above"
        )


if __name__ == "__main__":
    sys.exit(main())
