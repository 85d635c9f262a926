"""Summarise a trace of `jax.profiler` by kernel, with the standard library alone."""

import dataclasses
import gzip
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ATTENTION, PRODUCTS = "attention", "matrix products"
# The kind of a kernel: the first pattern that its full name contains, in any case.
# cuDNN's convolutions are products too, and cutlass is in the names of both.
KINDS = (
    (ATTENTION, r"sdpa|fmha|flash|attention"),
    ("convolutions", r"conv2d|convolution|implicit_conv|fprop|wgrad|dgrad"),
    (PRODUCTS, r"gemm|nvjet|cutlass|xmma|cublas|wgmma|dot_general|^dot"),
    ("copies", r"memcpy|memset|copy|transpose"),
    ("fusions", r"fusion|^wrapped_"),
)
OTHER = "other kernels"


@dataclasses.dataclass(frozen=True)
class Row:
    """The kernels of one `group`, in one step on one device."""

    name: str
    kind: str
    calls: float
    ms: float
    share: float  # of the time of all kernels


@dataclasses.dataclass(frozen=True)
class Summary:
    """One step's kernels on one device, and how long the device was busy."""

    ms: float  # of all kernels
    busy: float  # share of the traced time in which at least one kernel ran
    rows: tuple[Row, ...]  # most time first

    def by_kind(self) -> dict[str, float]:
        """Return the milliseconds of each kind, most first."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.kind] = found.get(row.kind, 0.0) + row.ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def kind(name: str) -> str:
    """Return the kind of a kernel, by its full name."""
    found = (k for k, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))
    return next(found, OTHER)


def group(name: str) -> str:
    """Return a kernel's full name without its parameters and XLA's numbers.

    "loop_add_fusion_12" and "loop_add_fusion.3" are loop_add_fusion. Products and
    attention keep their numbers and templates, which say what they compute.
    """
    name = _without_parameters(name.removeprefix("void "))
    if kind(name) in (ATTENTION, PRODUCTS):
        return name
    return re.sub(r"([._]\d+)+$", "", name)


def _without_parameters(name: str) -> str:
    """Cut a C++ name at the first "(" that is in no template's arguments."""
    depth = 0
    for at, letter in enumerate(name):
        if letter == "(" and depth == 0 and at > 0:
            return name[:at]
        depth += {"<": 1, ">": -1}.get(letter, 0)
    return name


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the newest trace below a folder. Raises ValueError."""
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise ValueError(f"{folder} holds no trace: expected a file *.trace.json.gz")
    with gzip.open(files[-1], "rt") as file:
        return json.load(file)["traceEvents"]


def of_device(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the events that are kernels of the first device.

    On a GPU they are those on its streams; its other lines sum them up. A CPU's have an
    argument hlo_op.
    """
    events = list(events)

    def named(what: str) -> list[Mapping[str, Any]]:
        return [e for e in events if e.get("name") == what]

    devices = {
        e["args"]["name"]: e["pid"]
        for e in named("process_name")
        if "/device:" in e["args"]["name"]
    }
    first = devices[min(devices)] if devices else None
    streams = {
        e["tid"]
        for e in named("thread_name")
        if e["pid"] == first and e["args"]["name"].startswith("Stream")
    }
    timed = [e for e in events if e.get("ph") == "X"]
    if streams:
        return [e for e in timed if e["pid"] == first and e["tid"] in streams]
    return [e for e in timed if "hlo_op" in e.get("args", {})]


def summarise(events: Iterable[Mapping[str, Any]], steps: int) -> Summary:
    """Sum the kernels of a trace of `steps` steps. Raises ValueError if it has none."""
    found = of_device(events)
    if not found:
        raise ValueError("the trace has no kernel of a device")
    times: dict[tuple[str, str], list[float]] = {}
    for e in found:
        key = group(e["name"]), kind(e["name"])
        times.setdefault(key, []).append(e["dur"] / 1000)
    total = sum(map(sum, times.values()))
    rows = [
        Row(name, kind_, len(ms) / steps, sum(ms) / steps, sum(ms) / total)
        for (name, kind_), ms in times.items()
    ]
    rows.sort(key=lambda row: -row.ms)
    return Summary(total / steps, _busy(found), tuple(rows))


def _busy(events: Iterable[Mapping[str, Any]]) -> float:
    """Return the share of the time from the first to the last event that they cover."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events)
    start, covered, until = spans[0][0], 0.0, spans[0][0]
    for begin, end in spans:
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered / (until - start) if until > start else 1.0
