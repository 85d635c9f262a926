"""Open the evaluators of a run, decide when each is due, and run them."""

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from input_pipeline import parts
from vitjax.config import arguments, durations, names
from vitjax.devices import failures
from vitjax.evaluators import EVALUATORS

# Keys of other trainers' evaluators that vitjax refuses, with the reason.
REFUSED = {
    "cache": "not supported; the operating system caches the files",
    "cache_final": "not supported; the operating system caches the files",
    "cache_raw": "not supported; the operating system caches the files",
    "pred": "not supported; the model's logits are evaluated",
    "use_ema": "params='ema' evaluates the averaged parameters",
    "prefetch": "not supported; two batches are always prefetched",
}

# What a run gives every evaluator.
GIVEN = ("predict", "make_data", "mesh")

# Keys of a section besides the evaluator's arguments and its durations.
WHEN = {"type": str, "required": bool, "skip_first": bool, "params": str}


def own_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's arguments of the evaluator, without those of its schedule."""
    when = {*WHEN, *durations.keys("log")}
    return {key: value for key, value in section.items() if key not in when}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An opened section of `evals`."""

    name: str
    evaluator: Any
    log_steps: int | None
    skip_first: bool
    params: str = "params"  # the field of the state that is evaluated
    batch_size: int | None = None  # of its steps; None: the evaluator has none
    mesh: Mesh | None = None

    def due(self, step: int, total_steps: int) -> bool:
        """Return whether it is due: at step 0, every `log_steps`, and at the end.

        With `skip_first` it is not due at step 0.
        """
        if step == 0:
            return not self.skip_first
        return durations.due(step, self.log_steps, total_steps, first=False)


def _entry(
    name: str,
    evaluator: Callable[..., Any],
    given: Mapping[str, Any],
    sizes: Mapping[str, int],
    batch_size: int,
    section: Mapping[str, Any],
) -> Entry:
    """Split a section into schedule and evaluator's arguments, and make its entry."""
    section = dict(section)
    when = {k: section.pop(k) for k in durations.keys("log") if k in section}
    skip_first = bool(section.pop("skip_first", False))
    params = section.pop("params", "params")
    if params not in ("params", "ema"):
        raise arguments.unknown(params, ("params", "ema"), f"evals.{name}.params")
    if "batch_size" in arguments.parameters(evaluator)[0]:
        section = {"batch_size": batch_size} | section
        arguments.check_types(f"evals.{name}", {"batch_size": int}, section)
        if section["batch_size"] % given["mesh"].size:
            raise ValueError(
                f"evals.{name}: batch_size {section['batch_size']} is not divisible "
                f"by {given['mesh'].size} device(s); set evals.{name}.batch_size"
            )
    try:
        log_steps = durations.steps("log", when, **sizes, default=None)
    except ValueError as error:
        raise ValueError(f"evals.{name}: {error}") from error
    with parts.explained(f"evals.{name}", parts.SLIPS):
        opened = arguments.call(f"evals.{name}", evaluator, section, **given)
    return Entry(
        name=name,
        evaluator=opened,
        log_steps=log_steps,
        skip_first=skip_first,
        params=params,
        batch_size=section.get("batch_size"),
        mesh=given["mesh"],
    )


def evaluator_of(section: Mapping[str, Any]) -> Any:
    """Return the evaluator of a section of `evals`: of EVALUATORS, or a person's own.

    Raises ValueError if there is no such evaluator, or it cannot run.
    """
    kind = section.get("type", "classification")
    found = names.find(EVALUATORS, kind, "evaluators")
    if inspect.isclass(found) and not callable(getattr(found, "run", None)):
        raise ValueError(
            f"the evaluator {kind!r} must have run(state), which yields (name, value)"
        )
    takes, open_ended = arguments.parameters(found)
    lacks = [name for name in GIVEN if name not in takes]
    if lacks and not open_ended:
        raise ValueError(f"the evaluator {kind!r} must have a parameter {lacks[0]}")
    return found


def check(evals: Mapping[str, Any]) -> None:
    """Raise ValueError if an evaluator of `evals` does not exist, or cannot run."""
    for section in evals.values():
        if isinstance(section, Mapping):
            evaluator_of(section)


def classifies(section: Any) -> bool:
    """Return whether a section of `evals` is of `Classification` or a subclass of it."""
    if not isinstance(section, Mapping):
        return False
    kind = section.get("type", "classification")
    if not (parts.is_dotted(kind) or kind in [*EVALUATORS]):
        return False  # refused where evaluators are opened
    found = evaluator_of(section)
    return inspect.isclass(found) and issubclass(found, EVALUATORS["classification"])


def classifiers(evals: Mapping[str, Any]) -> list[str]:
    """Return the names of the evaluators that classify, in their order."""
    return [name for name, section in evals.items() if classifies(section)]


def default_classifier(evals: Mapping[str, Any]) -> str | None:
    """Return "val" if it classifies, else the first evaluator that does, else None."""
    found = classifiers(evals)
    return "val" if "val" in found else next(iter(found), None)


