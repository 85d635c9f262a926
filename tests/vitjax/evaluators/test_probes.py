"""Nearest neighbours and the linear probe, against sklearn and by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from tests.helpers.evaluators import clouds, make_data, predict
from vitjax.evaluators import EVALUATORS, knn
from vitjax.evaluators.knn import knn_accuracy
from vitjax.evaluators.linear_probe import choose_and_score


def data(rows, seed, classes=4, apart=1.2):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes + 3  # not from 0
    x = rng.normal(size=(rows, 6)) + apart * np.eye(classes, 6)[y - 3]
    return x.astype(np.float32), y


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (15, 0.9)])
def test_neighbours_vote_as_in_sklearn(k, temperature, monkeypatch):
    """sklearn's cosine distance is 1 - cosine, and its weights are a function of it."""
    monkeypatch.setattr(knn, "_CHUNK", 1000)  # several parts
    (x, y), (x_test, y_test) = data(120, 0), data(200, 1)
    other = KNeighborsClassifier(
        k, metric="cosine", weights=lambda far: np.exp((1 - far) / temperature)
    ).fit(x, y)
    expected = other.score(x_test, y_test)
    assert 0.3 < expected < 0.9
    assert knn_accuracy(x, y, x_test, y_test, k, temperature) == expected


def test_a_near_neighbour_outvotes_two_farther_ones():
    x = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8]], np.float32)
    test = np.array([[5, 0]], np.float32)
    y, right = np.array([1, 0, 0]), np.array([1])
    # exp(1 / T) > 2 exp(0.6 / T) below T = 0.4 / log 2 = 0.577.
    assert knn_accuracy(x, y, test, right, 3, 0.5) == 1
    assert knn_accuracy(x, y, test, right, 3, 0.6) == 0


def test_the_probe_is_sklearns_with_the_penalty_of_the_held_out_fifth():
    (x, y), (x_test, y_test) = data(100, 2, apart=0.8), data(300, 3, apart=0.8)
    x[:, 0] *= 1e4  # scaled by the probe
    order = np.random.default_rng(0).permutation(100)
    held, rest = order[:20], order[20:]

    def score(rows, where, target, penalty):
        scaler = StandardScaler().fit(x[rows])
        fitted = LogisticRegression(C=1 / penalty, max_iter=1000)
        fitted.fit(scaler.transform(x[rows]), y[rows])
        return fitted.score(scaler.transform(where), target)

    penalties = [1e-3, 1.0, 1e3]
    scores = [score(rest, x[held], y[held], p) for p in penalties]
    best = penalties[2 - int(np.argmax(scores[::-1]))]
    assert len(set(scores)) > 1
    found, chosen = choose_and_score(x, y, x_test, y_test, penalties)
    assert chosen == best
    assert found == pytest.approx(score(order, x_test, y_test, best), abs=0.01)
    with pytest.raises(ValueError, match="5 labelled examples of two classes"):
        choose_and_score(x, np.zeros(100, int), x_test, y_test, penalties)


def test_they_are_evaluators(mesh):
    rows = {"val": clouds(100, 1, 2.0), "train": clouds(200, 2, 2.0)}
    make = make_data(rows, mesh)
    kw = dict(data={"name": "val"}, fit_data={"name": "train"}, batch_size=16)
    kw["feature"] = "code"
    state = np.float32(1.0)
    near = EVALUATORS["knn"](predict, make, mesh, **kw)
    assert dict(near.run(state))["accuracy"] > 0.7
    line = EVALUATORS["linear_probe"](predict, make, mesh, **kw, l2_regs=(1, 10))
    found = dict(line.run(state))
    assert found["accuracy"] > 0.7
    assert found["l2_reg"] in (1, 10)
    for name, bad, words in (
        ("knn", {"k": 0}, "k of at least 1"),
        ("knn", {"temperature": 0}, "temperature above 0"),
        ("linear_probe", {"l2_regs": ()}, "above 0, got"),
    ):
        with pytest.raises(ValueError, match=words):
            EVALUATORS[name](predict, make, mesh, **kw, **bad)
    with pytest.raises(ValueError, match="give a smaller k"):
        dict(EVALUATORS["knn"](predict, make, mesh, **kw, k=201).run(state))
