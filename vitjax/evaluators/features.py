"""A model's features of whole data sets, for probes that are fitted on the host.

Shapes: n examples, f features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from input_pipeline import device_ops
from vitjax.devices.sharding import replicated
from vitjax.evaluators.classification import MakeData


class Features:
    """One of the model's intermediates, (b, f), beside the labels."""

    def __init__(
        self,
        predict: Callable[[Any, Array], tuple[Array, Any]],
        make_data: MakeData,
        mesh: Mesh,
        *,
        batch_size: int,
        pp_fn: str,
        device_pp: str,
        feature: str,
        label_key: str,
    ):
        """The arguments are those of `Classification`; `feature` names the intermediate."""
        preprocess = device_ops.get_preprocess_fn(device_pp)

        def features(state: Any, batch: Mapping[str, Array]) -> tuple[Array, ...]:
            rows = preprocess({k: v for k, v in batch.items() if k != "_mask"})
            _, out = predict(state, rows["image"])
            if feature not in out:
                raise ValueError(
                    f"feature: the model gives no {feature!r}; it gives "
                    f"{', '.join(sorted(out))}"
                )
            labels = rows[label_key]
            seen = batch["_mask"] * (labels.max(axis=1) > 0)
            return out[feature], labels.argmax(axis=1), seen

        self._features = jax.jit(features, out_shardings=replicated(mesh))
        self._make = lambda data: make_data(
            data=data, pp_fn=pp_fn, batch_size=batch_size
        )

    def open(self, *sections: Mapping[str, Any]) -> list[tuple[Any, int]]:
        """The batches of each data section, and how many; nothing is read yet.

        Their classes need not be the model's, but the labels of all are those of the
        first, by name.
        """
        made, names = [], None
        for section in sections:
            given = {"match_classes": names} if "match_classes" not in section else {}
            made.append(self._make({**section, **given}))
            names = getattr(made[0][0], "class_names", None)
        return made

    def of(
        self, state: Any, batches: Any
    ) -> tuple[Float[np.ndarray, "n f"], Int[np.ndarray, " n"]]:
        """Features and classes of every example with a label, of what `open` gave."""
        rows = [jax.device_get(self._features(state, batch)) for batch in batches]
        x, y, mask = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return x[mask > 0], y[mask > 0]
