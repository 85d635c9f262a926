"""What is set before TensorFlow is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline import environment

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.delenv("GCS_READ_CACHE_MAX_SIZE_MB", raising=False)
    environment.prepare()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert os.environ["GCS_READ_CACHE_MAX_SIZE_MB"] == "0"


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("vitjax.train", "cli(['--config', 'nowhere.py'])"),
        ("input_pipeline.show", "cli(['--config', 'nowhere.py', '--out', 'x'])"),
        ("input_pipeline.benchmark", "main(['--pp', 'nothing'])"),
    ],
)
def test_every_command_does_it_before_tensorflow_is_there(module, call):
    code = (
        f"import sys, {module} as command\n"
        "assert 'tensorflow' not in sys.modules\n"
        "from unittest import mock\n"
        "from input_pipeline import environment\n"
        "def prepare():\n"
        "    assert 'tensorflow' not in sys.modules\n"
        "    print('in time')\n"
        "with mock.patch.object(environment, 'prepare', prepare):\n"
        f"    command.{call}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("in time") == 1
