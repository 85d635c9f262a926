"""What several processes must agree on before they go on together.

Each reads and writes its own part of a checkpoint, and the next collective, which needs
them all, would hang where one of them has failed.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


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
