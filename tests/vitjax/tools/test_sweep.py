"""python -m vitjax.tools.sweep: every combination once, a table and a picture."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.helpers.runs import QUICKSTART, TWELVE_STEPS
from vitjax.devices.stopping import STATUS
from vitjax.records.jsonl import read_rows
from vitjax.tools import compare_runs, sweep

pytestmark = pytest.mark.slow

FLAGS = [
    flag for flag in TWELVE_STEPS if "batch_size" not in flag and "total" not in flag
]


def run(out, *matrix, steps=3):
    return sweep.main(
        ["--config", f"{QUICKSTART}:epochs=1", "--matrix", *matrix, "--out", str(out),
         *FLAGS, f"--config.total_steps={steps}"]
    )  # fmt: skip


def program(path, text):
    """Write an executable to put in place of Python, and so of every training run."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_sweep_runs_each_once_and_tabulates_them(tmp_path, monkeypatch, capfd):
    """One of two combinations fails; the other is not run again."""
    assert run(tmp_path, "batch=64,0") == 1
    out = capfd.readouterr()
    assert out.out.count("-m vitjax.train") == 2
    assert "error: " in out.err
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| batch | val/loss | val/prec@1 | val/prec@5 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 64", "| 0"]
    last = read_rows(tmp_path / "batch=64")[-1]
    assert last["step"] == 3
    assert f"{last['val/loss']:.4g}" in lines[2]
    assert "failed" in lines[3]
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 300
    record = json.loads((tmp_path / "batch=64" / "sweep.json").read_text())
    assert record["config"].endswith("quickstart.py:epochs=1,batch=64")
    failing = program(tmp_path / "failing", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(sys, "executable", failing)
    assert run(tmp_path, "batch=64") == 0
    assert run(tmp_path, "batch=64", steps=4) == 1  # other flags make another run


def test_any_key_is_varied_and_random_draws_are_found_again(
    tmp_path, monkeypatch, capfd
):
    matrix = ["config.lr=log(1e-4,1e-2)", "config.mixup.p=0.1,0.2", "--random", "2"]
    assert run(tmp_path, *matrix) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| config.lr | config.mixup.p | val/loss |")
    runs = sorted(tmp_path.glob("*/metrics.jsonl"))
    for folder in (path.parent for path in runs):
        kept = json.loads((folder / "config.json").read_text())
        assert folder.name == f"lr={kept['lr']:.4g},p={kept['mixup']['p']}"
        assert any(f"| {kept['lr']:.4g} | {kept['mixup']['p']} |" in x for x in lines)
    assert len(compare_runs.read([str(path.parent) for path in runs])) == 2
    capfd.readouterr()
    failing = program(tmp_path / "failing", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(sys, "executable", failing)
    assert run(tmp_path, *matrix) == 0
    assert "vitjax.train" not in capfd.readouterr().out


def test_a_run_that_a_signal_stopped_stops_the_sweep(tmp_path, monkeypatch, capfd):
    stopped = program(tmp_path / "stopped", f"#!/bin/sh\nexit {STATUS}\n")
    monkeypatch.setattr(sys, "executable", stopped)
    out = tmp_path / "out"
    assert run(out, "batch=64,96") == STATUS
    printed = capfd.readouterr()
    assert printed.out.count("-m vitjax.train") == 1
    assert printed.err == "stopped: the same command resumes\n"
    assert not (out / "table.md").exists()


def test_what_failed_is_in_a_table_without_metrics(tmp_path, monkeypatch):
    failed = program(tmp_path / "failed", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(sys, "executable", failed)
    assert run(tmp_path, "batch=64,96") == 1
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| batch | metrics |"
    assert lines[2:] == ["| 64 | failed |", "| 96 | failed |"]


SLOW_TO_SAVE = """#!{python}
import os, pathlib, signal, sys, time

def save(*_):
    time.sleep(1)
    pathlib.Path({folder!r}, "saved").touch()
    sys.exit(75)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
pathlib.Path({folder!r}, "started").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("told", ["both", "the sweep alone, twice"])
def test_after_ctrl_c_a_run_has_time_to_save(tmp_path, told):
    slow = program(
        tmp_path / "slow",
        SLOW_TO_SAVE.format(python=sys.executable, folder=str(tmp_path)),
    )
    argv = [f"--config={QUICKSTART}", "--matrix", "batch=64,96"]
    argv += ["--out", str(tmp_path / "out")]
    # A process in the background ignores SIGINT, and so do those that it starts.
    code = (
        "import signal, sys\nfrom vitjax.tools import sweep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.executable = {slow!r}\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", f"{code}sys.exit(sweep.main({argv!r}))"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    for _ in range(6000):
        if (tmp_path / "started").exists() or child.poll() is not None:
            break
        time.sleep(0.01)
    if told == "both":
        os.killpg(child.pid, signal.SIGINT)
    else:
        child.send_signal(signal.SIGINT)
        time.sleep(1)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=50)
    assert child.returncode == 130, err
    assert (tmp_path / "saved").exists()
    assert err == "interrupted: the same command resumes\n"
    assert out.count("-m vitjax.train") == 1
