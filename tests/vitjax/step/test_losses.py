"""The losses against numpy in float64, with soft labels, extremes and smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.step.losses import LOSSES


def numpy_loss(name, logits, labels):
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    if name == "softmax_xent":
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -(labels * log_p).sum(-1)
    if name == "mse":
        return ((logits - labels) ** 2).mean(-1)
    p = 1 / (1 + np.exp(-logits))
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(-1)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype(np.float32) * 3
    eye = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 6)]
    return jnp.asarray(logits), jnp.asarray(0.7 * eye + 0.3 * np.roll(eye, 1, 0))


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_reduction(name, batch):
    logits, labels = batch
    expected = numpy_loss(name, logits, labels)
    each = LOSSES[name](logits=logits, labels=labels, reduction=False)
    # A few float32 roundings of terms below 30 in a sum of ten.
    np.testing.assert_allclose(each, expected, rtol=2e-6)
    mean = LOSSES[name](logits=logits, labels=labels)
    assert mean.shape == ()
    np.testing.assert_allclose(mean, expected.mean(), rtol=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_label_smoothing_mixes_in_the_uniform_distribution(name, batch):
    logits, labels = batch
    smooth = 0.9 * np.asarray(labels, np.float64) + 0.1 * np.full(5, 0.2)
    np.testing.assert_allclose(
        LOSSES[name](logits=logits, labels=labels, label_smoothing=0.1),
        numpy_loss(name, logits, smooth).mean(),
        rtol=2e-6,
    )


@pytest.mark.parametrize("classes", [10, 1000])
def test_zero_logits(classes):
    logits, labels = jnp.zeros((4, classes)), jnp.eye(4, classes)
    softmax = LOSSES["softmax_xent"](logits=logits, labels=labels)
    sigmoid = LOSSES["sigmoid_xent"](logits=logits, labels=labels)
    np.testing.assert_allclose(softmax, np.log(classes), rtol=3e-7)
    np.testing.assert_allclose(sigmoid, classes * np.log(2), rtol=3e-6)


@pytest.mark.parametrize("name", ["softmax_xent", "sigmoid_xent"])
def test_extreme_logits_stay_finite(name):
    logits = jnp.asarray([[1e4, -1e4, 0.0]])
    right, wrong = jnp.asarray([[1.0, 0, 0]]), jnp.asarray([[0, 1.0, 0]])
    # sigmoid: class 2 alone costs ln 2 at logit 0.
    rest = np.log(2) if name == "sigmoid_xent" else 0
    grad = jax.grad(lambda x: LOSSES[name](logits=x, labels=wrong))(logits)
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(
        LOSSES[name](logits=logits, labels=right), rest, rtol=1e-6
    )
    np.testing.assert_allclose(
        LOSSES[name](logits=logits, labels=wrong), 2e4, rtol=1e-4
    )


def test_wrong_labels_are_refused():
    logits = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"integer labels need onehot"):
        LOSSES["softmax_xent"](logits=logits, labels=jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\]"):
        LOSSES["sigmoid_xent"](logits=logits, labels=logits, label_smoothing=2.0)
