"""The probe against scikit-learn's SVC, fitted by hand."""

import jax
import numpy as np
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


def test_the_datas_own_classes_count_and_not_the_models(mesh):
    """Classes 5 to 11 of a model of five: its one-hot labels would lose them."""
    rows = clouds(101, 1, 2.0)
    label = rows.pop("labels").argmax(1)
    onehot = "onehot(5, key='label', key_result='labels')|keep('image', 'labels')"
    given = {"val": {**rows, "label": label}}
    flat = rows["image"].reshape(101, -1)
    expected = SVC().fit(flat, label).score(flat, label)
    [(_, found)] = probe(mesh, given, device_pp=onehot).run(jax.numpy.float32(1.0))
    assert found == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            {"image": np.zeros((4, 2, 2, 3), np.float32)},
            "give image, but a probe needs",
        ),
        (
            {"image": np.zeros((4, 2, 2, 3), np.uint8), "label": np.zeros(4, int)},
            "reach the model as uint8, unscaled: add value_range",
        ),
    ],
)
def test_a_missing_part_of_the_input_is_one_sentence(mesh, rows, words):
    with pytest.raises(ValueError, match=words):
        list(probe(mesh, {"val": rows}).run(1.0))
