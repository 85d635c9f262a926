"""How well a support vector machine reads the classes off a model's features."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from vitjax.evaluators.classification import MakeData
from vitjax.evaluators.features import Features


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
        """Yield ("accuracy", x): the share of examples whose class it names."""
        from sklearn.svm import SVC

        fit, *score = (self._features.of(state, batches) for batches in self._batches)
        probe = SVC().fit(*fit)
        yield "accuracy", float(probe.score(*(score[0] if score else fit)))
