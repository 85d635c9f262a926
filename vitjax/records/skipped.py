"""The metric `skipped`, the number of examples that could not be read.

Other examples replace them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.devices.sharding import batch_sharding, replicated


class SkipCount:
    """The count over all processes since the start of the run; it never blocks."""

    def __init__(
        self,
        skipped: Callable[[int, int], int],
        mesh: Mesh,
        *,
        first_step: int,
        before: int,
    ):
        """Count from `first_step` on; `before` examples were skipped until then.

        `skipped(start, stop)` is the number of skipped examples among this process's
        rows of the batches start..stop - 1.
        """
        self._skipped = skipped
        self._first_step = first_step
        self._rows = batch_sharding(mesh)
        self._num_local = len(mesh.local_devices)
        self._sum = jax.jit(
            lambda rows: before + jnp.sum(rows), out_shardings=replicated(mesh)
        )

    def total(self, step: int) -> jax.Array:
        """Return the count after `step` steps, int32[].

        All processes must call it for the same steps.
        """
        mine = np.zeros(self._num_local, np.int32)
        mine[0] = self._skipped(self._first_step, step)
        return self._sum(jax.make_array_from_process_local_data(self._rows, mine))
