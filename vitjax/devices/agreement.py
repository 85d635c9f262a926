"""What several processes must agree on before they go on together.

Each reads and writes its own part of a checkpoint, and the next collective, which needs
them all, would hang where one of them has failed.
"""

from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost


def raise_if_any(error: ValueError | None, what: str) -> None:
    """Raise `error`, on every process where one of them has one. A collective."""
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            error = ValueError(
                f"{what} is damaged: process {np.argmax(failed)} cannot read it, and its "
                "log says why"
            )
    if error is not None:
        raise error


def as_first_sees(steps: list[int]) -> list[int]:
    """The first process's list, on all; another may see an older folder. A collective."""
    if jax.process_count() == 1:
        return steps
    number = multihost_utils.broadcast_one_to_all(np.int32(len(steps)))
    mine = np.resize(np.array([*steps, 0], np.int32), int(number))
    return [int(step) for step in multihost_utils.broadcast_one_to_all(mine)]


class Commit:
    """orbax's barriers around the commit of a checkpoint, where one's failure is all's.

    A process whose writes fail leaves these barriers out and goes on to the last one of
    a save; at orbax's own the others would wait for it, and it for them, for minutes.
    """

    def __init__(self, name: str):
        """`name` is the same on all processes, and another for each checkpointer."""
        self._name = name
        self._barrier = multihost.get_barrier_sync_fn()
        self._saves = 0
        self._ahead: list[str] = []  # barriers of the commit
        self._marked = False

    def begin(self, step: int) -> None:
        """A save begins."""
        self._saves += 1
        self._ahead = [f"async_{what}_complete.{step}" for what in ("write", "commit")]
        self._marked = False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """What orbax calls, in a thread of its own. Raises OSError if a peer failed."""
        key = key.removeprefix("_")  # of a prefix that is empty
        pass_ = lambda key: self._barrier(
            key=f"{self._name}/{key}", timeout_ms=timeout_ms
        )
        # orbax marks that a save is under way, with two barriers; at last, that it is not.
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
    # orbax gets at it in this way too; jax.distributed does not offer it.
    return distributed.global_state.client
