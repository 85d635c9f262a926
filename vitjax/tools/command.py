"""Flags and error handling that the tools' command lines share."""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from input_pipeline import places
from vitjax import commands
from vitjax.devices import failures

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
WIDTH = 90  # columns of a help text


def parser(name: str, description: str, examples: Sequence[str]) -> Any:
    """Make an argument parser for the tool vitjax.tools.NAME.

    A line break in an example is printed with a backslash, as a shell needs it.
    """
    command = commands.called(f"vitjax.tools.{name}")
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
    """Add --ckpt, --config, --ema and --norm, which `open_ckpt` opens."""
    parser.add_argument(
        "--ckpt", type=places.anywhere, required=True, metavar="PATH",
        help="a run's workdir (its newest checkpoint), its folder best, "
        "WORKDIR/checkpoints/STEP, or a file of weights: .npz, .safetensors, .pth, .ckpt; "
        "file.pth:state_dict_ema selects one of several state dicts; also in a bucket, "
        "gs:// or s3://",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=places.local_text, metavar="FILE[:ARG]",
        help="a config file, as for vitjax.train, in place of the checkpoint's own "
        "config; most files of weights have none",
    )  # fmt: skip
    parser.add_argument(
        "--ema", action="store_true",
        help="use the averaged parameters of a run whose config has ema",
    )  # fmt: skip
    parser.add_argument(
        "--norm", default="", metavar="NAME",
        help="normalise images as the weights' training did: half (-1 to 1), imagenet "
        "or clip (default: as the weights or the config tell); needed by files of weights "
        "that do not tell it",
    )  # fmt: skip


def open_ckpt(
    flags: argparse.Namespace, overrides: Sequence[str], *, head: bool = True
) -> "Trained":
    """Open the model that the flags of `add_ckpt` name, see `trained.open_trained`."""
    from vitjax.tools.trained import open_trained

    return open_trained(
        flags.ckpt,
        config=flags.config,
        overrides=overrides,
        ema=flags.ema,
        norm=flags.norm,
        head=head,
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config, required: the config of a run that does not exist yet."""
    parser.add_argument(
        "--config", type=places.local_text, required=True, metavar="FILE[:ARG]",
        help="a config file, as for vitjax.train",
    )  # fmt: skip


def add_evals(parser: argparse.ArgumentParser, when: str = "") -> None:
    """Add --evals, which selects evaluators; its help ends with `when` it counts."""
    parser.add_argument(
        "--evals", nargs="+", default=(), metavar="NAME",
        help=f"evaluators of the config (default: all that classify){when}",
    )  # fmt: skip


def add_feature(parser: argparse.ArgumentParser, value: str | None = None) -> None:
    """Add --feature, with the default `value`: one of the model's intermediates."""
    parser.add_argument(
        "--feature", metavar="NAME", default=value,
        help="the model's intermediate that is used, one vector for each image, such as "
        "head_input (default: pre_logits)",
    )  # fmt: skip


def add_image_size(parser: argparse.ArgumentParser, when: str) -> None:
    """Add --image_size; its help says `when` the flag is needed."""
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS",
        help=f"height and width of the model's images, if {when}",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, which makes the output readable by programs."""
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
    """Add --out, the path of `what`; `default` describes `value` in the help."""
    parser.add_argument(
        "--out", type=places.local, metavar=metavar, default=value,
        help=f"where {what} is written (default: {default})",
    )  # fmt: skip


def check_out(out: Path | None, source: str) -> None:
    """Raise ValueError if --out is missing and its default would be in a bucket."""
    if out is None and places.scheme(source) is not None:
        raise ValueError(
            f"tools write to this machine only, and {source} is in a bucket: give --out"
        )


OVERRIDES = "--config.KEY=VALUE changes a key of the config, as in vitjax.train."


def read_config(spec: str, overrides: Sequence[str]) -> Any:
    """Return the `Experiment` of --config FILE[:ARG]; print notices on stderr.

    A notice names each key that was converted from big_vision's spelling. Raises
    ValueError if the file or an override is wrong.
    """
    from vitjax.config import experiment, files, names

    loaded, notices = files.from_big_vision(files.load(spec, overrides))
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    return experiment.from_config(names.full_names(loaded.to_dict()))


def check_picture(path: Path) -> None:
    """Raise ValueError unless the path is a .png in an existing folder."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"a picture must be a .png file, got {str(path)!r}")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise ValueError unless the folder of a new file exists."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}: create it first")


def check_folder(flag: str, path: Path | None) -> None:
    """Raise ValueError if a flag's folder is an existing file."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"{flag} must be a folder, got the file {str(path)!r}")


def as_json(document: Any) -> str:
    """Return strict JSON, with null for numbers that are not finite."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def run(work: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Run `work` and return its exit status, or 0 if it returns None.

    An expected error prints one sentence on stderr and returns 1. Ctrl-C prints
    `interrupted` on stderr and returns 130. A pipe that reads no more, as `| head`, ends
    the command quietly with 141, as it ends a shell's.
    """
    failures.raise_on_interrupt()
    try:
        status = work() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python writes the rest when it exits, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        sentence = failures.sentence(error)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
