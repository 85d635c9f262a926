"""Small runs that several files open, and that no test changes."""

import pytest

from tests.helpers.runs import run, run_tok


@pytest.fixture(scope="session")
def tok_run(tmp_path_factory):
    """The workdir of a run whose model every format can hold."""
    workdir = tmp_path_factory.mktemp("tok") / "run"
    assert run_tok(workdir) == 0
    return workdir


@pytest.fixture(scope="session")
def scanned_run(tmp_path_factory):
    """The workdir of a run of four steps with an EMA, scanned blocks, fused attention."""
    workdir = tmp_path_factory.mktemp("scanned") / "run"
    flags = ["total_steps=4", "ema={'decay': 0.5}", "model.scan=True"]
    flags += ["model.attn_impl=xla", "model.registers=1"]
    assert run(workdir, *(f"--config.{flag}" for flag in flags)) == 0
    return workdir
