"""The command line of training: its flags, and --help on a config and on its keys."""

import argparse
from collections.abc import Sequence

from vitjax import commands
from vitjax.config import files


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line of vitjax.train into (flags, config overrides)."""
    parser = argparse.ArgumentParser(
        prog=commands.called("vitjax.train"),
        description="Train a Vision Transformer, with records and checkpoints in "
        "WORKDIR. The same command again resumes from the newest checkpoint.",
        epilog="Any config key can be set here, even if the file does not set it: "
        "--config.total_epochs=3 --config.input.batch_size=64 "
        "--config.mixup=None",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a file with get_config(arg), or the name of a shipped one, e.g. "
        "vit_s16_i1k:preset=fixed",
    )
    add("--workdir", help="where records and checkpoints go (default: runs/NAME)")
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
    return files.parse_with_overrides(parser, argv)
