"""The classes of the data against those of the model."""

import pytest

from vitjax import data
from vitjax.config import experiment


def test_other_numbers_of_classes_are_an_error_or_a_notice():
    config = {"input": {"pp": ""}, "num_classes": 5, "lr": 0.1, "optax_name": "sgd"}
    e = experiment.from_config(config)
    said = []
    data.check_classes(5, e, said.append)
    data.check_classes(None, e, said.append)
    assert not said
    data.check_classes(3, e, said.append)
    assert said == [
        "the data has 3 classes, but num_classes is 5: the model's other outputs learn no "
        "class"
    ]
    with pytest.raises(
        ValueError, match="the data has 6 classes, but num_classes is 5"
    ):
        data.check_classes(6, e, said.append)
