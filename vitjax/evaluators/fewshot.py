"""Few-shot accuracy: fit a linear map of frozen features to a few examples.

Shapes: n examples, f features, k classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitjax.evaluators.features import Probe, standardiser

BIAS = 100.0  # a constant feature, so large that its weight is hardly penalised


def ridge_accuracy(
    x: Float[np.ndarray, "n f"],
    y: Int[np.ndarray, " n"],
    x_test: Float[np.ndarray, "m f"],
    y_test: Int[np.ndarray, " m"],
    l2_reg: float,
) -> float:
    """Return the test accuracy of the ridge regression from x to y, in float64.

    Features are shifted and scaled to mean 0 and standard deviation 1 over `x`, and the
    constant feature BIAS is added. Targets are 1 for the class and -1 for the others
    (big_vision's fewshot_lsr).
    """
    from sklearn.linear_model import Ridge

    standard = standardiser(x)

    def white(rows: np.ndarray) -> np.ndarray:
        return np.pad(standard(rows), ((0, 0), (0, 1)), constant_values=BIAS)

    classes = np.unique(np.concatenate([y, y_test]))
    targets = np.where(y[:, None] == classes, 1.0, -1.0)
    ridge = Ridge(alpha=l2_reg, fit_intercept=False, solver="cholesky")
    scores = ridge.fit(white(x), targets).predict(white(x_test))
    return float((classes[scores.argmax(axis=1)] == y_test).mean())


def few_of_each(
    y: Int[np.ndarray, " n"], shots: int, seed: int
) -> Int[np.ndarray, " m"]:
    """Return the indices of `shots` random examples of each class, or all if fewer.

    With one seed, the examples of fewer shots are a subset of those of more shots.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    chosen = [order[y[order] == k][:shots] for k in np.unique(y)]
    return np.concatenate(chosen)


class FewShot(Probe):
    """The accuracy on `data` of a ridge regression on a few examples of `fit_data`."""

    def __init__(
        self,
        *args: Any,
        shots: Sequence[int] = (1, 5, 10, 25),
        num_seeds: int = 3,
        l2_reg: float | int = 2.0**10,
        **kwargs: Any,
    ):
        """Take the arguments of `Probe`, and those of the regressions.

        Args:
          shots: examples per class. num_seeds: random choices to average over.
          l2_reg: the penalty of the ridge regression.

        The defaults of shots, seeds, penalty and feature are big_vision's
        (configs/common_fewshot.py). Raises ValueError if `shots` is empty, or a number
        of shots or seeds is below 1.
        """
        if not shots or min(shots) < 1 or num_seeds < 1:
            raise ValueError(
                "fewshot needs shots and num_seeds of at least 1, got "
                f"{list(shots)} and {num_seeds}"
            )
        super().__init__(*args, **kwargs)
        self._shots, self._num_seeds, self._l2_reg = shots, num_seeds, float(l2_reg)

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("10shot", mean accuracy) for each of `shots`."""
        (x, y), test = self.fit_and_test(state)
        for shots in self._shots:
            found = []
            for seed in range(self._num_seeds):
                rows = few_of_each(y, shots, seed)
                found.append(ridge_accuracy(x[rows], y[rows], *test, self._l2_reg))
            yield f"{shots}shot", float(np.mean(found))
