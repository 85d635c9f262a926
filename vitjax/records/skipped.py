"""The metric `skipped`: examples that could not be read and were replaced."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.devices.sharding import batch_sharding, replicated


class SkipCount:
    """Counts from the beginning of the run, over all processes, and waits for nobody."""

    def __init__(
        self,
        skipped: Callable[[int, int], int],
        mesh: Mesh,
        *,
        first_step: int,
        before: int,
    ):
        """Of this process's rows, `skipped(start, stop)` counts batches start..stop - 1.

        The process begins after `first_step` steps, in which `before` were skipped.
        """
        self._skipped = skipped
        self._first_step = first_step
        self._rows = batch_sharding(mesh)
        self._num_local = len(mesh.local_devices)
        self._sum = jax.jit(
            lambda rows: before + jnp.sum(rows), out_shardings=replicated(mesh)
        )

    def total(self, step: int) -> jax.Array:
        """After `step` steps, int32[]. All processes call it for the same steps."""
        mine = np.zeros(self._num_local, np.int32)
        mine[0] = self._skipped(self._first_step, step)
        return self._sum(jax.make_array_from_process_local_data(self._rows, mine))
