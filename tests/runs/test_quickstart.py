"""The first thing that a newcomer runs learns what it says it learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitjax.records.jsonl import read_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak
def test_the_quickstart_reads_97_percent_of_unseen_digits(tmp_path):
    # As typed by a person: not with the compiler settings of the tests.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    out = subprocess.run(
        [sys.executable, "-m", "vitjax.train", "--config", "configs/quickstart.py",
         "--workdir", str(tmp_path)],
        cwd=ROOT, env=env | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""
    [last] = [row for row in read_rows(tmp_path)[-1:] if "val/prec@1" in row]
    assert last["val/prec@1"] >= 0.97
