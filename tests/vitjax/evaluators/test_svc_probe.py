"""The probe against scikit-learn's SVC, fitted by hand."""

import jax
import pytest
from sklearn.svm import SVC

from tests.helpers.evaluators import clouds, make_data, predict
from vitjax.evaluators import EVALUATORS


def probe(mesh, rows, **kw):
    kw = {"data": {"name": "val"}, "batch_size": 16, "feature": "code"} | kw
    return EVALUATORS["svc_probe"](predict, make_data(rows, mesh), mesh, **kw)


@pytest.mark.parametrize(("fitted_on", "steps"), [("val", 7), ("train", 7 + 5)])
def test_it_is_an_svc_on_the_features_without_the_padding(mesh, fitted_on, steps):
    """101 and 75 examples in batches of 16; the classes overlap."""
    rows = {"val": clouds(101, 1, 1.0), "train": clouds(75, 2, 1.0)}
    kw = {"fit_data": {"name": "train"}} if fitted_on == "train" else {}
    evaluator = probe(mesh, rows, **kw)
    assert evaluator.steps == steps
    xy = {
        name: (2 * r["image"].reshape(len(r["image"]), -1), r["labels"].argmax(1))
        for name, r in rows.items()
    }
    expected = SVC().fit(*xy[fitted_on]).score(*xy["val"])
    assert 0.2 < expected < 0.98
    [(name, found)] = evaluator.run(jax.numpy.float32(2.0))
    assert name == "accuracy"
    assert found == pytest.approx(expected, abs=0.011)  # float32 may turn one example


def test_an_unknown_feature_is_named(mesh):
    rows = {"val": clouds(20, 1, 1.0)}
    with pytest.raises(ValueError, match="has no output 'kode', only code"):
        list(probe(mesh, rows, feature="kode").run(1.0))
