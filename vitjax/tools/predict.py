"""Classify photos.

`python -m vitjax.tools.predict --ckpt runs/quickstart photo.jpg folder/`
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import places
from vitjax.config.files import parse_with_overrides
from vitjax.files import or_without, write_picture
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Print the most probable classes of each photo, and of each image below a folder. A photo
is prepared by pp_fn and device_pp of the run's first evaluator of the type
"classification". EXIF's rotation is applied and transparency becomes white, unless the
evaluator's data section has as_seen=False. Files are JPEG, PNG, GIF, BMP, WebP, TIFF,
AVIF, JPEG 2000 and PPM, grey and CMYK too. Probabilities are the softmax of the logits,
for any loss.

A file that is not an image is named on stderr; the others are still predicted, and the
exit status is 1.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit cat.jpg holiday/",
    "--ckpt runs/vit/best --json holiday/ > holiday.json",
    "--ckpt runs/vit --csv holiday.csv holiday/",
    "--ckpt runs/quickstart --top 3\n--pictures predicted/ digit.png",
)
MOST_NAMED = 44  # characters of a class's name in the table
Row = dict[str, Any]  # the result for one photo


def predict(
    trained: "Trained", paths: Sequence[Path], batch_size: int, broken: dict[Path, str]
) -> Iterator[tuple[Path, Any, Any]]:
    """Yield (path, image as fed (y, x, ch), logits (c,)) for each readable photo.

    `trained` is a `vitjax.tools.trained.Trained`; for the rest, see
    `vitjax.tools.photos.batches`.
    """
    import numpy as np

    from vitjax.tools import photos

    section = trained.evaluator()[1]
    for held, images in photos.batches(section, paths, batch_size, broken):
        logits = np.asarray(trained.apply(images)[0])
        yield from zip(held, np.asarray(images), logits, strict=False)


def top(logits: Any, names: Sequence[str] | None, k: int) -> list[Row]:
    """Return the k classes of the largest logits (c,), most probable first."""
    import numpy as np

    from vitjax.tools.predictions import Predictions

    rows = np.asarray(logits)[None]
    [shares] = Predictions(rows, np.zeros_like(rows)).probabilities()
    order = np.argsort(-shares, kind="stable")[:k]
    known = names or ()
    return [
        {
            "class": int(i),
            "name": known[i] if i < len(known) else str(i),
            "probability": float(shares[i]),
        }
        for i in order
    ]


def columns(rows: Sequence[Row], names: int) -> dict[str, list[Any]]:
    """Return the table of --csv: file, class, name, probability, class_2, name_2, ...

    It has one row for each photo, and three columns for each of its `names` classes.
    """
    found: dict[str, list[Any]] = {"file": [row["file"] for row in rows]}
    for i in range(names):
        for key in ("class", "name", "probability"):
            column = key if i == 0 else f"{key}_{i + 1}"
            found[column] = [row["top"][i][key] for row in rows]
    return found


def table(rows: Sequence[Row]) -> str:
    """Format one line per class, below the name of its file."""
    lines = []
    for row in rows:
        lines.append(row["file"])
        for guess in row["top"]:
            name = guess["name"]
            if len(name) > MOST_NAMED:
                name = f"{name[: MOST_NAMED - 3]}..."
            number = f"class {guess['class']}"
            lines.append(
                f"  {guess['probability']:>7.2%}  {name:<{MOST_NAMED}}  {number}".rstrip()
            )
    return "\n".join(lines)


def draw(path: Path, image: Any, row: Row, title: str) -> None:
    """Draw a photo as fed to the model, next to the probabilities of its classes."""
    from matplotlib.figure import Figure

    from vitjax.records.pictures import shown

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    left.imshow(shown(image[None])[0], cmap="gray", vmin=0, vmax=1)
    left.set(xticks=[], yticks=[], xlabel="as fed to the model")
    guesses = row["top"][::-1]
    shares = [guess["probability"] for guess in guesses]
    right.barh(range(len(guesses)), shares, color="tab:blue")
    names = [guess["name"][:MOST_NAMED] for guess in guesses]
    right.set_yticks(range(len(guesses)), names)
    for i, share in enumerate(shares):
        right.text(min(share + 0.02, 0.8), i, f"{share:.1%}", va="center")
    right.set(xlim=(0, 1), xlabel="probability")
    figure.suptitle(title)
    write_picture(path, figure, dpi=100)


def _picture_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return NAME.png for each photo, and NAME-2.png if the name is already taken."""
    taken: set[str] = set()
    names: dict[Path, str] = {}
    for path in paths:
        n, name = 1, f"{path.stem}.png"
        while name.lower() in taken:
            n += 1
            name = f"{path.stem}-{n}.png"
        taken.add(name.lower())
        names[path] = name
    return names


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("predict", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        type=places.local,
        metavar="PATH",
        help="a photo, or a folder",
    )
    add("--top", type=int, default=5, metavar="K",
        help="number of classes to print for a photo (default: 5)")  # fmt: skip
    add("--batch_size", type=int, default=32, metavar="N",
        help="number of photos in a batch (default: 32)")  # fmt: skip
    command.add_json(parser)
    add("--csv", type=places.local, metavar="FILE",
        help="also write a row for each photo: file, class, name, probability, then "
        "class_2, name_2, ... of the next classes (default: none)")  # fmt: skip
    add("--pictures", type=places.local, metavar="DIR",
        help="also draw each photo with its classes into this folder (default: none)")  # fmt: skip
    flags, overrides = parse_with_overrides(parser, argv)
    for name in ("top", "batch_size"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(flags, name)}")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    from vitjax.tools import photos, tables

    tables.check("--csv", flags.csv, (".csv",))
    command.check_folder("--pictures", flags.pictures)
    paths = photos.find(flags.paths)
    trained = command.open_ckpt(flags, overrides)
    names = trained.names_in_words()
    if names is None:
        print("note: class names are unknown; numbers are printed", file=sys.stderr)
    of = trained.name
    broken: dict[Path, str] = {}
    rows: list[Row] = []
    drawn = 0
    pictures = _picture_names(paths)
    for path, image, logits in predict(trained, paths, flags.batch_size, broken):
        rows.append({"file": str(path), "top": top(logits, names, flags.top)})
        if flags.pictures is not None:
            flags.pictures.mkdir(parents=True, exist_ok=True)
            title = f"{path.name} for {of}"
            with or_without(pictures[path]):
                draw(flags.pictures / pictures[path], image, rows[-1], title)
                drawn += 1
    if flags.csv is not None:
        count = len(rows[0]["top"]) if rows else flags.top
        tables.write(flags.csv, columns(rows, count))
    if flags.json:
        document = {
            "checkpoint": trained.name,
            "step": trained.step,
            "parameters": trained.source,
            "photos": rows,
            "broken": [{"file": str(p), "error": why} for p, why in broken.items()],
        }
        print(command.as_json(document))
    elif rows:
        print(table(rows))
        if flags.pictures is not None:
            print(f"\nwritten: {drawn} pictures in {flags.pictures}")
        if flags.csv is not None:
            print(f"\nwritten: {flags.csv}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(paths)} files could not be read; see above"
        )


if __name__ == "__main__":
    sys.exit(main())
