"""Every program is compiled once, in a new run and in a resumed one."""

import collections
import shutil

import jax
import pytest

from tests.helpers.runs import QUICKSTART, run
from vitjax.config.files import load
from vitjax.records.jsonl import MetricWriter

LAST = 1  # the first checkpoint's step, after which all has been compiled
COMPILED = "/jax/core/compile/backend_compile_duration"


# Of this project; the others are small ones of JAX's and orbax's.
OURS = ("create", "preview", "train_step", "sums", "_sums")


class Compiled:
    """(name, newest step on record) of each program that was compiled."""

    def __init__(self):
        self.step = None
        self.found = []

    def listen(self, event, seconds, **about):
        if event == COMPILED:
            name = about["fun_name"].removeprefix("jit(").removesuffix(")")
            self.found.append((name, self.step))

    def ours(self):
        """Name -> how often, since the last call."""
        count = collections.Counter(name for name, _ in self.found)
        self.found.clear()
        return {name: count[name] for name in OURS}


@pytest.fixture
def compiled(monkeypatch):
    jax.clear_caches()
    compiled = Compiled()
    write = MetricWriter.write

    def watched(self, step, row):
        write(self, step, row)
        compiled.step = step

    monkeypatch.setattr(MetricWriter, "write", watched)
    jax.monitoring.register_event_duration_secs_listener(compiled.listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(compiled.listen)


def test_nothing_is_compiled_twice_nor_late(tmp_path, compiled):
    val = load(QUICKSTART).evals.val.to_dict()
    del val["log_epochs"]
    flags = [
        f"--config.evals.val_ema={val | {'params': 'ema', 'log_steps': 5}}",
        "--config.ema={'decay': 0.5, 'every': 2}",
        "--config.ckpt_best={'metric': 'val/loss', 'mode': 'min'}",
    ]
    workdir = tmp_path / "run"
    assert run(workdir, *flags) == 0
    assert all(step is None or step <= LAST for _, step in compiled.found)
    first = {"create": 1, "preview": 1, "train_step": 1, "sums": 2, "_sums": 1}
    assert compiled.ours() == first  # sums: one for each evaluator
    # A resumed run has a step and evaluators of its own. In this process the
    # checksums are compiled; one that fits no more would show that its state is unlike.
    shutil.rmtree(workdir / "checkpoints" / "12")
    assert run(workdir, *flags) == 0
    again = {"create": 0, "preview": 0, "train_step": 1, "sums": 2, "_sums": 0}
    assert compiled.ours() == again
