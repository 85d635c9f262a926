"""Metrics of a classifier's predictions: overall, per class, and calibration.

Shapes: n examples, k classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num

from vitjax.step.losses import find_loss

ECE_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Logits and labels of every example; labels are one-hot or (ReaL) multi-hot."""

    logits: Float[np.ndarray, "n k"]
    labels: Num[np.ndarray, "n k"]
    class_names: Sequence[str] | None = None

    def __post_init__(self):
        if self.logits.shape != self.labels.shape or not len(self.logits):
            raise ValueError(
                f"logits and labels must have the same shape, with a row or more, got "
                f"{self.logits.shape} and {self.labels.shape}"
            )

    @property
    def names(self) -> list[str]:
        """The classes' names, and the numbers of classes without one."""
        named = list(self.class_names or ())
        return named + [str(k) for k in range(len(named), self.logits.shape[1])]

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The class of the largest logit."""
        return self.logits.argmax(axis=1)

    @property
    def true(self) -> Int[np.ndarray, " n"]:
        """The label; of several, the predicted one if it is a label, else the first."""
        rows = np.arange(len(self.labels))
        hit = self.labels[rows, self.predicted] > 0
        return np.where(hit, self.predicted, (self.labels > 0).argmax(axis=1))

    def hits(self, k: int = 1) -> np.ndarray:
        """Return bool[n]: True if one of the k largest logits belongs to a label.

        Among equal logits the first counts, as in `jax.lax.top_k`.
        """
        top = np.argsort(-self.logits, axis=1, kind="stable")[:, :k]
        return np.any(np.take_along_axis(self.labels, top, axis=1) > 0, axis=1)

    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """Return the softmax of the logits in float64, for any loss."""
        logits = self.logits.astype(np.float64)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def summary(predictions: Predictions, loss_name: str) -> dict[str, float]:
    """Compute prec@1, prec@5, loss, ece, macro_f1 and the number of examples.

    There is no prec@5 for five classes or fewer, where it is always 1.
    """
    loss_of = find_loss(loss_name)
    logits, labels = (jnp.asarray(x) for x in (predictions.logits, predictions.labels))
    report = classification_report(predictions)
    several = predictions.logits.shape[1] > 5
    return {
        "prec@1": float(predictions.hits(1).mean()),
        **({"prec@5": float(predictions.hits(5).mean())} if several else {}),
        "loss": float(loss_of(logits=logits, labels=labels)),
        "ece": calibration(predictions)[0],
        "macro_f1": report["macro avg"]["f1-score"],
        "examples": len(predictions.logits),
    }


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Return each class's name, number of examples and accuracy.

    `accuracy` is None for a class without examples. `Predictions.true` chooses among
    several labels.
    """
    true, hits = predictions.true, predictions.hits(1)
    rows = []
    for k, name in enumerate(predictions.names):
        own = hits[true == k]
        accuracy = float(own.mean()) if len(own) else None
        rows.append({"class": name, "examples": len(own), "accuracy": accuracy})
    return rows


def confusion(predictions: Predictions) -> Int[np.ndarray, "k k"]:
    """Count the examples of each true class (row) by predicted class (column)."""
    from sklearn.metrics import confusion_matrix

    classes = np.arange(predictions.logits.shape[1])
    return confusion_matrix(predictions.true, predictions.predicted, labels=classes)


def classification_report(predictions: Predictions) -> Mapping[str, Any]:
    """Return scikit-learn's report: precision, recall and F1 per class, and averages.

    Classes without examples are left out.
    """
    from sklearn import metrics

    make: Any = metrics.classification_report
    there = np.unique(predictions.true)
    return make(
        predictions.true,
        predictions.predicted,
        labels=there,
        target_names=[predictions.names[k] for k in there],
        output_dict=True,
        zero_division=0,
    )


def calibration(
    predictions: Predictions, bins: int = ECE_BINS
) -> tuple[float, list[dict[str, float]]]:
    """Return the expected calibration error, and its equal-width bins with examples.

    The error is the mean over the examples of |accuracy - mean confidence| of their
    bin; confidence is the largest probability (https://arxiv.org/abs/1706.04599).
    """
    confidence, hits = predictions.probabilities().max(axis=1), predictions.hits(1)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    rows, error = [], 0.0
    for i in np.unique(bin_of):
        own = bin_of == i
        row = {
            "confidence": float(confidence[own].mean()),
            "accuracy": float(hits[own].mean()),
            "examples": int(own.sum()),
        }
        error += row["examples"] * abs(row["accuracy"] - row["confidence"])
        rows.append(row)
    return error / len(hits), rows
