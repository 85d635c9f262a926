"""The evaluators of a run: which there are and when each is due."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from vitjax import durations
from vitjax.evaluators import EVALUATORS
from vitjax.experiment import call, check_keys
from vitjax.lookup import lookup


@dataclasses.dataclass(frozen=True)
class Entry:
    """One section of `evals`."""

    name: str
    evaluator: Any
    log_steps: int | None
    skip_first: bool

    def due(self, step: int, total_steps: int) -> bool:
        """At step 0 unless `skip_first`, every `log_steps`, and at the end."""
        if step == 0:
            return not self.skip_first
        return durations.due(step, self.log_steps, total_steps, first=False)


def _entry(
    name: str,
    evaluator: type,
    given: Mapping[str, Any],
    sizes: Mapping[str, int],
    section: Mapping[str, Any],
) -> Entry:
    """Split the section into what decides when, and the evaluator's own arguments."""
    section = dict(section)
    when = {k: section.pop(k) for k in durations.keys("log") if k in section}
    skip_first = bool(section.pop("skip_first", False))
    if "batch_size" not in section:
        section["batch_size"] = sizes["batch_size"]
    if section["batch_size"] % given["mesh"].size:
        raise ValueError(
            f"evals.{name}: batch_size {section['batch_size']} is not divisible by "
            f"{given['mesh'].size} device(s); set evals.{name}.batch_size"
        )
    check_keys(f"evals.{name}", evaluator, section, given)
    return Entry(
        name=name,
        evaluator=call(f"evals.{name}", evaluator, section, **given),
        log_steps=durations.steps("log", when, **sizes, default=None),
        skip_first=skip_first,
    )


def make_entries(
    evals: Mapping[str, Any],
    *,
    predict: Callable[..., Any],
    make_data: Callable[..., Any],
    mesh: Mesh,
    sizes: Mapping[str, int],
    missing: type[Exception],
    warn: Callable[[str], None],
) -> list[Entry]:
    """Open every evaluator of the config's `evals`.

    Args:
      sizes: data_size, batch_size and total_steps of the run.
      missing: what `make_data` raises if a data set is not prepared; an evaluator with
        `required=False` is then left out and `warn` is told why.
    """
    given = {"predict": predict, "make_data": make_data, "mesh": mesh}
    entries = []
    for name, section in evals.items():
        if section is None:
            continue
        section = dict(section)
        required = section.pop("required", True)
        evaluator = lookup(
            EVALUATORS, section.pop("type", "classification"), "evaluator"
        )
        try:
            entries.append(_entry(name, evaluator, given, sizes, section))
        except missing as error:
            if required:
                raise
            warn(f"evals.{name} is skipped: {error}")
    return entries


def run(entries: list[Entry], state: Any) -> dict[str, float]:
    """Run evaluators on a state; one row of "name/metric" values."""
    row = {}
    for entry in entries:
        start = time.monotonic()
        for metric, value in entry.evaluator.run(state):
            row[f"{entry.name}/{metric}"] = value
        row[f"time/{entry.name}"] = time.monotonic() - start
    return row
