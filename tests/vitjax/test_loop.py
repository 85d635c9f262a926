"""The order of events in the training loop: it never waits for the step that runs."""

import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline import bucket
from vitjax import data, loop
from vitjax.checkpoints.run import Checkpoints
from vitjax.devices.stopping import Stopped
from vitjax.evaluators.schedule import Entry, Schedule
from vitjax.records.clock import Clock
from vitjax.records.jsonl import MetricWriter
from vitjax.records.progress import Progress
from vitjax.records.rows import Records

STEPS, AHEAD = 7, 2


class FakeDevices:
    """A program whose steps are recorded, and end only when the next batch is there."""

    def __init__(self, mesh):
        self.mesh, self.key, self.events = mesh, None, []
        self.step = 0  # the last one dispatched
        self.copied = [threading.Event() for _ in range(STEPS + 1)]

    def host_batches(self):
        for step in range(1, STEPS + 1):
            yield {"step": np.full(self.mesh.size, step)}
            # Asked for the next one: the thread has started this one's copy.
            self.copied[step].set()

    def train_step(self, state, batch, key):
        self.step += 1
        self.events.append(f"dispatch {self.step}")
        assert {int(x.data[0]) for x in batch["step"].addressable_shards} == {self.step}
        made = FakeArray(self, self.step)
        return made, {"training_loss": made}

    def end(self, event, step):
        self.events.append(f"{event} {step}")
        next_batch = self.copied[min(self.step + 1, STEPS)]
        assert next_batch.wait(20), "no batch is prepared while a step runs"


class FakeArray:
    """A result of a step, which records who waits for it."""

    def __init__(self, devices, step):
        self._devices, self._step = devices, step

    def block_until_ready(self):
        self._devices.end("wait for", self._step)

    def __array__(self, *_, **__):
        self._devices.end("fetch", self._step)
        return np.zeros(())

    def __float__(self):
        return float(self.__array__())


def run(fake, log_steps, save=lambda *_: None, entries=()):
    clock = Clock(total_steps=STEPS, batch_size=8, data_size=80, num_devices=8)
    progress = Progress(STEPS, 0, show=False)
    records = Records(MetricWriter([]), clock, progress, {}, 0, lambda: None)
    nowhere = SimpleNamespace(save=save, poll=lambda: None, finish=lambda: None)
    batches = data.OnDevices(fake.host_batches(), fake.mesh, AHEAD)
    with contextlib.closing(iter(batches)) as batches:
        return loop.run(
            SimpleNamespace(step=0),
            fake,
            batches,
            records=records,
            checkpoints=Checkpoints(nowhere, None, {}, records.counters),
            evals=Schedule(entries, STEPS, 0, ()),
            log_steps=log_steps,
            ckpt_steps=None,
            signal=SimpleNamespace(due=lambda step: False),
        )


@pytest.mark.parametrize(("log_steps", "fetched"), [(1, range(1, 7)), (3, (1, 3, 6))])
def test_metrics_are_fetched_while_the_next_step_runs(mesh, log_steps, fetched):
    """Only the first step, which is compiled, and the last, to be saved, are waited for."""
    fake = FakeDevices(mesh)
    run(fake, log_steps)
    want = ["dispatch 1", "wait for 1"]
    for step in range(2, STEPS + 1):
        want.append(f"dispatch {step}")
        if step - 1 in fetched:
            want.append(f"fetch {step - 1}")
    # Its row, and the check before the checkpoint.
    last = [f"wait for {STEPS}", f"fetch {STEPS}", f"fetch {STEPS}"]
    assert fake.events == [*want, *last]


def test_an_evaluation_that_cannot_be_read_ends_the_run_with_a_checkpoint(mesh):
    def failing(state):
        raise bucket.NotAllowed("the credentials are not accepted")

    evaluator = SimpleNamespace(run=failing)
    entry = Entry("val", evaluator, log_steps=3, skip_first=True)
    saved = []
    with pytest.raises(Stopped) as stopped:
        run(FakeDevices(mesh), 1, lambda step, *_: saved.append(step), [entry])
    assert saved == [3]
    assert (stopped.value.step, stopped.value.saved) == (3, True)
    assert isinstance(stopped.value.why, bucket.NotAllowed)
