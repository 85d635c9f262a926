"""Count the evaluations without an improvement, to stop a run early."""

import math
from collections.abc import Mapping
from typing import Any

from vitjax.devices import agreement


def better(mode: str, value: float, than: float | None) -> bool:
    """Return whether `value` is finite and better; every such value is, than None."""
    if not math.isfinite(value):
        return False
    return than is None or (value > than if mode == "max" else value < than)


class Patience:
    """The number of evaluations since the best one, the same on every process.

    It is a function of the values alone, and is kept in each checkpoint: `best/` may be
    newer than the checkpoint that a run resumes from.

    Args:
      metric, mode: as of `best.Best`.
      limit: `over` holds after so many evaluations in a row without a better value.
      kept: the `state` in the checkpoint that the run starts from, if there is one. That
        of another metric or mode is ignored.
    """

    def __init__(
        self, metric: str, mode: str, limit: int, kept: Mapping[str, Any] | None
    ):
        self._limit = limit
        self._state: dict[str, Any] = {"metric": metric, "mode": mode}
        self._state |= {"value": None, "at": 0, "since": 0, "step": 0}
        if kept is not None and all(
            kept[k] == self._state[k] for k in ("metric", "mode")
        ):
            self._state = dict(kept)

    def count(self, step: int, value: float) -> None:
        """Count the evaluation of `step`, unless it is counted already. Collective."""
        state = self._state
        if step <= state["step"]:
            return
        improved = better(state["mode"], value, state["value"])
        # Evaluators may compute on the host, and not to the same bit on each.
        [improved] = agreement.as_first_sees([int(improved)])
        state["step"] = step
        state["since"] = 0 if improved else state["since"] + 1
        if improved:
            state["value"], state["at"] = value, step

    def over(self) -> str | None:
        """Return why the run should stop, or None if it should not."""
        state = self._state
        if state["since"] < self._limit:
            return None
        count = f"the last {state['since']} evaluations"
        if state["value"] is None:
            return f"{state['metric']} was not finite in {count}"
        return (
            f"{state['metric']} was not better in {count} than the "
            f"{state['value']:.4f} of step {state['at']}"
        )

    def state(self) -> dict[str, Any]:
        """Return the count as JSON values."""
        return dict(self._state)
