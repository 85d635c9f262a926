"""Losses over (possibly soft) label distributions.

Shapes: b leading (batch) dims, c classes; labels have the shape of the logits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def softmax_xent(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
) -> Float[Array, "..."]:
    """Return the cross-entropy -sum(labels * log_softmax(logits)), in nats.

    `labels` are one-hot, multi-hot or mixed rows; they need not sum to one.
    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    xent = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)
    return jnp.mean(xent) if reduction else xent


def sigmoid_xent(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
) -> Float[Array, "..."]:
    """Return the binary cross-entropy of each class, summed over the classes.

    It is a sum, not a mean: 1000 ln 2 for 1000 classes and zero logits (big_vision).
    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    log_p = jax.nn.log_sigmoid(logits)
    log_not_p = jax.nn.log_sigmoid(-logits)
    xent = -jnp.sum(labels * log_p + (1 - labels) * log_not_p, axis=-1)
    return jnp.mean(xent) if reduction else xent


def mse(
    *,
    logits: Float[Array, "*b c"],
    labels: Num[Array, "..."],
    reduction: bool = True,
    label_smoothing: float | int = 0.0,
) -> Float[Array, "..."]:
    """Return the squared difference of logits and labels, averaged over the classes.

    Returns the mean over the batch, or one value per example if not `reduction`.
    """
    labels = _smooth(logits, labels, label_smoothing)
    error = jnp.mean(jnp.square(logits - labels), axis=-1)
    return jnp.mean(error) if reduction else error


LOSSES = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent, "mse": mse}


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
