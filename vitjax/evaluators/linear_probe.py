"""Accuracy of a logistic regression on a model's features, with a chosen penalty.

Shapes: n examples, f features, m test examples.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitjax.evaluators.features import Probe, standardiser

HELD_OUT = 0.2  # the part of fit_data that chooses the penalty


def choose_and_score(
    x: Float[np.ndarray, "n f"],
    y: Int[np.ndarray, " n"],
    x_test: Float[np.ndarray, "m f"],
    y_test: Int[np.ndarray, " m"],
    penalties: Sequence[float],
) -> tuple[float, float]:
    """Return (test accuracy, penalty) of a logistic regression on standardised features.

    The penalty has the best accuracy on a random fifth of the rows after a fit on the
    others; of equal ones, the largest. The regression is then fitted on all rows.
    Raises ValueError for fewer than 5 rows or two classes.
    """
    if len(x) < 5 or len(np.unique(y)) < 2:
        raise ValueError(
            "linear_probe needs 5 labelled examples of two classes or more in fit_data, "
            f"got {len(x)} of {len(np.unique(y))}"
        )
    order = np.random.default_rng(0).permutation(len(x))
    held, rest = np.split(order, [max(1, int(HELD_OUT * len(x)))])
    best, accuracy = max(penalties), 0.0
    if len(penalties) > 1 and len(np.unique(y[rest])) > 1:
        for penalty in sorted(penalties, reverse=True):
            found = _accuracy(x[rest], y[rest], x[held], y[held], penalty)
            if found > accuracy:
                best, accuracy = penalty, found
    return _accuracy(x, y, x_test, y_test, best), best


def _accuracy(
    x: Float[np.ndarray, "n f"],
    y: Int[np.ndarray, " n"],
    x_test: Float[np.ndarray, "m f"],
    y_test: Int[np.ndarray, " m"],
    penalty: float,
) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    standard = standardiser(x)
    regression = LogisticRegression(C=1 / penalty, max_iter=1000)
    with warnings.catch_warnings():
        # Its accuracy is the result, whether or not the last digits have settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(standard(x), y)
    return float(regression.score(standard(x_test), y_test))


class LinearProbe(Probe):
    """The accuracy on `data` of scikit-learn's LogisticRegression fitted on `fit_data`."""

    def __init__(
        self,
        *args: Any,
        l2_regs: Sequence[float | int] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4),
        **kwargs: Any,
    ):
        """Take the arguments of `Probe`, and `l2_regs`.

        `l2_regs` are penalties to choose from, scikit-learn's 1 / C. The time grows with
        examples, features and classes: 10,000 examples of 10 classes take seconds.
        Raises ValueError unless there are penalties, all above 0.
        """
        if not l2_regs or min(l2_regs) <= 0:
            raise ValueError(f"linear_probe needs l2_regs above 0, got {list(l2_regs)}")
        super().__init__(*args, **kwargs)
        self._penalties = [float(x) for x in l2_regs]

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("accuracy", x) and ("l2_reg", the chosen penalty)."""
        fit, test = self.fit_and_test(state)
        accuracy, penalty = choose_and_score(*fit, *test, self._penalties)
        yield "accuracy", accuracy
        yield "l2_reg", penalty
