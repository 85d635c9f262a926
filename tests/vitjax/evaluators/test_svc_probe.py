"""The probe beside scikit-learn's SVC, fitted by hand."""

import jax
import numpy as np
import pytest
from sklearn.svm import SVC

from tests.vitjax.evaluators.test_classification import make_data, rows_of
from vitjax.evaluators import EVALUATORS


def predict(state, image):
    return image.sum(), {"code": state * image.reshape(len(image), -1)}


def probe(mesh, rows, **kw):
    """`make_data` that looks its rows up under the data set's name."""

    def make(*, data, **given):
        return make_data(rows[data["name"]], mesh)(data=data, **given)

    kw = {"data": {"name": "val"}, "batch_size": 16, "feature": "code"} | kw
    return EVALUATORS["svc_probe"](predict, make, mesh, **kw)


def classes(size, seed, apart):
    """Gaussian clouds around twelve centres."""
    rows = rows_of(size, seed)
    centres = np.random.default_rng(9).normal(size=(12, 2, 2, 3))
    rows["image"] += (apart * centres[rows["labels"].argmax(1)]).astype(np.float32)
    return rows


def test_separable_classes_are_all_told_apart(mesh):
    rows = {"val": classes(100, 1, 20.0), "train": classes(100, 2, 20.0)}
    for kw in ({}, {"fit_data": {"name": "train"}}):
        assert dict(probe(mesh, rows, **kw).run(2.0)) == {"accuracy": 1.0}


@pytest.mark.parametrize("fitted_on", ["val", "train"])
def test_it_is_an_svc_on_the_features_without_what_fills_up(mesh, fitted_on):
    """101 and 75 examples in batches of 16; the classes overlap."""
    rows = {"val": classes(101, 1, 1.0), "train": classes(75, 2, 1.0)}
    kw = {"fit_data": {"name": "train"}} if fitted_on == "train" else {}
    evaluator = probe(mesh, rows, **kw)
    assert evaluator.steps == (7 if fitted_on == "val" else 7 + 5)
    xy = {
        name: (2 * r["image"].reshape(len(r["image"]), -1), r["labels"].argmax(1))
        for name, r in rows.items()
    }
    expected = SVC().fit(*xy[fitted_on]).score(*xy["val"])
    assert 0.2 < expected < 0.98
    [(name, found)] = evaluator.run(jax.numpy.float32(2.0))
    assert name == "accuracy"
    assert found == pytest.approx(expected, abs=0.011)  # of float32, one example


def test_an_unknown_feature_is_named(mesh):
    rows = {"val": classes(20, 1, 1.0)}
    with pytest.raises(ValueError, match="gives no 'kode'; it gives code"):
        list(probe(mesh, rows, feature="kode").run(1.0))
