"""Few-shot regression: by hand, and which examples it is fitted on."""

import numpy as np
import pytest

from tests.helpers.evaluators import clouds, make_data, predict
from vitjax.evaluators import EVALUATORS
from vitjax.evaluators.fewshot import few_of_each, ridge_accuracy


@pytest.mark.parametrize("rows", [8, 60], ids=["fewer rows than features", "more"])
def test_ridge_is_the_normal_equations(rows):
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = (rng.normal(size=(rows, 20)) + np.eye(3, 20)[y]).astype(np.float32)
    y_test = np.arange(200) % 3
    x_test = (rng.normal(size=(200, 20)) + np.eye(3, 20)[y_test]).astype(np.float32)
    mean, std = x.astype(float).mean(0), x.astype(float).std(0) + 1e-5
    a = np.hstack([(x - mean) / std, np.full((rows, 1), 100.0)])
    b = np.hstack([(x_test - mean) / std, np.full((200, 1), 100.0)])
    w = np.linalg.solve(a.T @ a + 7.0 * np.eye(21), a.T @ (2 * np.eye(3)[y] - 1))
    expected = ((b @ w).argmax(1) == y_test).mean()
    assert 0.35 < expected < 0.9
    assert ridge_accuracy(x, y, x_test, y_test, 7.0) == pytest.approx(expected)


def test_so_many_of_each_class_by_chance_and_fewer_are_a_part_of_more():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 4], [50, 3, 20]))
    five, ten = few_of_each(y, 5, 1), few_of_each(y, 10, 1)
    assert np.bincount(y[five]).tolist() == [5, 3, 0, 0, 5]
    assert np.bincount(y[ten]).tolist() == [10, 3, 0, 0, 10]
    assert set(five) <= set(ten)
    assert set(few_of_each(y, 5, 2)) != set(five)


def test_more_examples_tell_more(mesh):
    rows = {"val": clouds(300, 1, 2.0), "train": clouds(400, 2, 2.0)}
    make = make_data(rows, mesh)
    kw = dict(data={"name": "val"}, fit_data={"name": "train"}, batch_size=16)
    evaluator = EVALUATORS["fewshot"](
        predict, make, mesh, **kw, feature="code", shots=(1, 20), l2_reg=1.0
    )
    found = dict(evaluator.run(np.float32(1.0)))
    assert list(found) == ["1shot", "20shot"]
    assert 1 / 12 < found["1shot"] < found["20shot"] <= 1
    assert found["20shot"] > 0.7
    with pytest.raises(ValueError, match="at least 1, got"):
        EVALUATORS["fewshot"](predict, make, mesh, **kw, shots=())
