"""What the command lines of the tools share: flags in the same words, errors for people."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Nothing heavy here: --help answers at once.


def parser(name: str, description: str, examples: Sequence[str]) -> Any:
    """An argument parser for `python -m vitjax.tools.NAME`."""
    command = f"python -m vitjax.tools.{name}"
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog="examples:\n" + "\n".join(f"  {command} {e}" for e in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_ckpt(parser: argparse.ArgumentParser) -> None:
    """--ckpt and --ema: which parameters."""
    parser.add_argument(
        "--ckpt", required=True, metavar="PATH",
        help="a run's workdir (its newest checkpoint), its folder best, "
        "WORKDIR/checkpoints/STEP, or a file of weights: .npz, .safetensors, .pth",
    )  # fmt: skip
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="instead of the config that is stored there",
    )
    parser.add_argument(
        "--ema", action="store_true", help="the averaged parameters of a run with ema"
    )


OVERRIDES = """\
--config.KEY=VALUE changes the config of the run, as in vitjax.train."""


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """(flags, the "KEY=VALUE" of every --config.KEY=VALUE)."""
    overrides = [a for a in argv if a.startswith("--config.")]
    for text in overrides:
        if "=" not in text:
            parser.error(f"{text} needs its value after an equals sign: {text}=VALUE")
    flags = parser.parse_args([a for a in argv if not a.startswith("--config.")])
    return flags, [text.removeprefix("--config.") for text in overrides]


def read_config(spec: str, overrides: Sequence[str]) -> Any:
    """The `Experiment` of --config FILE[:ARG]; what is changed in it is said on stderr.

    Raises ValueError where the file or an override is wrong.
    """
    from vitjax import config, experiment

    loaded, notices = config.from_big_vision(config.load(spec, overrides))
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    return experiment.from_config(loaded.to_dict())


def check_picture(path: Path) -> None:
    """Raise ValueError unless a picture can be written there."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}")


def run(work: Callable[[], None]) -> int:
    """The exit status of `work`: 0; 1 after one sentence on stderr; 130 after Ctrl-C."""
    try:
        work()
    except (ValueError, OSError) as error:
        if os.environ.get("VITJAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
