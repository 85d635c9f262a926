"""The command line of training: its flags, and --help on a config and on its keys."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from input_pipeline import places
from vitjax import commands
from vitjax.config import described, files, help


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line of vitjax.train into (flags, config overrides).

    With --help, print the help and exit.
    """
    parser = argparse.ArgumentParser(
        prog=commands.called("vitjax.train"),
        description="Train a Vision Transformer, with records and checkpoints in "
        "WORKDIR. The same command again resumes from the newest checkpoint.",
        epilog="Any config key can be set here, even if the file does not set it: "
        "--config.total_epochs=3 --config.input.batch_size=64 "
        "--config.mixup=None",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "-h",
        "--help",
        nargs="?",
        const="",
        metavar="KEY",
        help="with --config: list the file's arguments, and every key with its value; "
        "with KEY, such as input.batch_size or schedule: explain that key",
    )
    add(
        "--config",
        type=places.local_text,
        metavar="FILE[:ARG]",
        help="a file with get_config(arg), or the name of a shipped one, e.g. "
        "vit_s16_i1k:preset=fixed",
    )
    add(
        "--workdir",
        type=places.anywhere,
        help="where records and checkpoints go, also gs:// or s3:// (default: runs/NAME)",
    )
    add(
        "--force",
        action="store_true",
        help="use a workdir that a run on another host has locked",
    )
    add(
        "--allow_cpu",
        action="store_true",
        help="train on the CPUs even if JAX does not see an accelerator that is present",
    )
    several = parser.add_argument_group(
        "several processes", "detected under SLURM, Open MPI and on TPU pods"
    )
    several.add_argument("--coordinator_address", metavar="HOST:PORT")
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument("--process_id", type=int, metavar="I")
    flags, overrides = files.parse_with_overrides(parser, argv)
    if flags.help is not None:
        if flags.help or flags.config:
            _help(parser, flags, overrides)
        else:
            parser.print_help()
        parser.exit()
    if flags.config is None:
        parser.error("the following arguments are required: --config")
    return flags, overrides


def _help(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, overrides: Sequence[str]
) -> None:
    """Print the help on a config or a key, as wide as the terminal."""
    width = max(60, min(shutil.get_terminal_size().columns, 130))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        file = described.read(flags.config, overrides) if flags.config else None
        if flags.help:
            text = help.of_key(flags.help, file, width=width)
        else:
            assert file is not None
            text = help.of_file(file, flags.config, width=width, colour=colour)
    except ValueError as error:
        parser.error(str(error))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `--help | head`; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
