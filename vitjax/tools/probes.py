"""The probes that evaluate's flags ask for, as sections of a config."""

import argparse
from collections.abc import Mapping
from typing import Any

from vitjax.tools import command

KINDS = ("fewshot", "knn", "linear_probe")
_SHARED = ("data", "pp_fn", "device_pp", "batch_size")  # keys of the scored evaluator


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --fewshot, --knn, --linear_probe and what they share."""
    add = parser.add_argument
    add("--fewshot", nargs="*", type=int, metavar="SHOTS",
        help="ridge regression on so many examples of each class (default: 1 5 10 25)")  # fmt: skip
    add("--knn", nargs="?", type=int, const=0, metavar="K",
        help="weighted vote of the K nearest training examples (default: 20)")  # fmt: skip
    add("--linear_probe", action="store_true",
        help="logistic regression on all training examples, with the penalty that is "
        "best on a held-out fifth of them")  # fmt: skip
    add("--temperature", type=float, metavar="T",
        help="of --knn's weights, exp(cosine / T) (default: 0.07)")  # fmt: skip
    command.add_feature(parser)


def check_flags(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Stop with the usage if flags do not fit together."""
    if flags.temperature is not None and flags.knn is None:
        parser.error("--temperature is for --knn: give both")
    if flags.feature is not None and not asked(flags):
        parser.error("--feature is for --fewshot, --knn and --linear_probe")


def asked(flags: argparse.Namespace) -> list[str]:
    """Return the kinds of probes that the flags ask for."""
    given = {"fewshot": flags.fewshot is not None, "knn": flags.knn is not None}
    given["linear_probe"] = flags.linear_probe
    return [kind for kind in KINDS if given[kind]]


def sections(
    flags: argparse.Namespace,
    scored: Mapping[str, Mapping[str, Any]],
    fit_data: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return the section of each probe for each evaluator whose data is scored.

    Args:
      scored: the evaluators' sections by name.
      fit_data: the data section of training.

    Raises ValueError if there is no data to fit on or to score.
    """
    own: dict[str, dict[str, Any]] = {kind: {} for kind in asked(flags)}
    if flags.fewshot:
        own["fewshot"]["shots"] = flags.fewshot
    if flags.knn:
        own["knn"]["k"] = flags.knn
    if flags.temperature is not None:
        own["knn"]["temperature"] = flags.temperature
    if flags.feature is not None:
        own = {kind: {**x, "feature": flags.feature} for kind, x in own.items()}
    if not fit_data:
        raise ValueError(
            "a probe needs data to fit on and to score: give --config, whose input.data "
            "and evaluators name them"
        )
    found = {}
    for name, section in scored.items():
        fed = {key: section[key] for key in _SHARED if key in section}
        for kind, arguments in own.items():
            row = kind if len(scored) == 1 else f"{kind}@{name}"
            found[row] = {"type": kind, "fit_data": fit_data, **fed, **arguments}
    return found
