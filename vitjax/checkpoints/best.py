"""Keep the checkpoint with the best value of one metric, and stop without a better one."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from absl import logging

from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.patience import Patience, better
from vitjax.config import arguments
from vitjax.devices import agreement


class Best:
    """The keeper of one checkpoint in `workdir`/best.

    `model_init` and `resume` accept that path.
    """

    def __init__(
        self,
        *,
        workdir: Path,
        metric: str,
        mode: Literal["max", "min"] = "max",
        patience: int | None = None,
        kept: Mapping[str, Any] | None = None,
    ):
        """Watch `metric` of the evaluations, such as "val/prec@1".

        A resumed run compares with the value that is stored there.

        Args:
          patience: `over` holds after so many evaluations in a row without a better
            value; None: never.
          kept: the JSON item of the checkpoint that the run starts from, if any.
        """
        self._metric, self._mode = metric, mode
        self._patience = None
        if patience is not None:
            counted = (kept or {}).get("early_stop")
            self._patience = Patience(metric, mode, patience, counted)
        self._checkpointer = Checkpointer(Path(workdir) / "best", max_to_keep=1)
        self._checkpointer.remove_partial()
        self._value = self._kept_value()
        self._offered: float | None = None  # the value whose state is being written

    def _kept_value(self) -> float | None:
        latest = self._checkpointer.latest_step()
        # All processes must take the same branch below.
        steps = agreement.as_first_sees([] if latest is None else [latest])
        if not steps:
            return None
        [step] = steps
        try:
            return self._checkpointer.meta(step)["value"]
        except ValueError as error:
            logging.warning("%s; the search for the best checkpoint restarts", error)
            self._checkpointer.set_aside(step)
            return None

    def offer(
        self, step: int, row: Mapping[str, float], state: Any, meta: dict[str, Any]
    ) -> None:
        """Keep the state of `step` if its metric is better than all before it; count it.

        Step 0, a row without the metric's evaluator and a value that is not finite are
        ignored. If the state cannot be written, there is a warning. Raises ValueError
        if the evaluator has no such metric.
        """
        evaluator = self._metric.split("/")[0]
        names = sorted(name for name in row if name.startswith(f"{evaluator}/"))
        if not names:
            return
        if self._metric not in names:
            raise ValueError(
                f"ckpt_best: no metric {self._metric!r}, only {', '.join(names)}; "
                "choose one of these"
            )
        value = float(row[self._metric])
        if step == 0:
            return
        if self._patience is not None:
            self._patience.count(step, value)
        self.settle()
        if not better(self._mode, value, self._value):
            return
        self._offered = value
        with contextlib.suppress(
            ValueError
        ):  # after several failures, each of which warned
            # A run that resumed earlier may find a checkpoint of this or a later step.
            self._checkpointer.remove_from(step)
            self._checkpointer.save(step, state, meta | {"value": value})

    def settle(self) -> None:
        """Wait until the checkpoint that `offer` started is complete.

        If it cannot be written, the previous one remains the best.
        """
        with contextlib.suppress(ValueError):
            if self._checkpointer.poll(wait=True) is not None:
                self._value = self._offered
        self._offered = None

    def over(self) -> str | None:
        """Return why the run should stop early, or None if it should not."""
        return None if self._patience is None else self._patience.over()

    def counters(self) -> dict[str, Any]:
        """Return what a resumed run's `kept` needs, as JSON values."""
        return {} if self._patience is None else {"early_stop": self._patience.state()}

    def close(self) -> None:
        """Wait, then end orbax's threads."""
        self._checkpointer.close()


def check(section: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the config section `ckpt_best` is wrong in itself."""
    if section is None:
        return
    if isinstance(section, Mapping) and "metric" not in section:
        raise ValueError("the config lacks ckpt_best.metric, such as 'val/prec@1'")
    arguments.check("ckpt_best", Best, section, ("workdir", "kept"))
    patience = section.get("patience")
    if patience is not None and patience < 1:
        raise ValueError(
            "ckpt_best.patience must be at least 1, or None never to stop early, got "
            f"{patience}"
        )


@contextlib.contextmanager
def best_of(
    section: Mapping[str, Any] | None,
    workdir: Path,
    evaluators: Sequence[str],
    kept: Mapping[str, Any] | None = None,
) -> Iterator[Best | None]:
    """Open the keeper for the config section `ckpt_best`; None without the section.

    It is None without evaluators too, with a warning. `kept` is that of `Best`. Raises ValueError if its metric
    belongs to none of these evaluators.
    """
    if section is None or not evaluators:
        if section is not None and jax.process_index() == 0:
            logging.warning("ckpt_best has no effect: this run has no evaluators")
        yield None
        return
    best = arguments.call("ckpt_best", Best, section, workdir=workdir, kept=kept)
    if section["metric"].split("/")[0] not in evaluators:
        raise ValueError(
            f"ckpt_best: {section['metric']!r} is not a metric of this run's evaluators "
            f"({', '.join(evaluators)}): choose another, or set "
            "ckpt_best=None"
        )
    with contextlib.closing(best):
        yield best
