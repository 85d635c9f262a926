"""Fit a support vector machine to a model's features, and score it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from vitjax.evaluators.classification import MakeData
from vitjax.evaluators.features import Features


class SvcProbe:
    """scikit-learn's SVC (rbf, C=1, gamma="scale") on an intermediate of the model.

    It is fitted on `fit_data` and scored on `data`. Without `fit_data`, it is fitted
    and scored on `data`, as in defgsus/nn-experiments. That is the accuracy on a
    training set, which is higher.
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
        label_key: str | None = None,
    ):
        """Open the data and define the jitted function; nothing runs yet.

        Args:
          predict, make_data, mesh, batch_size, pp_fn, device_pp: see `Classification`;
            they apply to both data sets.
          label_key: see `Features`.
          data: keyword arguments of the source whose examples are scored.
          fit_data: keyword arguments of the source to fit on; None means `data`. The
            time grows faster than the square of its size: 10,000 examples take seconds.
          feature: name of one of the model's intermediates, (b, f).
        """
        self._features = Features(
            predict,
            make_data,
            mesh,
            batch_size=batch_size,
            pp_fn=pp_fn,
            device_pp=device_pp,
            feature=feature,
            label_key=label_key,
        )
        sections = [data] if fit_data is None else [fit_data, data]
        made = self._features.open(*sections)
        self._batches = [batches for batches, _ in made]
        self.steps = sum(steps for _, steps in made)

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("accuracy", x), the fraction of examples classified correctly."""
        from sklearn.svm import SVC

        fit, *score = (self._features.of(state, batches) for batches in self._batches)
        probe = SVC().fit(*fit)
        yield "accuracy", float(probe.score(*(score[0] if score else fit)))
