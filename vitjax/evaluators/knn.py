"""Accuracy of the nearest neighbours in a model's features, weighted by their cosine.

Shapes: n examples, f features, m test examples, k neighbours.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitjax.evaluators.features import Probe

_CHUNK = 1 << 26  # similarities in memory at once


def knn_accuracy(
    x: Float[np.ndarray, "n f"],
    y: Int[np.ndarray, " n"],
    x_test: Float[np.ndarray, "m f"],
    y_test: Int[np.ndarray, " m"],
    k: int,
    temperature: float,
) -> float:
    """Return the test accuracy of the weighted vote of the k nearest rows of x.

    A neighbour's vote for its class has the weight exp(cosine / temperature) (Caron et
    al. 2021, https://arxiv.org/abs/2104.14294). Of equal classes, the first counts.
    """
    fit, test = _unit(x), _unit(x_test)
    classes, of = np.unique(y, return_inverse=True)
    rows = max(1, _CHUNK // len(fit))
    predicted = []
    for start in range(0, len(test), rows):
        cosine = test[start : start + rows] @ fit.T
        near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(cosine, near, axis=1).astype(np.float64)
        votes = np.zeros((len(cosine), len(classes)))
        # Less 1, so that no weight overflows.
        weights = np.exp((found - 1) / temperature)
        np.add.at(votes, (np.arange(len(cosine))[:, None], of[near]), weights)
        predicted.append(classes[votes.argmax(axis=1)])
    return float((np.concatenate(predicted) == y_test).mean())


def _unit(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    x = x.astype(np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(length, np.finfo(np.float32).tiny)


class Knn(Probe):
    """The accuracy on `data` of the nearest neighbours of `fit_data`."""

    def __init__(
        self, *args: Any, k: int = 20, temperature: float | int = 0.07, **kwargs: Any
    ):
        """Take the arguments of `Probe`, and those of `knn_accuracy`.

        The defaults are DINO's. Raises ValueError unless k is at least 1 and the
        temperature above 0.
        """
        if k < 1 or temperature <= 0:
            raise ValueError(
                "knn needs k of at least 1 and a temperature above 0, got "
                f"{k} and {temperature}"
            )
        super().__init__(*args, **kwargs)
        self._k, self._temperature = k, float(temperature)

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("accuracy", x). Raises ValueError for fewer than k neighbours."""
        (x, y), test = self.fit_and_test(state)
        if len(x) < self._k:
            raise ValueError(
                f"knn needs k={self._k} labelled examples or more in fit_data, got "
                f"{len(x)}: give a smaller k"
            )
        yield "accuracy", knn_accuracy(x, y, *test, self._k, self._temperature)
