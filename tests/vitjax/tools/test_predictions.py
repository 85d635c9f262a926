"""Accuracy per class, confusion, calibration: by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from vitjax.tools import predictions
from vitjax.tools.predictions import Predictions

RNG = np.random.default_rng(0)
truth = RNG.integers(0, 6, 400)
LOGITS = (RNG.normal(size=(400, 6)) + 2 * np.eye(6)[truth]).astype(np.float32)
NAMES = ["a", "b", "c", "d", "e", "f"]
SOME = Predictions(LOGITS, np.eye(6, dtype=np.float32)[truth], NAMES)


def test_the_summary_is_scikit_learns():
    found = predictions.summary(SOME, "softmax_xent")
    probs = SOME.probabilities()
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
    expected = {
        "prec@1": sk.accuracy_score(truth, LOGITS.argmax(1)),
        "prec@5": sk.top_k_accuracy_score(truth, LOGITS, k=5),
        "loss": sk.log_loss(truth, probs),
        "macro_f1": sk.f1_score(truth, LOGITS.argmax(1), average="macro"),
        "examples": 400,
    }
    ece = found.pop("ece")
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["prec@5"] >= found["prec@1"]
    assert 0 < ece < 0.3


def test_classes_and_confusions_by_counting():
    hits = LOGITS.argmax(1) == truth
    for k, row in enumerate(predictions.per_class(SOME)):
        assert row["class"] == NAMES[k]
        assert row["examples"] == (truth == k).sum()
        assert row["accuracy"] == pytest.approx(hits[truth == k].mean())
    table = predictions.confusion(SOME)
    for i in range(6):
        for j in range(6):
            assert table[i, j] == ((truth == i) & (LOGITS.argmax(1) == j)).sum()
    report = predictions.classification_report(SOME)
    assert report["c"]["recall"] == pytest.approx(table[2, 2] / table[2].sum())
    assert report["c"]["precision"] == pytest.approx(table[2, 2] / table[:, 2].sum())


def test_a_class_without_examples_has_no_accuracy():
    few = Predictions(LOGITS[truth != 3], SOME.labels[truth != 3], None)
    row = predictions.per_class(few)[3]
    assert row == {"class": "3", "examples": 0, "accuracy": None}
    # It does not count as 0 in the mean over the classes.
    report = predictions.classification_report(few)
    guessed = few.predicted
    expected = sk.f1_score(few.true, guessed, labels=[0, 1, 2, 4, 5], average="macro")
    assert "3" not in report
    assert report["macro avg"]["f1-score"] == pytest.approx(expected)


def test_outputs_beyond_the_names_are_called_by_number():
    assert Predictions(LOGITS, SOME.labels, ["a", "b"]).names == list("ab2345")


def test_several_labels_are_right_if_one_of_them_is_predicted():
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [1, 3, 2]], np.float32)
    labels = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]])
    both = Predictions(logits, labels)
    assert both.hits(1).tolist() == [True, False, True]
    assert both.true.tolist() == [0, 0, 1]
    assert both.hits(2).tolist() == [True, True, True]
    assert predictions.confusion(both).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_calibration_by_hand():
    """Four at 0.9, three of them right; two at 0.6, both right: (.6 + .8) / 6."""
    logit = np.log([9.0, 1.5])
    logits = np.stack([np.repeat(logit, [4, 2]), np.zeros(6)], 1).astype(np.float32)
    labels = np.eye(2)[[0, 0, 0, 1, 0, 0]]
    error, rows = predictions.calibration(Predictions(logits, labels), bins=10)
    assert error == pytest.approx((4 * 0.15 + 2 * 0.4) / 6, abs=1e-6)
    assert [row["examples"] for row in rows] == [2, 4]
    # Always sure and always right; sure and always wrong.
    sure = np.eye(2, dtype=np.float32) * 1000
    assert predictions.calibration(Predictions(sure, np.eye(2)))[0] == 0
    assert predictions.calibration(Predictions(sure, np.eye(2)[::-1]))[0] == 1


def test_rows_must_match():
    with pytest.raises(
        ValueError, match="must have the same shape, with a row or more"
    ):
        Predictions(LOGITS[:0], SOME.labels[:0])
