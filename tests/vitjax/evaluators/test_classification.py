"""The classification evaluator against a count in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.devices.sharding import batch_sharding, replicated
from vitjax.evaluators import EVALUATORS

CLASSES = 12


def make_data(rows, mesh):
    """A make_data of given rows: padded with zeros and masked, as the pipeline does."""

    def function(*, data, pp_fn, batch_size):
        del data, pp_fn
        size = len(rows["image"])
        steps = -(-size // batch_size)

        class Batches:
            def __iter__(self):
                for i in range(steps):
                    cut = {k: v[i * batch_size :][:batch_size] for k, v in rows.items()}
                    cut["_mask"] = np.ones(len(cut["image"]), np.float32)
                    pad = batch_size - len(cut["image"])
                    padded = {
                        k: np.pad(v, [(0, pad)] + [(0, 0)] * (v.ndim - 1))
                        for k, v in cut.items()
                    }
                    yield jax.device_put(padded, batch_sharding(mesh))

        return Batches(), steps

    return function


def predict(state, image):
    """Logits that numpy can compute too: the first CLASSES pixels."""
    return state * image.reshape(len(image), -1)[:, :CLASSES], {}


def rows_of(size, seed=0, multi=False):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, 2, 2, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, size)]
    if multi:
        labels = (rng.random((size, CLASSES)) < 0.15).astype(np.float32)
    return {"image": image, "labels": labels}


def expected(rows, scale, loss_name):
    keep = rows["labels"].max(1) > 0
    logits = scale * rows["image"][keep].reshape(keep.sum(), -1).astype(np.float64)
    labels = rows["labels"][keep]
    order = np.argsort(-logits, axis=1)
    hit = np.take_along_axis(labels, order[:, :5], axis=1)
    if loss_name == "softmax_xent":
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -(labels * logp).sum(1)
    else:
        loss = (np.log1p(np.exp(logits)) - labels * logits).sum(1)
    return {
        "prec@1": hit[:, 0].mean(),
        "prec@5": hit.max(1).mean(),
        "loss": loss.mean(),
    }


def run(rows, mesh, batch_size, scale=2.0, **kwargs):
    evaluator = EVALUATORS["classification"](
        predict, make_data(rows, mesh), mesh, data={}, batch_size=batch_size, **kwargs
    )
    return dict(evaluator.run(jnp.float32(scale)))


@pytest.mark.parametrize("size", [1, 16, 50, 64])
@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_every_example_counts_once_whatever_the_batch(mesh, size, batch_size):
    """50 examples at batch 16 divide by 50, not by 64."""
    rows = rows_of(size)
    got = run(rows, mesh, batch_size, loss_name="softmax_xent")
    for name, value in expected(rows, 2.0, "softmax_xent").items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
    assert got["prec@1"] * size == pytest.approx(round(got["prec@1"] * size), abs=1e-9)


def test_multi_labels_count_any_and_examples_without_labels_do_not(mesh):
    rows = rows_of(50, multi=True)
    assert (rows["labels"].sum(1) == 0).any()
    assert (rows["labels"].sum(1) > 1).any()
    got = run(rows, mesh, 16, loss_name="sigmoid_xent")
    for name, value in expected(rows, 2.0, "sigmoid_xent").items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


def test_examples_are_the_rows_of_the_set_in_order(mesh):
    rows = rows_of(20, multi=True)
    evaluator = EVALUATORS["classification"](
        predict, make_data(rows, mesh), mesh, data={}, batch_size=8
    )
    found = list(evaluator.examples(jnp.float32(2.0)))
    assert [len(batch["prec@1"]) for batch in found] == [8, 8, 8]
    for i in range(20):
        alone = {k: v[i : i + 1] for k, v in rows.items()}
        row = {k: float(v[i % 8]) for k, v in found[i // 8].items()}
        assert row.pop("seen") == rows["labels"][i].max()
        if rows["labels"][i].max():
            assert row == pytest.approx(expected(alone, 2.0, "sigmoid_xent"), rel=1e-5)
        else:
            assert set(row.values()) == {0}
    assert all((x[4:] == 0).all() for x in found[2].values())


def test_padded_rows_may_give_losses_that_are_not_finite(mesh):
    def dividing(state, image):
        logits, out = predict(state, image)
        return logits / jnp.abs(image).max(axis=(1, 2, 3))[:, None], out

    rows = rows_of(10)
    evaluator = EVALUATORS["classification"](
        dividing,
        make_data(rows, mesh),
        mesh,
        data={},
        batch_size=16,
        loss_name="softmax_xent",
    )
    assert np.isfinite(dict(evaluator.run(jnp.float32(1.0)))["loss"])


def test_device_pp_makes_the_labels(mesh):
    rows = rows_of(20)
    label = rows["labels"].argmax(1).astype(np.int32)
    got = run(
        {"image": rows["image"], "label": label},
        mesh,
        8,
        loss_name="softmax_xent",
        device_pp=f"onehot({CLASSES}, key='label', key_result='labels')",
    )
    assert got == run(rows, mesh, 8, loss_name="softmax_xent")


def test_few_classes_and_no_labels(mesh):
    rows = rows_of(8)
    rows["labels"][:] = 0
    with pytest.raises(ValueError, match="no example with a label"):
        run(rows, mesh, 8)


def test_unknown_losses_are_named(mesh):
    with pytest.raises(ValueError, match="'softmax_xent'"):
        run(rows_of(8), mesh, 8, loss_name="softmax")


def test_the_run_works_under_the_transfer_guard(mesh):
    evaluator = EVALUATORS["classification"](
        predict, make_data(rows_of(20), mesh), mesh, data={}, batch_size=8
    )
    state = jax.device_put(np.float32(1.0), replicated(mesh))
    with jax.transfer_guard("disallow"):
        assert len(list(evaluator.run(state))) == 3


def test_a_feature_that_is_not_there_is_named(mesh):
    evaluator = EVALUATORS["classification"](
        predict,
        make_data(rows_of(8), mesh),
        mesh,
        data={},
        batch_size=8,
        label_key="lable",
    )
    with pytest.raises(
        ValueError, match=r"feature 'lable', but .* leave image, labels"
    ):
        list(evaluator.run(jnp.float32(1)))
