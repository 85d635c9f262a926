"""How well a support vector machine reads the classes off a model's features."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from input_pipeline import device_ops
from vitjax.evaluators.classification import MakeData
from vitjax.sharding import replicated


class SvcProbe:
    """scikit-learn's SVC (rbf, C=1, gamma="scale") on an intermediate of the model.

    With `fit_data` it is fitted there and scored on `data`. Without, it is fitted on
    `data` and scored on the same examples, as defgsus/nn-experiments does: the accuracy of
    a training set, which is higher.
    """

    def __init__(
        self,
        predict: Callable[[Any, Array], tuple[Array, Any]],
        make_data: MakeData,
        mesh: Mesh,
        *,
        data: Mapping[str, Any],
        batch_size: int,
        fit_data: Mapping[str, Any] | None = None,
        pp_fn: str = "",
        device_pp: str = "",
        feature: str = "pre_logits",
        label_key: str = "labels",
    ):
        """Open the data and build the jitted step; nothing runs yet.

        Args:
          predict, make_data, mesh, batch_size, pp_fn, device_pp, label_key: as of
            `Classification`, for both data sets.
          data: keyword arguments of the source whose examples are scored.
          fit_data: those of the source that the machine is fitted on; None: `data`.
            Time grows faster than its square: 10,000 examples take seconds.
          feature: a name of the model's intermediates, (b, f).
        """
        preprocess = device_ops.get_preprocess_fn(device_pp)

        def features(state: Any, batch: Mapping[str, Array]) -> tuple[Array, ...]:
            rows = preprocess({k: v for k, v in batch.items() if k != "_mask"})
            _, out = predict(state, rows["image"])
            if feature not in out:
                raise ValueError(
                    f"feature: the model gives no {feature!r}; it gives "
                    f"{', '.join(sorted(out))}"
                )
            return out[feature], rows[label_key].argmax(axis=1), batch["_mask"]

        self._features = jax.jit(features, out_shardings=replicated(mesh))
        sections = [data] if fit_data is None else [fit_data, data]
        made = [make_data(data=d, pp_fn=pp_fn, batch_size=batch_size) for d in sections]
        self._batches = [batches for batches, _ in made]
        self.steps = sum(steps for _, steps in made)

    def run(self, state: Any):
        """Yield ("accuracy", x): the share of examples whose class it names."""
        from sklearn.svm import SVC

        fit, *score = (self._examples(state, batches) for batches in self._batches)
        probe = SVC().fit(*fit)
        yield "accuracy", float(probe.score(*(score[0] if score else fit)))

    def _examples(
        self, state: Any, batches: Any
    ) -> tuple[Float[np.ndarray, "n f"], Int[np.ndarray, " n"]]:
        rows = [jax.device_get(self._features(state, batch)) for batch in batches]
        x, y, mask = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return x[mask > 0], y[mask > 0]
