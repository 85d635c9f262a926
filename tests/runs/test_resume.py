"""A run that is killed anywhere, and started again, ends as if nothing had happened."""

import dataclasses
import itertools
import random
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import sklearn.datasets

from tests.helpers import dying
from tests.helpers.processes import Fork
from tests.helpers.runs import QUICKSTART, params_of, values
from vitjax.config.files import load
from vitjax.records import sinks
from vitjax.records.jsonl import read_rows

TOTAL = 24
PP = "grayscale_to_rgb|resize(16)"
AUGMENT = "inception_crop(16)|flip_lr|randaug(2, 10)"
KEEP = "keep('image', 'label')"


def settings(data):
    """All that chance decides, and all that a checkpoint holds; `data` is a file."""
    val = load(QUICKSTART).evals.val.to_dict()
    del val["log_epochs"]
    source = {"kind": "npz", "path": str(data), "num_classes": 10}
    val |= {"pp_fn": f"{PP}|{KEEP}", "batch_size": 20}
    val |= {"data": source | {"split": "all[1000:1200]"}}
    return {
        "total_steps": TOTAL,
        "input.data": source | {"split": "all[:1000]"},
        "input.batch_size": 32,
        "input.pp": f"{PP}|{AUGMENT}|{KEEP}",
        "model": {
            "width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2,
            "patch_size": (4, 4), "posemb": "sincos2d", "dropout": 0.2,
        },
        "mixup": {"p": 0.2},
        "accum_freq": 2,
        "ema": {"decay": 0.8, "every": 2},
        "evals": {
            "val": val | {"log_steps": 3},
            "val_ema": val | {"log_steps": 6, "params": "ema"},
        },
        "log_training_steps": 1,
        "ckpt_steps": 4,
        "ckpt_best": {"metric": "val/loss", "mode": "min"},
    }  # fmt: skip


@dataclasses.dataclass
class Trainer:
    """One config, started again and again."""

    data: Path
    numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def start(self, workdir, moment="never"):
        """The command as a process of its own, which may kill itself at a moment."""
        flags = [
            f"--config.{key}={value}" for key, value in settings(self.data).items()
        ]
        number = next(self.numbers)
        return Fork(
            dying.run,
            moment,
            ["--config", QUICKSTART, "--workdir", str(workdir), *flags],
            log=self.data.parent / f"{number}.log",
            devices=2,
        )

    def finish(self, workdir):
        process = self.start(workdir)
        assert process.status() == 0, process.text()

    def dies(self, workdir, moment):
        """Start it, to die at a moment of its own."""
        process = self.start(workdir, moment)
        assert process.status() == -signal.SIGKILL, process.text()

    def killed_when(self, workdir, is_time, delay=0.0):
        """Start it, and kill it `delay` seconds after `is_time` of the process."""
        process = self.start(workdir)
        while process.alive() and not is_time(process):
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        assert process.status() == -signal.SIGKILL, process.text()

    def killed_after(self, workdir, step, delay):
        """Start it, and kill it `delay` seconds after the row of `step`."""
        line = f"step {step:>{len(str(TOTAL))}}/{TOTAL}: loss"
        self.killed_when(workdir, lambda process: line in process.text(), delay)

    def killed_in_a_write(self, workdir, step):
        """Start it, and kill it as soon as the checkpoint of `step` is begun."""
        folder = workdir / "checkpoints"
        self.killed_when(workdir, lambda _: any(folder.glob(f"{step}*")))

    def killed_within(self, workdir, seconds):
        """Start it, and kill it then; returns whether it had finished before."""
        process = self.start(workdir)
        end = time.monotonic() + seconds
        while process.alive() and time.monotonic() < end:
            time.sleep(0.001)
        process.kill()
        assert process.status() in (0, -signal.SIGKILL), process.text()
        return process.status() == 0


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    digits = sklearn.datasets.load_digits()
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    images = (digits.images * 15).astype(np.uint8)[..., None]
    np.savez(file, images=images, labels=digits.target)
    return Trainer(file)


