"""Read curves of training runs from vitjax, big_vision, wandb and TensorBoard files.

- A workdir, or its metrics.jsonl (big_vision: big_vision_metrics.txt): one JSON object
  per row, {"step": int, name: value}.
- A CSV export of a wandb chart: a column `Step` and a column `RUN - METRIC` for each run.
- A CSV export of a TensorBoard scalar: `Wall time,Step,Value` in a file named
  run-RUN-tag-METRIC.csv.
- Any other CSV with a column `step`; every other column is a metric.

A run is named after its folder, file or column. Its recipe is the given name
(`NAME=PATH`), or else the run's name without a seed at its end: _s0, -s1, _seed2,
,seed=3. The s16 of vit_s16 is a patch size and stays.
"""

import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import places
from vitjax.mirror import copy

# vitjax's name, then other names of the same metric. They are compared without case or
# punctuation, because file names contain neither "/" nor "@".
SYNONYMS = {
    "training_loss": ("training_loss", "train/loss", "loss"),
    "l2_grads": ("l2_grads", "grad_norm", "train/grad_norm", "train/l2_grads"),
    "val/prec@1": ("val/prec@1", "val/acc@1", "val/acc1", "val/accuracy", "acc@1"),
}
TITLES = {
    "training_loss": "training loss",
    "l2_grads": "gradient norm",
    "val/prec@1": "validation accuracy",
}
SEED = re.compile(r"(?<!vit)[-_,.](?:s|seed)[-_=]?\d+$", re.IGNORECASE)
TENSORBOARD_FILE = re.compile(r"run-(?P<run>.+)-tag-(?P<metric>.+)")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of one run: ascending steps, and values that need not be finite."""

    steps: np.ndarray
    values: np.ndarray


def finite(c: Curve) -> Curve:
    """Return the curve without values that are NaN or infinite."""
    keep = np.isfinite(c.values)
    return Curve(c.steps[keep], c.values[keep])


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its recipe, its name, and its curves by metric."""

    recipe: str
    name: str
    curves: dict[str, Curve]


Points = Iterable[tuple[str, str, int, float]]  # run, metric, step, value


def plain(name: str) -> str:
    """Return a name without case and punctuation, for comparison: "val_prec_1"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def curve(run: Run, metric: str) -> Curve | None:
    """Return the run's curve of a metric under any of its known names."""
    by_name = {plain(name): value for name, value in run.curves.items()}
    for name in SYNONYMS.get(metric, (metric,)):
        if plain(name) in by_name:
            return by_name[plain(name)]
    return None


def recipe_of(name: str) -> str:
    """Return a run's name without its seed."""
    return SEED.sub("", name) or name


def read(arguments: Iterable[str]) -> list[Run]:
    """Read the runs of `PATH` or `NAME=PATH` arguments, in order.

    Raises ValueError, in one sentence, if a path cannot be read, or if two files have
    the same metric of the same run.
    """
    runs: dict[tuple[str, str], dict[str, Curve]] = {}
    for argument in arguments:
        given, text = _split(argument)
        path = _local(text)
        points: dict[tuple[str, str], dict[int, float]] = {}
        for run, metric, step, value in _points(path):
            points.setdefault((run, metric), {})[step] = value  # the last one wins
        if not points:
            raise ValueError(
                f"{path} has no values: give a run that has written metrics"
            )
        for (run, metric), values in points.items():
            curves = runs.setdefault((given or recipe_of(run), run), {})
            if metric in curves:
                raise ValueError(
                    f"{path} is the second file with {metric} of a run {run!r}; rename "
                    "its file or folder, because the name tells the seeds of a recipe apart"
                )
            steps = sorted(values)
            curves[metric] = Curve(
                np.array(steps), np.array([values[s] for s in steps], float)
            )
    return [Run(recipe, name, curves) for (recipe, name), curves in runs.items()]


def _split(argument: str) -> tuple[str | None, str]:
    """Split into (given name or None, path); a folder's name may contain "=" too."""
    name, equals, rest = argument.partition("=")
    if equals and not Path(argument).exists():
        return name, places.anywhere(rest)
    return None, places.anywhere(argument)


def _local(text: str) -> Path:
    """Return the path of a workdir or a file; of one in a bucket that of its copy."""
    if Path(text).suffix in (".jsonl", ".csv", ".txt"):
        return copy.file(text)
    return copy.rows(text)


def _points(path: Path) -> Points:
    if path.is_dir():
        inside = path / "metrics.jsonl"
        if not inside.exists():
            near = sorted(p.parent.name for p in path.glob("*/metrics.jsonl"))
            hint = f"; it has the workdirs {', '.join(near)}" if near else ""
            raise ValueError(f"{path} is not a workdir: it has no metrics.jsonl{hint}")
        path = inside
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; expected a workdir, a .jsonl or a .csv"
        )
    if path.suffix == ".csv":
        return _csv_points(path)
    run = path.stem
    if path.name in ("metrics.jsonl", "big_vision_metrics.txt"):
        run = path.resolve().parent.name
    return _json_points(path, run)


def _json_points(path: Path, run: str) -> Points:
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # a killed process may leave a partial row
                continue
            raise ValueError(
                f'{path}, line {number} is not a row such as {{"step": 1, ...}}: '
                f"{line[:60]!r}"
            ) from None
        for name, value in row.items():
            number_or_none = _number(value)
            if name != "step" and number_or_none is not None:
                yield run, name, step, number_or_none


def _number(value: Any) -> float | None:
    """Parse a float, also "nan" and "inf"; None for an empty cell, text or a bool."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _csv_points(path: Path) -> Points:
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = list(table.fieldnames or ())
        steps = [c for c in columns if plain(c) == "step"]
        if not steps:
            raise ValueError(
                f"{path} has no column 'step', only {columns}; choose Step as the x axis "
                "of a wandb chart before the export"
            )
        named = _columns(path, [c for c in columns if c != steps[0]])
        for row in table:
            step = _number(row[steps[0]])
            for column, (run, metric) in named.items():
                value = _number(row[column])
                if step is not None and value is not None:
                    yield run, metric, int(step), value


def _columns(path: Path, columns: list[str]) -> dict[str, tuple[str, str]]:
    """Return column -> (run, metric) for the columns that hold a metric."""
    run = path.stem if path.stem != "metrics" else path.resolve().parent.name
    if {plain(c) for c in columns} == {"wall_time", "value"}:
        found = TENSORBOARD_FILE.fullmatch(path.stem)
        value = next(c for c in columns if plain(c) == "value")
        if found:
            return {value: (found["run"], found["metric"])}
        return {value: (path.resolve().parent.name, path.stem)}
    if any(" - " in c for c in columns):
        return dict(_wandb_columns(columns))
    return {c: (run, c) for c in columns if plain(c) != "wall_time"}


def _wandb_columns(columns: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for column in columns:
        run, dash, metric = column.rpartition(" - ")
        # wandb adds columns for each metric's minimum, maximum and step.
        if dash and not metric.endswith(("__MIN", "__MAX")) and metric[:1] != "_":
            yield column, (run, metric)
