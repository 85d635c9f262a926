"""The tables and figures of an estimate, as `plan` and `benchmark` print them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitjax.devices.chips import GIB, Chip
from vitjax.estimate.compiled import Estimate

HEAD = (
    "memory GiB", "traffic GB", "XLA's count GB", "TFLOP", "kernels", "collectives (MB)",
    "estimate ms", "images/s",
)  # fmt: skip
PARTS = (
    "part of the step",
    "phase",
    "kernel",
    "times",
    "traffic GB",
    "TFLOP",
    "estimate ms",
)
LEGEND = (
    "Memory, traffic, TFLOP, kernels and collectives are those of one device and one step. "
    "Traffic counts each kernel's operands and results in the chip's main memory. XLA's "
    "count includes other memories, takes the body of a loop once, and is missing for "
    "GPUs. A collective's MB are those that a device gives."
)


def figures(found: Estimate, chip: Chip, images: int) -> dict[str, Any]:
    """Return the figures of a program that takes `images` on all devices together."""
    return {
        "memory GiB": found.memory / GIB,
        "memory GiB of the chip": chip.memory / GIB,
        "fits": found.fits(chip),
        "temporaries GiB": found.temporaries / GIB,
        "traffic GB": found.traffic / 1e9,
        "XLA's count GB": None if found.xla_bytes is None else found.xla_bytes / 1e9,
        "TFLOP": found.flops / 1e12,
        "kernels": found.kernels,
        "collectives": {
            kind: {"number": number, "MB": size / 1e6}
            for kind, (number, size) in found.collectives.items()
        },
        "estimate ms": 1e3 * found.seconds,
        "images/s": images / found.seconds,
        "parts": [dataclasses.asdict(part) for part in found.parts],
    }


def too_large(memory: float | None, chip: Chip) -> dict[str, Any]:
    """Return the figures of a program that XLA refuses, of `memory` bytes if known."""
    return {
        "memory GiB": None if memory is None else memory / GIB,
        "memory GiB of the chip": chip.memory / GIB,
        "fits": False,
    }


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells under HEAD of what `figures` or `too_large` returned."""
    memory, most = row["memory GiB"], row["memory GiB of the chip"]
    taken = "more" if memory is None else f"{memory:.2f}"
    taken += f" of {most:.2f}" if row["fits"] else f" of {most:.2f}: too much"
    if "traffic GB" not in row:
        return (taken, *["-"] * (len(HEAD) - 1))
    counted = row["XLA's count GB"]
    return (
        taken,
        number(row["traffic GB"]),
        "-" if counted is None else number(counted),
        number(row["TFLOP"]),
        f"{row['kernels']:,}",
        ", ".join(
            f"{one['number']} {kind} ({number(one['MB'])})"
            for kind, one in row["collectives"].items()
        )
        or "none",
        number(row["estimate ms"]),
        number(row["images/s"]),
    )


def parts(row: Mapping[str, Any], most: int) -> list[tuple[str, ...]]:
    """Return the rows under PARTS: the `most` kernels of a layer with most traffic."""
    return [
        (
            part["layer"],
            part["phase"],
            part["kernel"],
            f"{part['kernels']:,}",
            number(part["bytes"] / 1e9),
            number(part["flops"] / 1e12),
            number(1e3 * part["seconds"]),
        )
        for part in row["parts"][:most]
    ]


def number(x: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
