import pytest
from ml_collections import ConfigDict

from vitjax.config import durations

IMAGENET = {"batch_size": 1024, "data_size": 1281167}


@pytest.mark.parametrize(
    ("epochs", "data_size", "expected"),
    [
        # The runs of big_vision: all of ImageNet, and train[:99%].
        (90, 1281167, 112603),
        (150, 1281167, 187671),
        (300, 1281167, 375342),
        (90, 1268355, 111477),
        (150, 1268355, 185794),
        (300, 1268355, 371588),
        (0.0001, 1281167, 1),
        (0, 1281167, 0),
    ],
)
def test_epochs(epochs, data_size, expected):
    config = {"total_epochs": epochs}
    assert (
        durations.steps("total", config, batch_size=1024, data_size=data_size)
        == expected
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"log_steps": 50}, 50),
        ({"log_steps": 1e4}, 10_000),
        ({"log_steps": 0}, 0),
        ({"log_examples": 1535}, 1),  # 1.499 steps
        ({"log_examples": 1537}, 2),  # 1.501
        ({"log_examples": 1}, 1),
        ({"log_examples": 0}, 0),
        ({"log_percent": 0.5}, 50),
        ({"log_percent": 0.0001}, 1),
        ({"log_percent": 1}, 100),
        ({"log_steps": None, "log_epochs": 2}, 2502),  # 2502.28
        (ConfigDict({"log_epochs": 2}), 2502),
    ],
)
def test_units(config, expected):
    got = durations.steps("log", config, total_steps=100, **IMAGENET)
    assert got == expected
    assert type(got) is int


def test_the_default_replaces_a_missing_duration_only():
    assert durations.steps("log", {}, default=7) == 7
    assert durations.steps("log", {"log_steps": None}, default=None) is None
    assert durations.steps("log", {"log_steps": 0}, default=7) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "log_steps, log_examples, log_epochs, log_percent"),
        ({"other_steps": 1}, "no log duration"),
        (
            {"log_steps": 1, "log_epochs": 1},
            "as log_steps, log_epochs: set all but one",
        ),
        ({"log_steps": -1}, "log_steps must be a number of at least 0, got -1"),
        ({"log_epochs": float("nan")}, "log_epochs must be a number"),
        ({"log_epochs": float("inf")}, "log_epochs must be a number"),
        ({"log_epochs": "ninety"}, "log_epochs must be a number.*'ninety'"),
        ({"log_steps": 0.5}, "log_steps must be a whole number"),
        ({"log_steps": True}, "log_steps must be a number.*True"),
        ({"log_steps": 1e18}, "log_steps is 1e.18, but.* at most 2,147,483,647 steps"),
        ({"log_epochs": 1e300}, "log_epochs is 1e.300, but a run can be at most"),
        ({"log_examples": 10**400}, "log_examples is 10*, but a run can be at most"),
        ({"log_percent": 5}, "log_percent is a fraction.*write 0.05 for 5 %"),
    ],
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        durations.steps("log", config, total_steps=100, **IMAGENET)


@pytest.mark.parametrize(
    ("unit", "known", "missing"),
    [
        ("examples", {"data_size": 9, "total_steps": 9}, "batch_size"),
        ("epochs", {"batch_size": 9, "total_steps": 9}, "data_size"),
        ("epochs", {"data_size": 9, "total_steps": 9}, "batch_size"),
        ("percent", {"batch_size": 9, "data_size": 9}, "total_steps"),
    ],
)
def test_a_unit_needs_its_size(unit, known, missing):
    with pytest.raises(ValueError, match=f"log_{unit} needs {missing}"):
        durations.steps("log", {f"log_{unit}": 1}, **known)


def test_keys_are_the_names_that_steps_reads():
    names = durations.keys("warmup")
    assert set(names) == {
        "warmup_steps",
        "warmup_examples",
        "warmup_epochs",
        "warmup_percent",
    }
    for name in names:
        durations.steps("warmup", {name: 1}, total_steps=1, **IMAGENET)


def due_steps(every, total, **kw):
    return [s for s in range(1, total + 1) if durations.due(s, every, total, **kw)]


@pytest.mark.parametrize(
    ("every", "total", "kw", "expected"),
    [
        (10, 35, {}, [1, 10, 20, 30, 35]),
        # 2 steps before the end is within a quarter of 10 (2.5); 3 is not.
        (10, 32, {}, [1, 10, 20, 32]),
        (10, 33, {}, [1, 10, 20, 30, 33]),
        (8, 26, {}, [1, 8, 16, 24, 26]),  # exactly a quarter: kept
        (10, 32, {"drop_close_to_last": 0}, [1, 10, 20, 30, 32]),
        (10, 30, {}, [1, 10, 20, 30]),
        (10, 35, {"first": False}, [10, 20, 30, 35]),
        (10, 32, {"last": False}, [1, 10, 20, 30]),
        (10, 30, {"first": False, "last": False}, [10, 20, 30]),
        (None, 30, {}, [1, 30]),
        (0, 30, {}, [1, 30]),
        (None, 30, {"first": False, "last": False}, []),
        (100, 30, {}, [1, 30]),
        (1, 3, {}, [1, 2, 3]),
    ],
)
def test_due(every, total, kw, expected):
    assert due_steps(every, total, **kw) == expected