@pytest.fixture(scope="module")
def uninterrupted(trainer, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    trainer.finish(workdir)
    return workdir


def shown(workdir):
    """(step, tag) -> value of what TensorBoard shows: a restart purges what follows."""
    import tensorflow as tf
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for file in sorted((workdir / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                found = {k: v for k, v in found.items() if k[0] < event.step}
            for value in event.summary.value:
                assert (event.step, value.tag) not in found, "shown twice"
                found[event.step, value.tag] = value.simple_value
    return found


def without_timing(shown):
    return {k: v for k, v in shown.items() if not k[1].startswith(("time/", "img/sec"))}


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_ended_as(workdir, uninterrupted):
    """The same state, rows, pictures in TensorBoard and best checkpoint, to the bit."""
    rows = values(read_rows(workdir))
    assert rows == values(read_rows(uninterrupted))
    names = [(r["step"], n) for r in read_rows(workdir) for n in r if n != "step"]
    assert len(names) == len(set(names)), "a metric twice under one step"
    tensorboard = without_timing(shown(workdir))
    assert tensorboard == without_timing(shown(uninterrupted))
    assert tensorboard.keys() == rows.keys()
    kept = lambda workdir: sorted(p.name for p in (workdir / "checkpoints").iterdir())
    assert kept(workdir) == kept(uninterrupted) == ["20", "24"]
    state = params_of(workdir, TOTAL)
    assert {k for k in state if state[k]} == {"step", "params", "opt_state", "ema"}
    assert_same_bits(state, params_of(uninterrupted, TOTAL))
    assert kept(workdir / "best") == kept(uninterrupted / "best")
    [step] = kept(workdir / "best")
    assert_same_bits(
        params_of(workdir / "best", step), params_of(uninterrupted / "best", step)
    )


def test_a_run_killed_at_six_moments_ends_with_the_same_bits(
    trainer, uninterrupted, tmp_path
):
    chance = random.Random(0)
    first = chance.randint(1, 3)  # no checkpoint yet, but that of step 1
    trainer.killed_after(tmp_path, first, chance.uniform(0, 0.05))
    trainer.dies(tmp_path, "evaluation:9")
    trainer.dies(tmp_path, "before_commit:8")
    trainer.dies(tmp_path, "after_commit:12")
    trainer.dies(tmp_path, "before_cut")
    trainer.killed_in_a_write(tmp_path, 16)
    trainer.finish(tmp_path)
    assert_ended_as(tmp_path, uninterrupted)


@pytest.mark.soak
def test_a_run_killed_at_any_time_ends_with_the_same_bits(
    trainer, uninterrupted, tmp_path
):
    """Thirty times; the moments are spread over what one start takes."""
    begin = time.monotonic()
    trainer.finish(tmp_path / "timed")
    whole = time.monotonic() - begin
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moments' seed is {seed}")
    chance = random.Random(seed)
    for number in range(30):
        workdir = tmp_path / "killed"
        if trainer.killed_within(workdir, chance.uniform(0, whole)):
            assert_ended_as(workdir, uninterrupted)
            workdir.rename(tmp_path / str(number))
    trainer.finish(tmp_path / "killed")
    assert_ended_as(tmp_path / "killed", uninterrupted)


def write_as_killed(workdir, first_step, steps):
    """Rows as a run writes them that is killed after the last one: nothing is closed."""
    sink = sinks.TensorBoardSink(workdir, first_step)
    for step in steps:
        sink.write(step, {"training_loss": step + 0.25 * first_step})
    return sink


@pytest.mark.parametrize("first_step", [0, 4])
def test_tensorboard_shows_no_row_from_after_the_checkpoint(
    tmp_path, first_step, monkeypatch
):
    # Files are read in the order of their names, which begin with the second.
    order = itertools.count()
    monkeypatch.setattr(sinks.secrets, "token_hex", lambda _: f"{next(order):04}")
    open_still = [write_as_killed(tmp_path, 0, range(7))]
    open_still += [write_as_killed(tmp_path, first_step, range(first_step + 1, 6))]
    found = {step: value for (step, _), value in shown(tmp_path).items()}
    kept = range(first_step + 1) if first_step else range(0)
    again = range(first_step + 1, 6)
    assert found == {k: k for k in kept} | {k: k + 0.25 * first_step for k in again}
    for sink in open_still:
        sink.close()


class Wandb(types.ModuleType):
    """Stands for the module and its server, which keeps what it was sent."""

    def __init__(self):
        super().__init__("wandb")
        self.sent = []
        self.errors = types.ModuleType("wandb.errors")
        self.errors.Error = RuntimeError

    def Settings(self, **_):
        return None

    def init(self, **_):
        module = self

        class Run:
            # As the real one: the step after the last of a resumed run.
            step = module.sent[-1][0] + 1 if module.sent else 0

            def log(self, row, step):
                module.sent.append((step, row))
                self.step = step

            def finish(self):
                pass

        return Run()


def test_wandb_is_not_sent_what_it_has(tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.errors", fake.errors)

    def write(steps):
        sink = sinks.WandbSink(tmp_path, {}, project="digits")
        for step in steps:
            sink.write(step, {"training_loss": float(step)})
            if step % 3 == 0:
                sink.write(step, {"val/loss": float(step)})  # a step may have two rows
        sink.close()

    write(range(8))
    write(range(5, 11))  # from the checkpoint of step 4
    names = [(step, name) for step, row in fake.sent for name in row]
    assert names == [
        pair
        for step in range(11)
        for pair in [(step, "training_loss"), (step, "val/loss")][: 1 + (step % 3 == 0)]
    ]
