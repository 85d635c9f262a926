"""A workdir that an older version wrote is resumed: tests/data/older_run.

It is of the version before modules moved into rooms: 20 steps with a checkpoint after 10,
whose later checkpoint was removed, as if the run had been killed there.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.runs import SMALL
from vitjax import train
from vitjax.records.jsonl import read_rows

OLDER = Path(__file__).resolve().parents[1] / "data" / "older_run"
FLAGS = [
    *SMALL,
    "--config.total_steps=20",
    "--config.ckpt_steps=10",
    "--config.log_training_steps=5",
    "--config.tensorboard=False",
    "--config.ema={'decay': 0.9, 'every': 1}",
]


def test_an_older_run_resumes_to_the_end_that_it_had(tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(OLDER, workdir)
    assert train.cli([*FLAGS, "--workdir", str(workdir)]) == 0
    assert "resumes from step 10" in capsys.readouterr().out
    rows = {
        (row["step"], name): row[name] for row in read_rows(workdir) for name in row
    }
    expected = [
        json.loads(x) for x in (OLDER / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    timed = ("time/", "img/sec")
    for row in expected:
        for name, value in row.items():
            if not name.startswith(timed):
                # Sums on other machines and numbers of devices round otherwise.
                assert rows[row["step"], name] == pytest.approx(value, rel=1e-3), name
