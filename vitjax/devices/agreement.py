"""Agreement between processes on errors and checkpoints, before the next collective.

Each process reads and writes its own part of a checkpoint. If one of them fails alone,
the next collective, which needs all of them, hangs.
"""

from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost


def raise_if_any(error: ValueError | None, what: str) -> None:
    """Raise ValueError on every process if one of them has an `error`. Collective."""
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            error = ValueError(
                f"{what} is damaged: process {np.argmax(failed)} cannot read it; see its "
                "log"
            )
    if error is not None:
        raise error


def as_first_sees(steps: list[int]) -> list[int]:
    """Return the first process's list on every process. Collective.

    Another process may see an older state of the folder.
    """
    if jax.process_count() == 1:
        return steps
    number = multihost_utils.broadcast_one_to_all(np.int32(len(steps)))
    mine = np.resize(np.array([*steps, 0], np.int32), int(number))
    return [int(step) for step in multihost_utils.broadcast_one_to_all(mine)]


class Commit:
    """Orbax's commit barriers, where a failure of one process is raised on all.

    A process whose writes fail skips these barriers and continues to the last barrier
    of a save. With orbax's own barriers, it and the others would wait for each other
    for minutes.
    """

    def __init__(self, name: str):
        """Use a `name` that is equal on all processes and unique to a checkpointer."""
        self._name = name
        self._barrier = multihost.get_barrier_sync_fn()
        self._saves = 0
        self._ahead: list[str] = []  # barriers of the commit
        self._marked = False

    def begin(self, step: int) -> None:
        """Prepare for the save of `step`."""
        self._saves += 1
        self._ahead = [f"async_{what}_complete.{step}" for what in ("write", "commit")]
        self._marked = False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Pass a barrier, in orbax's thread. Raises OSError if a peer failed."""
        key = key.removeprefix("_")  # orbax joins an empty prefix with "_"
        pass_ = lambda key: self._barrier(
            key=f"{self._name}/{key}", timeout_ms=timeout_ms
        )
        # Orbax sets "saving" at the start of a save and clears it at the end, each time
        # with two barriers. If commit barriers remain at the end, this process failed.
        if key.endswith("set_value_start"):
            if self._marked and self._ahead:
                missed = self._ahead[0]
                self._ahead = []
                _client().key_value_set(
                    f"{self._failures(missed)}/{jax.process_index()}", "failed"
                )
                pass_(missed)
            self._marked = True
        pass_(key)
        if key in self._ahead:
            self._ahead.remove(key)
            failed = _client().key_value_dir_get(self._failures(key))
            if failed:
                self._ahead = []
                who = sorted(int(name.rpartition("/")[2]) for name, _ in failed)
                raise OSError(f"process {who[0]} could not write its part")

    def _failures(self, key: str) -> str:
        return f"vitjax/{self._name}/{self._saves}/{key}"


def _client() -> Any:
    # jax.distributed has no public access to it; orbax reads it in the same way.
    return distributed.global_state.client
