"""Losses over (possibly soft) label distributions.

`class_weights` multiply each class's term, after smoothing. A mean is over the examples:
it is not divided by the weights, so that a batch in parts has the loss of the whole.

Shapes: b leading (batch) dims, c classes; labels have the shape of the logits.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from input_pipeline import parts
from vitjax.config import names


def softmax_xent(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
    class_weights: Sequence[int | float] | None = None,
) -> Float[Array, "..."]:
    """Return the cross-entropy -sum(labels * log_softmax(logits)), in nats.

    `labels` are one-hot, multi-hot or mixed rows; they need not sum to one.
    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    terms = _weighted(labels * jax.nn.log_softmax(logits), class_weights)
    xent = -jnp.sum(terms, axis=-1)
    return jnp.mean(xent) if reduction else xent


def sigmoid_xent(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
    class_weights: Sequence[int | float] | None = None,
) -> Float[Array, "..."]:
    """Return the binary cross-entropy of each class, summed over the classes.

    It is a sum, not a mean: 1000 ln 2 for 1000 classes and zero logits (big_vision).
    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    log_p = jax.nn.log_sigmoid(logits)
    log_not_p = jax.nn.log_sigmoid(-logits)
    terms = labels * log_p + (1 - labels) * log_not_p
    xent = -jnp.sum(_weighted(terms, class_weights), axis=-1)
    return jnp.mean(xent) if reduction else xent


def mse(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
    class_weights: Sequence[int | float] | None = None,
) -> Float[Array, "..."]:
    """Return the squared difference of logits and labels, averaged over the classes.

    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    terms = jnp.square(logits - labels)
    error = jnp.mean(_weighted(terms, class_weights), axis=-1)
    return jnp.mean(error) if reduction else error


def find_loss(name: str) -> Callable[..., Array]:
    """Return a loss that is called as `softmax_xent` is: of LOSSES, or a person's own.

    A person's own, of a dotted name, is a function of `logits` and `labels` (b c) that
    returns one value per example (b,). The labels are smoothed before it, and the mean
    is taken after it. Raises ValueError if there is no such loss, or it returns another
    shape.
    """
    found = names.find(LOSSES, name, "losses")
    if not parts.is_dotted(name):
        return found
    rows = jax.ShapeDtypeStruct((2, 3), jnp.float32)

    def checked(logits: Array, labels: Array) -> Array:
        with parts.explained(f"the loss {name!r}"):
            return found(logits=logits, labels=labels)

    try:
        out = jax.eval_shape(checked, rows, rows)
    except TypeError as error:
        raise ValueError(
            f"the loss {name!r} must be a function of logits and labels: {error}"
        ) from error
    if getattr(out, "shape", None) != (2,):
        raise ValueError(
            f"the loss {name!r} must return one value per example, of shape (b,) for "
            f"logits (b, classes), got {getattr(out, 'shape', out)} for (2, 3)"
        )

    def own(
        *,
        logits: Float[Array, "b c"],
        labels: Num[Array, "b c"],
        reduction: bool = True,
        label_smoothing: float | int = 0.0,
        class_weights: Sequence[int | float] | None = None,
    ) -> Float[Array, "..."]:
        if class_weights is not None:
            raise ValueError(
                f"class_weights need one of {', '.join(LOSSES)}, whose terms they weigh, "
                f"got the loss {name!r}"
            )
        labels = _smooth(logits, labels, label_smoothing)
        value = checked(logits, labels)
        return jnp.mean(value) if reduction else value

    return own


LOSSES = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent, "mse": mse}


def _weighted(terms, class_weights):
    if class_weights is None:
        return terms
    weights = np.asarray(class_weights, terms.dtype)
    return terms * weights.reshape((1,) * (terms.ndim - 1) + (-1,))


def _smooth(logits, labels, label_smoothing):
    """Mix labels with the uniform distribution, by `label_smoothing` in [0, 1]."""
    if logits.shape != labels.shape:
        raise ValueError(
            f"labels must have the logits' shape {logits.shape}, got {labels.shape}; "
            "integer labels need onehot first"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    if not label_smoothing:
        return labels
    return (1 - label_smoothing) * labels + label_smoothing / labels.shape[-1]


def check_class_weights(weights: Sequence[int | float], num_classes: int) -> None:
    """Raise ValueError unless there is one finite weight, at least 0, for each class."""
    good = all(math.isfinite(x) and x >= 0 for x in weights) and any(weights)
    if len(weights) != num_classes or not good:
        raise ValueError(
            f"class_weights must be 'balanced' or a list of {num_classes} numbers, one "
            f"for each class, at least 0 and not all 0, got {list(weights)}"
        )


def balanced_weights(labels: Int[np.ndarray, " n"], num_classes: int) -> list[float]:
    """Return the weights n / (classes that occur * examples of the class).

    Their mean over the examples is 1. A class without examples has the weight 1.
    """
    counts = np.bincount(labels, minlength=num_classes)
    occur = np.count_nonzero(counts)
    return np.where(counts, len(labels) / (occur * np.maximum(counts, 1)), 1.0).tolist()