def fed_as_classifier(
    section: dict[str, Any], evals: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a probe's section, with `default_classifier`'s preprocessing if it has none."""
    name = default_classifier(evals)
    if name is None or "pp_fn" in section or "device_pp" in section:
        return section
    return {
        k: x for k, x in evals[name].items() if k in ("pp_fn", "device_pp")
    } | section


def make_entries(
    evals: Mapping[str, Any],
    *,
    predict: Callable[..., Any],
    make_data: Callable[..., Any],
    mesh: Mesh,
    sizes: Mapping[str, int],
    batch_size: int,
    missing: type[Exception],
    warn: Callable[[str], None],
    ema: bool = False,
) -> list[Entry]:
    """Open every evaluator of the config's `evals`.

    Args:
      sizes: data_size, batch_size and total_steps of the run.
      batch_size: default of the evaluators' batch sizes.
      missing: the exception of `make_data` for a data set that is not prepared. An
        evaluator with `required=False` is then skipped, and `warn` gets the reason.
      ema: whether the state has averaged parameters, which `params="ema"` evaluates.

    A probe without pp_fn and device_pp gets those of an evaluator that classifies.
    Raises ValueError if a section is wrong.
    """
    given = {"predict": predict, "make_data": make_data, "mesh": mesh}
    entries = []
    for name, section in evals.items():
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ValueError(
                f"config section evals.{name} must be a section, got {section!r}"
            )
        for key in REFUSED.keys() & section.keys():
            raise ValueError(f"config key evals.{name}.{key}: {REFUSED[key]}")
        arguments.check_types(f"evals.{name}", WHEN, section)
        if section.get("params") == "ema" and not ema:
            raise ValueError(
                f"evals.{name}: params='ema' needs averaged parameters, but this config "
                "has none; set ema, e.g. to dict(decay=0.9999)"
            )
        section = dict(section)
        required = section.pop("required", True)
        evaluator = evaluator_of(section)
        section.pop("type", None)
        if "fit_data" in arguments.parameters(evaluator)[0]:
            section = fed_as_classifier(section, evals)
        try:
            entries.append(_entry(name, evaluator, given, sizes, batch_size, section))
        except missing as error:
            if required:
                raise
            warn(f"evals.{name} is skipped: {error}")
    return entries


class Schedule:
    """The schedule of a run's evaluators.

    Args:
      total_steps: the length of the run.
      first_step: the step that the run starts from.
      recorded: names of the metrics of that step that are already on disk, as
        the first process sees them.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        total_steps: int,
        first_step: int,
        recorded: Collection[str],
    ):
        self._entries, self._total_steps = entries, total_steps
        self._first_step = first_step
        found = [
            any(name.startswith(f"{entry.name}/") for name in recorded)
            for entry in entries
        ]
        if jax.process_count() > 1:
            found = multihost_utils.broadcast_one_to_all(np.array(found))
        self._done = [
            e.name for e, is_there in zip(entries, found, strict=True) if is_there
        ]

    def due(self, step: int) -> list[Entry]:
        """Return the entries to run after `step`."""
        return [x for x in self._left(step) if x.due(step, self._total_steps)]

    def not_due(self, step: int) -> list[Entry]:
        """Return the others, which run after `step` too if the run ends there early."""
        return [x for x in self._left(step) if not x.due(step, self._total_steps)]

    def _left(self, step: int) -> list[Entry]:
        done = self._done if step == self._first_step else ()
        return [entry for entry in self._entries if entry.name not in done]


@contextlib.contextmanager
def _explained(entry: Entry) -> Iterator[None]:
    """Raise DeviceFull, which names a smaller batch_size, if a device has no memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not failures.is_out_of_memory(error) or entry.mesh is None:
            raise
        what, devices = f"evals.{entry.name}", entry.mesh.size
        kind = entry.mesh.local_devices[0].device_kind
        said = failures.full(f"the evaluator {what}", error, kind)
        half = (entry.batch_size or 0) // 2 // devices * devices
        less = (
            f"--config.{what}.batch_size={half} makes its batches smaller"
            if half
            else f"--config.{what}=None leaves it out, as its batches cannot be smaller"
        )
        raise failures.DeviceFull(f"{said}; {less}") from error


def run(entries: Sequence[Entry], state: Any) -> dict[str, float]:
    """Run evaluators on a state, and return one row of "name/metric" values.

    The row also has the seconds of each evaluator, "time/name".
    """
    row = {}
    for entry in entries:
        start = time.monotonic()
        evaluated = state
        if entry.params != "params":
            evaluated = dataclasses.replace(state, params=getattr(state, entry.params))
        with parts.explained(f"evals.{entry.name}", parts.SLIPS), _explained(entry):
            for metric, value in entry.evaluator.run(evaluated):
                row[f"{entry.name}/{metric}"] = value
        row[f"time/{entry.name}"] = time.monotonic() - start
    return row
