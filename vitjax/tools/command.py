"""What the command lines of the tools share: flags in the same words, errors for people."""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitjax.devices import failures

# Nothing heavy here: --help answers at once.
WIDTH = 90  # columns of a help text


def parser(name: str, description: str, examples: Sequence[str]) -> Any:
    """An argument parser for `python -m vitjax.tools.NAME`.

    A line break in an example is one that the shell is told of.
    """
    command = f"python -m vitjax.tools.{name}"
    shown = [f"  {command} {e}".replace("\n", " \\\n      ") for e in examples]
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog="\n".join(["examples:", *shown]),
        formatter_class=functools.partial(
            argparse.RawDescriptionHelpFormatter, width=WIDTH
        ),
        allow_abbrev=False,
    )


def add_ckpt(parser: argparse.ArgumentParser) -> None:
    """--ckpt, --config and --ema: which parameters, of which model."""
    parser.add_argument(
        "--ckpt", required=True, metavar="PATH",
        help="a run's workdir (its newest checkpoint), its folder best, "
        "WORKDIR/checkpoints/STEP, or a file of weights: .npz, .safetensors, .pth, .ckpt; "
        "file.pth:state_dict_ema is one of several in it",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE[:ARG]",
        help="a config file, as for vitjax.train, instead of the config that the "
        "checkpoint keeps; most files of weights keep none",
    )  # fmt: skip
    parser.add_argument(
        "--ema", action="store_true",
        help="take the averaged parameters, of a run whose config has ema",
    )  # fmt: skip


def add_config(parser: argparse.ArgumentParser) -> None:
    """--config of a run that is not there yet."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]",
        help="a config file, as for vitjax.train",
    )  # fmt: skip


def add_evals(parser: argparse.ArgumentParser) -> None:
    """--evals: some of the config's evaluators."""
    parser.add_argument(
        "--evals", nargs="+", default=(), metavar="NAME",
        help="evaluators of the config (default: all that classify)",
    )  # fmt: skip


def add_image_size(parser: argparse.ArgumentParser, where: str) -> None:
    """--image_size: what the model is for, `where` nothing else says it."""
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS",
        help=f"height and width of the images that the model gets, {where}",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: for programs that read what the tool says."""
    parser.add_argument(
        "--json", action="store_true",
        help="print JSON instead of the table; '> file.json' keeps it",
    )  # fmt: skip


def add_out(
    parser: argparse.ArgumentParser,
    metavar: str,
    what: str,
    default: str,
    value: Path | None = None,
) -> None:
    """--out: where `what` is written; `default` are the words for `value`."""
    parser.add_argument(
        "--out", type=Path, metavar=metavar, default=value,
        help=f"where {what} is written (default: {default})",
    )  # fmt: skip


OVERRIDES = "--config.KEY=VALUE changes a key of the config, as in vitjax.train."


def read_config(spec: str, overrides: Sequence[str]) -> Any:
    """The `Experiment` of --config FILE[:ARG]; what is changed in it is said on stderr.

    Raises ValueError where the file or an override is wrong.
    """
    from vitjax.config import experiment, files

    loaded, notices = files.from_big_vision(files.load(spec, overrides))
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    return experiment.from_config(loaded.to_dict())


def check_picture(path: Path) -> None:
    """Raise ValueError unless a picture can be written there."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}")


def check_folder(flag: str, path: Path | None) -> None:
    """Raise ValueError if the folder that a flag names is a file."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"{flag} is a folder, but {str(path)!r} is a file")


def as_json(document: Any) -> str:
    """JSON that every reader takes: a number that is not finite is null."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def run(work: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """The exit status of `work`: its own, or 0; 1 after one sentence on stderr.

    130 after Ctrl-C, of which stderr has the words `interrupted`.
    """
    try:
        return work() or 0
    except Exception as error:
        sentence = failures.sentence(error)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
