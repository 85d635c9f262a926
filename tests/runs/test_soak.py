"""Long runs: memory, open files and threads stay flat, as seen from outside."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.runs import QUICKSTART, ROOT, TWELVE_STEPS
from vitjax.records.jsonl import read_rows

# Bytes over the second half of a run. To keep every batch would be 480 KiB a step, 94 MiB
# in the shorter run; what allocators keep has been up to 26 MiB.
GROWTH = 48 * 2**20


def look(pid):
    """(resident bytes, open files, threads) of a process; None when it is gone."""
    home = Path(f"/proc/{pid}")
    try:
        pages = int((home / "statm").read_text().split()[1])
        files, threads = (len(os.listdir(home / name)) for name in ("fd", "task"))
    except (OSError, IndexError):
        return None
    return (pages * os.sysconf("SC_PAGE_SIZE"), files, threads) if files else None


def growth(series):
    """By how much a series grows over its second half, by a line through it.

    The line is Theil and Sen's, the median of slopes: one late peak does not tilt it.
    """
    half = np.asarray(series[len(series) // 2 :], np.float64)
    at = np.linspace(0.0, 1.0, len(half))
    left, right = np.triu_indices(len(half), 1)
    return float(np.median((half[right] - half[left]) / (at[right] - at[left])))


def test_growth_is_that_of_the_second_half():
    rng = np.random.default_rng(0)
    warm_up = np.r_[np.linspace(0, 500, 100), np.full(100, 500.0)]
    noise = rng.normal(0, 5, 200)
    assert abs(growth(warm_up + noise)) < 5
    leak = np.linspace(0, 100, 200)
    np.testing.assert_allclose(growth(warm_up + noise + leak), 50, atol=5)
    late = np.r_[np.zeros(195), np.full(5, 1e6)]
    assert abs(growth(warm_up + noise + late)) < 5


def run_and_look(workdir, steps, often):
    """The three series of one run of small steps, and its number of rows."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vitjax.train", "--config", QUICKSTART),
            *("--workdir", str(workdir), *TWELVE_STEPS),
            "--config.input.batch_size=2560",
            "--config.input.pp=keep('image', 'label')",
            f"--config.total_steps={steps}",
            f"--config.ckpt_steps={often}",
            f"--config.evals.val.log_steps={often}",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.DEVNULL,
    )
    seen, first_row = [], workdir / "metrics.jsonl"
    while process.poll() is None:
        found = look(process.pid)
        # Before the first row it still imports and compiles.
        if found and first_row.exists():
            seen.append(found)
        time.sleep(0.05)
    assert process.returncode == 0
    return np.array(seen)[:-3]  # at the end it draws curves


def check(workdir, steps, often):
    seen = run_and_look(workdir, steps, often)
    assert len(seen) > 40
    rows = read_rows(workdir)
    assert rows[-1]["step"] == steps
    assert sum("val/loss" in row for row in rows) == steps // often + 1
    memory, files, threads = seen.T
    for name, series, allowed in (
        ("bytes", memory, GROWTH),
        ("files", files, 1.0),
        ("threads", threads, 1.0),
    ):
        found = growth(series[:: len(series) // 400 + 1])
        print(f"{name}: at most {series.max():,}, second half {found:+,.1f}")
        assert found <= allowed, (name, found, series.max())


def test_a_run_of_four_hundred_steps_stays_flat(tmp_path):
    """With ten evaluations and checkpoints."""
    check(tmp_path, 400, 40)


@pytest.mark.soak
def test_a_run_of_twenty_thousand_steps_stays_flat(tmp_path):
    check(tmp_path, 20_000, 200)
