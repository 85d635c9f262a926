"""Host batches on the devices: how training and evaluation are fed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vitjax.sharding import batch_sharding


@dataclasses.dataclass(frozen=True)
class OnDevices:
    """Host batches as global arrays, made ahead; each iteration is one pass."""

    host_batches: Iterable[dict[str, np.ndarray]]
    mesh: jax.sharding.Mesh
    size: int = 2

    def __iter__(self) -> Iterator[Mapping[str, jax.Array]]:
        from input_pipeline.prefetch import prefetch

        return prefetch(self.host_batches, batch_sharding(self.mesh), size=self.size)


def processes() -> dict[str, int]:
    """This process among all, as the input pipeline's makers take it."""
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def eval_data(mesh: jax.sharding.Mesh) -> Callable[..., tuple[OnDevices, int]]:
    """make_data(data=, pp_fn=, batch_size=) for evaluators: (batches, steps)."""

    def make_data(**section: Any) -> tuple[OnDevices, int]:
        from input_pipeline import pipeline

        section |= processes()
        host_batches, steps = pipeline.make_eval(**section)
        return OnDevices(host_batches, mesh), steps

    return make_data
