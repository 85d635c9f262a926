"""Write and restore checkpoints with orbax: atomic, asynchronous, a folder per step."""

import contextlib
import itertools
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from vitjax.checkpoints.checksums import changed, checksums
from vitjax.checkpoints.read import crc32, damaged, first_line, meta_of
from vitjax.devices import agreement
from vitjax.trees import flatten_with_names

FAILURES = 3
PARTIAL = ".orbax-checkpoint-tmp"  # in the names of unfinished folders of orbax


class Checkpointer:
    """The checkpoints in `workdir`/checkpoints.

    Each contains the train state (arrays) and a JSON item (everything else). The folder
    of a step appears only when it is complete.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        max_to_keep: int | None = 2,
        keep_steps: int | None = None,
    ):
        """Keep the newest `max_to_keep`, and all multiples of `keep_steps`.

        `max_to_keep=None` keeps all checkpoints.
        """
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(
                f"max_to_keep must be at least 1, or None for all, got {max_to_keep}"
            )
        if keep_steps is not None and keep_steps < 1:
            raise ValueError(
                f"keep_ckpt_steps must be at least 1, or None for none, got {keep_steps}"
            )
        self.path = Path(workdir).resolve() / "checkpoints"
        several = jax.process_count() > 1
        self._commit = agreement.Commit(self.path.parent.name) if several else None
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep,
                keep_period=keep_steps,
                create=False,
                async_options=ocp.options.AsyncOptions(barrier_sync_fn=self._commit),
            ),
            item_names=("state", "meta"),
        )
        self._pending: int | None = None  # the step in progress
        self._failures = 0  # in a row

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step() if self.path.is_dir() else None

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, in order."""
        return sorted(self._manager.all_steps()) if self.path.is_dir() else []

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Start writing, and return when the state is copied from the devices.

        Orbax does not detect flipped bits, so the JSON item has checksums of all
        leaves. `poll` and `finish` report errors.
        """
        self.poll(wait=True)
        self._pending = step
        if self._commit is not None:
            self._commit.begin(step)
        meta = {**meta, "checksums": checksums(state)}
        meta = {"crc32": crc32(meta), **meta}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._manager.save(step, args=args, force=True)
        except Exception as error:  # a full disk raises many types
            self._failed(error)

    def last_good(self) -> int | None:
        """Wait for the save in progress, then return `latest_step`."""
        with contextlib.suppress(ValueError):
            self.poll(wait=True)
        return self.latest_step()

    def poll(self, wait: bool = False) -> int | None:
        """Check the save in progress; do not wait for it unless `wait`.

        Returns the step of a checkpoint that is now complete. A checkpoint that cannot
        be written causes a warning and leaves nothing on the disk. After FAILURES in a
        row, raises ValueError with the step of the last good checkpoint.
        """
        step, saving = self._pending, self._manager.is_saving_in_progress
        if step is None or (not wait and saving()):
            return None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed(error)
            return None
        self._pending, self._failures = None, 0
        return step

    def finish(self) -> None:
        """Wait for the last save. Raises ValueError if it could not be written."""
        self.poll(wait=True)
        if self._failures:
            raise ValueError(self._cannot_go_on("the last checkpoint"))

    def _failed(self, error: Exception) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise error  # not the disk's fault
        step, self._pending = self._pending, None
        assert step is not None
        self._failures += 1
        why = first_line(error)
        if jax.process_index() == 0:
            self._remove_partial(step)
        logging.warning("the checkpoint of step %d cannot be written: %s", step, why)
        if self._failures >= FAILURES:
            what = f"{FAILURES} checkpoints in a row"
            raise ValueError(self._cannot_go_on(what)) from error

    def _remove_partial(self, step: int) -> None:
        """Delete a failed checkpoint's files until no writer thread recreates them.

        Threads that write its other parts do not notice the failure yet, and cannot be
        waited for.
        """
        absent = 0
        for _ in range(20 * 60):
            folders = list(self.path.glob(f"{step}.*"))
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            absent = 0 if folders else absent + 1
            if absent == 20:
                return
            time.sleep(0.05)

    def _cannot_go_on(self, what: str) -> str:
        good = self.latest_step()
        last = (
            "there is no checkpoint"
            if good is None
            else f"the last good checkpoint is of step {good}"
        )
        return (
            f"{what} could not be written to {self.path}; {last}: free some space there "
            "and run the same command again to resume from it"
        )

    def meta(self, step: int) -> dict[str, Any]:
        """Return the JSON item of a step. Raises ValueError if it is damaged."""
        error = meta = None
        folder = self.path / str(step)
        try:
            meta = meta_of(folder)
        except ValueError as e:
            error = e
        agreement.raise_if_any(error, f"checkpoint {folder}")
        assert meta is not None
        return meta

    def newest_meta(self) -> tuple[int, dict[str, Any]] | None:
        """Return (step, JSON item) of the newest undamaged JSON item, or None."""
        for step in reversed(agreement.as_first_sees(self.steps())):
            with contextlib.suppress(ValueError):
                return step, self.meta(step)
        return None

    def restore(self, step: int, shapes: Any) -> Any:
        """Restore the state of a step, placed by the shardings of `shapes`.

        Raises ValueError if it is damaged, or if its tree or a shape differs.
        """
        expected = self.meta(step)["checksums"]
        here = {name for name, _ in flatten_with_names(shapes)}
        unlike = _some("lacks", here - expected.keys())
        unlike += _some("adds", expected.keys() - here)
        if unlike:
            raise ValueError(
                f"checkpoint {self.path / str(step)} does not fit the model and "
                f"optimizer of this config: it {' and '.join(unlike)}"
            )
        error = state = None
        try:
            # Only the handler: orbax's manager ends with a barrier, at which the other
            # processes would wait for ever for a failed one.
            state = ocp.StandardCheckpointHandler().restore(
                self._manager.directory / str(step) / "state",
                args=ocp.args.StandardRestore(shapes),
            )
        except jax.errors.JaxRuntimeError:  # not the disk's fault
            raise
        except Exception as e:  # damaged bytes raise many types
            why = e.__cause__ or e  # orbax's error may not name the array
            error = ValueError(
                f"checkpoint {self.path / str(step)} does not fit the model and "
                "optimizer of this config, or is damaged: "
                f"{type(why).__name__}, {first_line(why)}"
            )
            error.__cause__ = e
        agreement.raise_if_any(error, f"checkpoint {self.path / str(step)}")
        wrong = changed(state, expected)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise damaged(
                self.path / str(step), f"the bits of {wrong[0]}{more} have changed"
            )
        return state

    def restore_newest(self, shapes: Any) -> tuple[Any, dict[str, Any]] | None:
        """Return (state, JSON item) of the newest undamaged checkpoint, or None.

        Newer, damaged checkpoints are named in warnings and moved to `workdir`/damaged.
        If all checkpoints are damaged, raises the ValueError of the newest one.
        """
        steps = agreement.as_first_sees(
            sorted(self._manager.all_steps() if self.path.is_dir() else [])
        )
        errors: dict[int, ValueError] = {}
        for step in reversed(steps):
            try:
                found = self.restore(step, shapes), self.meta(step)
            except ValueError as error:
                errors[step] = error
                continue
            for bad, error in errors.items():
                logging.warning("%s; resuming from step %d", error, step)
                self.set_aside(bad)
            return found
        if errors:
            raise errors[steps[-1]]
        return None

    def set_aside(self, step: int) -> None:
        """Move a checkpoint to `workdir`/damaged; its step can then be saved again."""
        if jax.process_index() == 0:
            place = self.path.parent / "damaged"
            place.mkdir(exist_ok=True)
            free = (
                n for n in itertools.count() if not (place / f"{step}-{n}").exists()
            )
            (self.path / str(step)).rename(place / f"{step}-{next(free)}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()

    def remove_partial(self) -> None:
        """Remove a killed process's unfinished files; no process may be writing."""
        if jax.process_index() == 0:
            for folder in self.path.glob(f"*{PARTIAL}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def remove_from(self, step: int) -> None:
        """Remove the checkpoints of `step` and all later ones."""
        for later in self._manager.all_steps() if self.path.is_dir() else []:
            if later >= step:
                self._manager.delete(later)

    def close(self) -> None:
        """Wait, then end orbax's threads."""
        with contextlib.suppress(Exception):  # `finish` reports it
            self._manager.wait_until_finished()
        self._manager.close()


def _some(what: str, names: Collection[str]) -> list[str]:
    """Return ["what a, b, c and N more"], or [] without names."""
    first, more = sorted(names)[:3], len(names) - 3
    text = f"{what} {', '.join(first)}" + (f" and {more} more" if more > 0 else "")
    return [text] if first else []
