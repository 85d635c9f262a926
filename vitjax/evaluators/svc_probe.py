"""Fit a support vector machine to a model's features, and score it."""

from collections.abc import Iterator, Mapping
from typing import Any

from vitjax.evaluators.features import Probe


class SvcProbe(Probe):
    """scikit-learn's SVC (rbf, C=1, gamma="scale") on an intermediate of the model.

    It is fitted on `fit_data` and scored on `data`. Without `fit_data`, it is fitted
    and scored on `data`, as in defgsus/nn-experiments. That is the accuracy on a
    training set, which is higher.
    """

    def __init__(
        self,
        *args: Any,
        data: Mapping[str, Any],
        fit_data: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Take the arguments of `Probe`; without `fit_data`, it is `data`.

        The time grows faster than the square of its size: 10,000 examples take seconds.
        """
        super().__init__(
            *args, data=data, fit_data=data if fit_data is None else fit_data, **kwargs
        )

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("accuracy", x), the fraction of examples classified correctly."""
        from sklearn.svm import SVC

        fit, test = self.fit_and_test(state)
        yield "accuracy", float(SVC().fit(*fit).score(*test))
