"""The losses where `python -m parity` does not compare them with torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from vitjax.step.losses import LOSSES, balanced_weights, check_class_weights


def test_mse_and_the_mean_of_each_loss():
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(2, 6, 5)), jnp.float32)
    for name, loss in LOSSES.items():
        each = loss(logits=logits, labels=labels, reduction=False)
        mean = loss(logits=logits, labels=labels)
        assert each.shape == (6,)
        assert mean.shape == ()
        np.testing.assert_allclose(mean, each.mean(), rtol=1e-6, err_msg=name)
        if name == "mse":
            expected = (np.subtract(logits, labels, dtype=float) ** 2).mean(-1)
            np.testing.assert_allclose(each, expected, rtol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_losses_are_torchs(smoothing):
    """Of label distributions, as mixup makes them: torch divides by the examples too.

    With classes instead, torch divides by the sum of their weights.
    """
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)), rng.dirichlet(np.ones(5), 6)
    classes, weights = rng.integers(0, 5, 6), np.array([0.0, 0.5, 1.0, 2.0, 7.0])
    x, y, w = (torch.tensor(value) for value in (logits, labels, weights))
    smooth = (1 - smoothing) * y + smoothing / 5
    functional = torch.nn.functional
    softmax = functional.cross_entropy(x, y, weight=w, label_smoothing=smoothing)
    sigmoid = functional.binary_cross_entropy_with_logits(
        x, smooth, weight=w, reduction="sum"
    )
    expected = {"softmax_xent": softmax, "sigmoid_xent": sigmoid / 6}
    expected["mse"] = (w * (x - smooth) ** 2).mean()
    given = {"logits": jnp.asarray(logits, jnp.float32)}
    given |= {"class_weights": weights.tolist()}
    for name, value in expected.items():
        soft = given | {"labels": jnp.asarray(labels, jnp.float32)}
        found = LOSSES[name](**soft, label_smoothing=smoothing)
        np.testing.assert_allclose(found, value, rtol=1e-5, err_msg=name)
    hard = LOSSES["softmax_xent"](**given, labels=jnp.eye(5)[classes])
    by_class = functional.cross_entropy(x, torch.tensor(classes), weight=w)
    np.testing.assert_allclose(hard, by_class * weights[classes].sum() / 6, rtol=1e-5)


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 3], [50, 7, 3])
    found = balanced_weights(labels, 5)
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    np.testing.assert_allclose([found[k] for k in (0, 1, 3)], expected)
    assert np.mean(np.array(found)[labels]) == pytest.approx(1)
    assert found[2] == found[4] == 1
    for wrong in ([1.0] * 4, [-1.0, 1, 1, 1, 1], [0.0] * 5, [float("nan")] * 5):
        with pytest.raises(
            ValueError, match="class_weights must be 'balanced' or a list of 5"
        ):
            check_class_weights(wrong, 5)


@pytest.mark.parametrize("name", ["softmax_xent", "sigmoid_xent"])
def test_extreme_logits_stay_finite(name):
    logits = jnp.asarray([[1e4, -1e4, 0.0]])
    right, wrong = jnp.asarray([[1.0, 0, 0]]), jnp.asarray([[0, 1.0, 0]])
    # sigmoid: class 2 alone costs ln 2 at logit 0.
    rest = np.log(2) if name == "sigmoid_xent" else 0
    grad = jax.grad(lambda x: LOSSES[name](logits=x, labels=wrong))(logits)
    assert np.isfinite(grad).all()
    for labels, expected, rtol in ((right, rest, 1e-6), (wrong, 2e4, 1e-4)):
        found = LOSSES[name](logits=logits, labels=labels)
        np.testing.assert_allclose(found, expected, rtol=rtol)


def test_wrong_labels_are_refused():
    logits = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"integer labels need onehot"):
        LOSSES["softmax_xent"](logits=logits, labels=jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\]"):
        LOSSES["sigmoid_xent"](logits=logits, labels=logits, label_smoothing=2.0)
