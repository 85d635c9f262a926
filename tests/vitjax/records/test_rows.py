"""Rows are fetched one step late; a value that is not finite stops the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.optim import make_optimizer
from vitjax.records.clock import Clock
from vitjax.records.jsonl import MetricWriter
from vitjax.records.progress import Progress
from vitjax.records.rows import NotFinite, Records, rate_table


class Memory:
    def __init__(self):
        self.rows = []

    def write(self, step, row):
        self.rows.append((step, dict(row)))

    def close(self):
        pass


def make(writer, first_step=0, last_good=lambda: None):
    clock = Clock(total_steps=10, batch_size=8, data_size=80, num_devices=1)
    progress = Progress(10, first_step, show=False)
    rates = {"lr": np.linspace(0, 0.9, 10)}
    writer = MetricWriter([writer])
    return Records(writer, clock, progress, rates, first_step, last_good)


def metrics(loss=1.0):
    return {"training_loss": jnp.float32(loss), "l2_grads": jnp.float32(2.0)}


def test_a_row_is_written_under_its_own_step_when_the_next_one_runs():
    writer = Memory()
    records = make(writer)
    records.hold(3, metrics())
    assert writer.rows == []
    records.flush()
    records.flush()
    [(step, row)] = writer.rows
    assert step == 3
    assert row["training_loss"] == 1.0
    assert row["lr"] == pytest.approx(0.2), "the rate of the update that made step 3"
    assert row["examples_seen"] == 24


def test_what_is_not_finite_names_the_steps_and_the_last_good_checkpoint():
    writer, saved = Memory(), [None, 2]
    records = make(writer, last_good=lambda: saved.pop(0))
    records.hold(2, metrics())
    records.flush()
    records.hold(4, metrics(float("nan")))
    with pytest.raises(NotFinite, match=r"between steps 3 and 4 .*no checkpoint"):
        records.flush()
    assert [step for step, _ in writer.rows] == [2, 4], "the row shows the fault"
    with pytest.raises(NotFinite, match=r"steps 3 and 5 .*is of step 2"):
        records.check_finite(5, metrics(float("inf")))


def test_a_skipped_update_may_have_an_infinite_gradient_and_nothing_else():
    records = make(Memory(), last_good=lambda: 2)
    skip = {**metrics(float("inf")), "update_skipped": 1.0, "l2_params": 3.0}
    records.check_finite(5, skip)
    with pytest.raises(NotFinite, match=r"steps 6 and 7 \(training_loss = inf\)"):
        records.check_finite(7, skip | {"update_skipped": 0.0})
    with pytest.raises(NotFinite, match=r"l2_params = nan\)"):
        records.check_finite(7, skip | {"l2_params": float("nan")})


def test_twenty_most_skipped_updates_in_a_row_stop_the_run():
    records = make(Memory(), last_good=lambda: 2)
    records.check_finite(30, {**metrics(), "most_skipped_updates_in_a_row": 19})
    with pytest.raises(NotFinite, match=r"20 updates in a row.*is of step 2; try"):
        records.check_finite(30, {**metrics(), "most_skipped_updates_in_a_row": 20})


def test_rates_of_the_whole_run_are_those_of_the_schedule():
    """Toy of six steps with two of warm-up: logged 0, .5, 1, .85355, .5, .14645."""
    params = {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)}
    _, lr_fns = make_optimizer(
        params,
        total_steps=6,
        batch_size=1,
        data_size=1,
        lr=0.1,
        optax_name="identity",
        schedule={"warmup_steps": 2, "decay_type": "cosine"},
    )
    table = rate_table(lr_fns, 6, 0.1)
    expected = [0, 0.5, 1, 0.85355, 0.5, 0.14645]
    np.testing.assert_allclose(table["global_schedule"], expected, atol=1e-5)
    np.testing.assert_allclose(table["lr"], np.multiply(expected, 0.1), atol=1e-6)


class FullUntil:
    """A sink whose disk is full until a checkpoint is given up."""

    def __init__(self):
        self.full, self.rows = True, []

    def write(self, step, row):
        if self.full:
            raise OSError(28, "No space left on device", "metrics.jsonl")
        self.rows.append(step)

    def close(self):
        pass


def test_a_row_waits_for_the_room_that_a_checkpoint_gives_up():
    sink = FullUntil()

    def last_good():
        sink.full = False
        return 3

    make(sink, last_good=last_good).write(5, {"loss": 1.0})
    assert sink.rows == [5]


def test_no_room_for_a_row_is_one_sentence():
    records = make(FullUntil(), last_good=lambda: 3)
    words = (
        r"row of step 5 cannot be written \(.*No space left.*is of step 3: free some"
    )
    with pytest.raises(ValueError, match=words):
        records.write(5, {"loss": 1.0})
