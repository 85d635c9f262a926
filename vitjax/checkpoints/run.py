"""The checkpoints of one run: its start, its saves, and the best of them."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from vitjax.checkpoints.best import Best
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.read import locate
from vitjax.config.experiment import Experiment, learned_differences


class Checkpoints:
    """The writer of a run's newest checkpoints, and of the best one if `best` is given.

    Args:
      meta: JSON values that every checkpoint keeps with the state.
      counters: returns the JSON values of a step that change from step to step.
    """

    def __init__(
        self,
        newest: Checkpointer,
        best: Best | None,
        meta: Mapping[str, Any],
        counters: Callable[[int], Mapping[str, Any]],
    ):
        self._newest, self._best = newest, best
        self._meta, self._counters = meta, counters

    def offer(self, step: int, row: Mapping[str, float], state: Any) -> None:
        """Keep the state as the best one if the evaluations in `row` are the best."""
        if self._best is not None:
            with jax.transfer_guard("allow"):  # orbax copies to the host
                self._best.offer(step, row, state, self._meta_at(step))

    def save(self, step: int, state: Any) -> None:
        """Start writing; rows of `step` must be on disk. `poll` reports errors."""
        with jax.transfer_guard("allow"):
            if self._best is not None:
                # A run that resumes at `step` does not repeat its evaluation.
                self._best.settle()
            self._newest.save(step, state, self._meta_at(step))

    def over(self) -> str | None:
        """Return why the run should stop early, or None if it should not."""
        return None if self._best is None else self._best.over()

    def poll(self) -> None:
        """Warn if a checkpoint failed. Raises ValueError after several in a row."""
        self._newest.poll()

    def finish(self) -> None:
        """Wait for all writes. Raises ValueError if the last checkpoint failed."""
        self._newest.finish()
        if self._best is not None:
            self._best.settle()

    def _meta_at(self, step: int) -> dict[str, Any]:
        counted = {} if self._best is None else self._best.counters()
        return {**self._meta, **self._counters(step), **counted}


def newest(workdir: Path, e: Experiment, sizes: Mapping[str, int]) -> Checkpointer:
    """Open the newest checkpoints of a run, as many as its config keeps."""
    keep_steps = e.steps("keep_ckpt", **sizes, default=None)
    return Checkpointer(workdir, max_to_keep=e.max_to_keep, keep_steps=keep_steps)


def kept(newest: Checkpointer, resume: str | None) -> tuple[str, dict[str, Any]]:
    """Return (path, JSON item) of the checkpoint that a run will start from.

    It is the newest one, or that of `resume`; ("", {}) if there is neither.
    """
    found = newest.newest_meta()
    if found is not None:
        return str(newest.path / str(found[0])), found[1]
    if resume is None:
        return "", {}
    workdir, step = locate(resume)
    with contextlib.closing(Checkpointer(workdir)) as other:
        return resume, other.meta(step)


def restore(
    newest: Checkpointer, resume: str | None, shapes: Any, config: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Restore (state, JSON item) of the newest checkpoint, or of `resume`, or None.

    `shapes` has shardings. `config` is the run's config as plain values. A warning
    lists its differences from the config of `resume` that change what a run learns.
    """
    found = newest.restore_newest(shapes)
    if found is not None or resume is None:
        return found
    workdir, step = locate(resume)
    with contextlib.closing(Checkpointer(workdir)) as other:
        meta = other.meta(step)
        old, new = ({**c, "resume": None} for c in (meta["config"], config))
        changed = learned_differences(old, new)
        if changed:
            logging.warning("resume: the config differs: %s", "; ".join(changed))
        return other.restore(step, shapes), meta
