"""A run that the tests of the tools share."""

from pathlib import Path

import pytest

from vitjax import train

QUICKSTART = str(Path(__file__).resolve().parents[3] / "configs" / "quickstart.py")
# The quickstart's recipe, small and short.
SMALL = [
    f"--config={QUICKSTART}",
    "--config.input.batch_size=64",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.mlp_dim=32",
    "--config.model.num_heads=2",
    "--config.evals.val.log_steps=20",
]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The workdir of a small run."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    length = ["--config.total_steps=20", "--config.ckpt_steps=20"]
    assert train.cli([*SMALL, *length, "--workdir", str(workdir)]) == 0
    return workdir
