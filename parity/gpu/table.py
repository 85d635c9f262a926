"""The results of `python -m parity.gpu` as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parity.gpu.jobs import ABSENT, MEMORY_OF, RATE

KERNELS = 20
PLAN_FACTOR = 1.25
"""How far the memory planned for an absent chip and the allocator's peak may differ."""
_PEAK, _PLAN = ("peak memory GiB per device", "planned memory GiB per device")
_SPEED = (  # column, figure, format, factor
    ("img/s", RATE, ",.0f", 1),
    ("ms/step", "ms/step", ",.2f", 1),
    ("MFU %", "MFU", ".1f", 100),
    ("GiB", _PEAK, ".2f", 1),
    ("planned GiB", _PLAN, ".2f", 1),
    ("compile s", "compile and warm-up s", ".0f", 1),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; a cell may hold no line break and no bar."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (str(cell).replace("|", "/").replace("\n", " ") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _missing(row: Mapping[str, Any]) -> str | None:
    if "failed" in row:
        return f"failed: {row['failed']}"
    return f"skipped: {row['skipped']}" if "skipped" in row else None


def _figure(row: Mapping[str, Any], key: str, form: str, factor: float) -> str:
    return format(row[key] * factor, form) if row.get(key) is not None else "-"


def speed(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of speeds, with each rate as a multiple of the first timm's."""
    rows = [row for row in rows if row["kind"] == "speed"]
    measured = [row for row in rows if RATE in row]
    timm = next((r for r in measured if r["name"].startswith("timm")), None)
    found = []
    for row in measured:
        ratio = "-" if timm is None else f"{row[RATE] / timm[RATE]:.2f}"
        figures = [_figure(row, *column[1:]) for column in _SPEED]
        found.append([row["name"], *figures, ratio])
    lines = table(["step", *(c[0] for c in _SPEED), "to the first timm"], found)
    return [*lines, *_reasons(rows)]


def _reasons(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    missing = [f"- {row['name']}: {why}" for row in rows if (why := _missing(row))]
    return ["", *missing] if missing else []


def tests(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of tests; a test that compares has a line for each comparison."""
    rows = [row for row in rows if row["kind"] == "tests"]
    found = []
    for row in rows:
        for test in row.get("tests", ()):
            said = [test["message"]] if test["message"] else []
            measured = [f"{name}: {value}" for name, value in test["measured"].items()]
            found.append([test["name"], test["verdict"], "; ".join(said + measured)])
    lines = table(["test", "verdict", "measured <= bound"], found)
    return [*lines, *_reasons(rows)]


def trace(row: Mapping[str, Any]) -> list[str]:
    """Return the tables of a trace: kinds of kernels, and the longest kernels."""
    if why := _missing(row):
        return [why]
    total = row["kernels ms/step"]
    kinds = [
        [name, f"{ms:.3f}", f"{100 * ms / total:.1f}"]
        for name, ms in row["by kind"].items()
    ]
    longest = [
        [r["name"], r["kind"], f"{r['calls']:g}", f"{r['ms']:.3f}",
         f"{100 * r['share']:.1f}"]
        for r in row["kernels"][:KERNELS]
    ]  # fmt: skip
    return [
        f"{row['of']}: kernels take {total:.2f} ms a step, and the device was busy for "
        f"{100 * row['busy']:.1f} % of the traced time.",
        "",
        *table(["kind", "ms/step", "%"], kinds),
        "",
        *table(["kernel", "kind", "calls a step", "ms/step", "%"], longest),
    ]


def _measured(row: Mapping[str, Any]) -> bool:
    return row.get("memory from") == "allocator's peak"


def plans(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return (GiB planned for an absent chip, allocator's peak) by the plan's name."""
    rows = list(rows)
    peaks = {MEMORY_OF + row["name"]: row[_PEAK] for row in rows if _measured(row)}
    return {
        row["name"]: (row[ABSENT], peaks[row["name"]])
        for row in rows
        if ABSENT in row and row["name"] in peaks
    }


def off(planned: float, peak: float) -> bool:
    """Return whether a plan and a peak differ by more than PLAN_FACTOR."""
    return not 1 / PLAN_FACTOR <= planned / peak <= PLAN_FACTOR


def others(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each remaining row: memory, randaug, whether a run repeats."""
    rows = list(rows)
    pairs = plans(rows)
    lines = []
    for row in rows:
        if row["kind"] not in ("memory", "randaug", "repeat"):
            continue
        hidden = {"name", "kind", "seconds", "failed", "skipped"}
        figures = [f"{k} {v}" for k, v in row.items() if k not in hidden]
        if row["name"] in pairs:
            planned, peak = pairs[row["name"]]
            wrong = f", **FAILED: not within a factor of {PLAN_FACTOR}**"
            figures.append(
                f"{planned / peak:.2f} of the allocator's peak of {peak:.2f} GiB"
                f"{wrong if off(planned, peak) else ''}"
            )
        lines.append(f"- {row['name']}: {_missing(row) or ', '.join(figures)}")
    for row in filter(_measured, rows):
        lines.append(
            f"- {row['name']}: the allocator's peak is {row[_PEAK] / row[_PLAN]:.2f} of "
            "XLA's plan"
        )
    return lines


def page(report: Mapping[str, Any]) -> str:
    """Return the whole page of a report, see `parity.gpu.__main__`."""
    about, rows = report["about"], report["rows"]
    versions = ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())
    lines = [
        f"# vitjax on {about.get('device', 'an unknown device')}",
        "",
        f"{report['seconds']:.0f} s; torch sees {about.get('torch sees', '-')}; {versions}",
    ]
    if report["note"]:
        lines += ["", report["note"]]
    lines += ["", "## Speed", "", *speed(rows)]
    for row in rows:
        if row["kind"] == "trace":
            lines += ["", "## Kernels", "", *trace(row)]
    lines += ["", "## Tests", "", *tests(rows)]
    lines += ["", "## Memory, randaug, and repeating", "", *others(rows), ""]
    return "\n".join(lines)


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many tests passed, FAILED and were skipped, and jobs that failed.

    A plan beside the allocator's peak is a test.
    """
    rows = list(rows)
    found = {"passed": 0, "FAILED": 0, "skipped": 0}
    for row in rows:
        for test in row.get("tests", ()):
            found[test["verdict"]] += 1
    for pair in plans(rows).values():
        found["FAILED" if off(*pair) else "passed"] += 1
    return found | {"failed jobs": sum("failed" in row for row in rows)}
