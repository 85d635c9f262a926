"""The losses where `python -m parity` does not compare them with torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.step.losses import LOSSES


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
