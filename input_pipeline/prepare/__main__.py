"""Write a data set once more with smaller images: `python -m input_pipeline.prepare`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import home, places

KINDS = ("tfds", "folder")
_SAMPLES = 128
_EPILOG = """\
The new data set has the same name, version, features, splits, order and shards (folders:
the same tree and file names), so 'train[:99%]' holds the same examples, and a config
changes only in data_dir. Images whose shorter side is larger than --short_side are
resized once by PIL with antialiasing. JPEG stays JPEG (4:2:0 colours), PNG PNG, WebP WebP,
BMP BMP. All other images (smaller ones, GIF, TIFF, AVIF, animations, ...) and all labels
are copied to the byte, undecoded: damage in them is not found. EXIF's orientation is
kept, other metadata of a resized image is dropped. prepared.json says what was done; a
run on the data set records it.

The work goes on after a kill, with the same command. It ends with a check of all bytes,
counts, labels and names. Nothing is ever overwritten.

  python -m input_pipeline.prepare --name imagenet2012 --out ~/small
  python -m input_pipeline.prepare --kind folder --data_dir photos --out photos_320
"""


def prepare(
    source: Any,
    out: str,
    *,
    short_side: int,
    quality: int,
    filter: Any,
    skip_damaged: bool,
    workers: int,
    tell: Callable[[str], None] = print,
) -> None:
    """Write a `shards.Shards` or `folders.Folder` once more, to a folder of `out`.

    Raises ValueError or OSError, with one sentence.
    """
    from input_pipeline.prepare import work
    from input_pipeline.prepare.images import DAMAGED, OTHER, SMALL, Settings
    from input_pipeline.sources import prepared

    settings = Settings(short_side, quality, filter, source.as_seen)
    if (before := prepared.read(source.path)) is not None:
        raise ValueError(
            f"the images of {source.path} were resized to {before['short_side']} before: "
            f"prepare the data set that they came from, {before['source']}"
        )
    final = Path(os.path.abspath(out), source.inner)
    record = {
        "by": prepared.BY,
        "short_side": short_side,
        "filter": filter,
        "quality": quality,
        "source": str(source.path),
        "source_sizes": source.sizes,
        "source_bytes": source.nbytes,
        work.FINGERPRINT: source.fingerprint,
    }
    place = work.Place(final, record)
    if (facts := place.finished()) is not None:
        if (damaged := facts.get("counts", {}).get(DAMAGED)) and not skip_damaged:
            raise ValueError(
                f"{final} has {damaged:,} damaged images, which --skip_damaged left as "
                "they are: give it again, or restore them and choose another --out"
            )
        tell(f"{final} is already prepared in this way: nothing to do")
        return
    with work.Workers(workers) as pool:
        samples = source.samples(_SAMPLES, settings)
        found = [result for _, result in pool.each(source.sample, samples)]
        before, after = (
            sum(result[key] for result in found)
            for key in ("bytes_before", "bytes_after")
        )
        share = after / before if before else 1
        place.check_space(
            source.nbytes * share + source.other_bytes, source.largest * share, tell
        )
        with place.held():
            facts = source.write(place, pool, settings, skip_damaged)
            place.finish(facts)
    counts = ", ".join(f"{count:,} {what}" for what, count in facts["counts"].items())
    tell(
        f"{counts}; images of {work.in_words(facts['bytes_before'])} before, of "
        f"{work.in_words(facts['bytes_after'])} now, in {final}"
    )
    if copied := sum(facts["counts"].get(outcome, 0) for outcome in (SMALL, OTHER)):
        tell(f"{copied:,} images were copied undecoded, so damage in them is not found")
    tell(f"to use it, set data_dir to {os.path.abspath(out)}")


def _open(flags: argparse.Namespace) -> Any:
    """Return the data set that the flags name."""
    if flags.kind not in KINDS:
        raise ValueError(
            f"data of the kind {flags.kind!r} is not served: prepare writes data sets of "
            "tfds (--name) and folders of images (--kind folder --data_dir)"
        )
    if flags.kind == "tfds":
        from input_pipeline.prepare.shards import Shards

        if flags.name is None:
            raise ValueError("give --name, a data set of tfds, or --kind folder")
        return Shards(flags.name, flags.data_dir, flags.short_side)
    from input_pipeline.prepare.folders import Folder

    if flags.data_dir is None or flags.name is not None:
        raise ValueError("--kind folder needs --data_dir, and has no --name")
    folder = Folder(flags.data_dir)
    out = Path(os.path.abspath(flags.out))
    if out == folder.path or out in folder.path.parents or folder.path in out.parents:
        raise ValueError(f"--out {out} and {folder.path} must not be in one another")
    return folder


def _cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare",
        description="Write a data set once more with smaller images, which are decoded "
        "faster in every epoch.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", help="a data set of tfds that is prepared: imagenet2012")
    add("--kind", default="tfds", metavar="|".join(KINDS), help="default: tfds")
    add(
        "--data_dir",
        type=places.local_text,
        help="where the data set is (tfds: default is tfds' own)",
    )
    add(
        "--out",
        type=places.local_text,
        required=True,
        metavar="DIR",
        help="tfds: the new data_dir, DIR/imagenet2012/5.1.0; folder: the new folder",
    )
    add(
        "--short_side",
        type=int,
        default=320,
        metavar="PIXELS",
        help="images with a larger shorter side get this one (default: 320)",
    )
    add(
        "--quality",
        type=int,
        default=95,
        help="of resized JPEG and WebP, 1 to 100 (default: 95)",
    )
    add(
        "--filter",
        choices=("bicubic", "lanczos"),
        default="bicubic",
        help="of PIL (default: bicubic, which is as near to the full size and smaller)",
    )
    add(
        "--skip_damaged",
        action="store_true",
        help="leave damaged images as they are, and count them; training with "
        "skip_errors then replaces them",
    )
    add("--workers", type=int, default=_cores(), help="processes (default: all cores)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = _parser()
    flags = parser.parse_args(home.expanded(argv))
    if flags.short_side < 1 or flags.workers < 1 or not 1 <= flags.quality <= 100:
        parser.error(
            "--short_side and --workers must be at least 1, --quality 1 to 100"
        )
    try:
        source = _open(flags)
        for notice in source.notices:
            print(notice, flush=True)
        prepare(
            source,
            flags.out,
            short_side=flags.short_side,
            quality=flags.quality,
            filter=flags.filter,
            skip_damaged=flags.skip_damaged,
            workers=flags.workers,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
