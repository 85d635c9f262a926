"""The classification evaluator against a count in numpy.

`python -m parity` compares it with torch where each example has one label.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.evaluators import CLASSES, make_data, predict, rows_of
from vitjax.devices.sharding import replicated
from vitjax.evaluators import EVALUATORS
from vitjax.tools.predictions import Predictions, summary


def make(rows, mesh, batch_size=8, predict=predict, **kw):
    data = {"name": "val"}
    return EVALUATORS["classification"](
        predict, make_data({"val": rows}, mesh), mesh, data=data, batch_size=batch_size,
        **kw,
    )  # fmt: skip


def expected(rows, scale=2.0):
    keep = rows["labels"].max(1) > 0
    logits = scale * rows["image"][keep].reshape(keep.sum(), -1).astype(np.float64)
    labels = rows["labels"][keep]
    order = np.argsort(-logits, axis=1)
    hit = np.take_along_axis(labels, order[:, :5], axis=1)
    loss = (np.log1p(np.exp(logits)) - labels * logits).sum(1)
    return {
        "prec@1": hit[:, 0].mean(),
        "prec@5": hit.max(1).mean(),
        "loss": loss.mean(),
    }


@pytest.mark.parametrize(("size", "batch_size"), [(1, 8), (50, 16)])
def test_multi_labels_count_any_and_examples_without_labels_do_not(
    mesh, size, batch_size
):
    """Each example counts once, whatever the batch; nothing waits for the host."""
    rows = rows_of(size, seed=3, multi=True)
    if size > 1:
        assert {0, 2} <= set(rows["labels"].sum(1))
    evaluator = make(rows, mesh, batch_size)
    state = jax.device_put(np.float32(2.0), replicated(mesh))
    with jax.transfer_guard("disallow"):
        got = dict(evaluator.run(state))
    assert got == pytest.approx(expected(rows), rel=1e-6)


def test_examples_are_the_rows_of_the_set_in_order(mesh):
    rows = rows_of(20, multi=True)
    found = list(make(rows, mesh).examples(jnp.float32(2.0)))
    assert [len(batch["prec@1"]) for batch in found] == [8, 8, 8]
    for i in range(20):
        alone = {k: v[i : i + 1] for k, v in rows.items()}
        row = {k: float(v[i % 8]) for k, v in found[i // 8].items()}
        assert row.pop("seen") == rows["labels"][i].max()
        if rows["labels"][i].max():
            assert row == pytest.approx(expected(alone), rel=1e-5)
        else:
            assert set(row.values()) == {0}
    assert all((x[4:] == 0).all() for x in found[2].values())


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_there_is_no_prec_5_of_five_classes(mesh, classes, there):
    """It would always be 1."""

    def few(state, image):
        logits, out = predict(state, image)
        return logits[:, :classes], out

    rows = rows_of(60)
    rows["labels"] = rows["labels"][:, :classes]
    found = dict(make(rows, mesh, 16, few).run(jnp.float32(1.0)))
    assert ("prec@5" in found) is there
    assert len(found) == 2 + there
    some = Predictions(rows["image"].reshape(60, -1)[:, :classes], rows["labels"], None)
    shown = summary(some, "sigmoid_xent")
    assert ("prec@5" in shown) is there


def test_padded_rows_may_give_losses_that_are_not_finite(mesh):
    def dividing(state, image):
        logits, out = predict(state, image)
        return logits / jnp.abs(image).max(axis=(1, 2, 3))[:, None], out

    evaluator = make(rows_of(10), mesh, 16, dividing, loss_name="softmax_xent")
    assert np.isfinite(dict(evaluator.run(jnp.float32(1.0)))["loss"])


def test_device_pp_makes_the_labels(mesh):
    rows = rows_of(20)
    numbers = {
        "image": rows["image"],
        "label": rows["labels"].argmax(1).astype(np.int32),
    }
    pp = f"onehot({CLASSES}, key='label', key_result='labels')"
    ours, plain = make(numbers, mesh, device_pp=pp), make(rows, mesh)
    assert dict(ours.run(2.0)) == dict(plain.run(2.0))


@pytest.mark.parametrize(
    ("kw", "labels", "dtype", "words"),
    [
        ({}, 0, float, "no example with a label"),
        ({"loss_name": "softmax"}, 1, float, "'softmax_xent'"),
        (
            {"label_key": "lable"},
            1,
            float,
            "feature 'lable', but .* give image, labels",
        ),
        ({}, 1, np.uint8, "reach the model as uint8, unscaled: add value_range"),
    ],
)
def test_what_is_wrong_is_named(mesh, kw, labels, dtype, words):
    rows = rows_of(8)
    rows["labels"] *= labels
    rows["image"] = rows["image"].astype(dtype)
    with pytest.raises(ValueError, match=words):
        list(make(rows, mesh, **kw).run(jnp.float32(1)))
