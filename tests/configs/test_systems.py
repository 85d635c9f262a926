"""The seed documents' systems learn: cut down, on scikit-learn's real digits."""

import json

import pytest

from vitjax import train
from vitjax.metrics import read_rows

DIGITS = {"kind": "arrays", "name": "digits"}


def learn(workdir, config, *overrides, evals=("val",)):
    """The rows of a cut-down run of a config; its data are the digits, 8 x 8 x 1."""
    data = [f"--config.input.data={dict(DIGITS, split='train')}"]
    data += [f"--config.evals.{n}.data={dict(DIGITS, split='test')}" for n in evals]
    flags = ["--config", config, "--workdir", str(workdir), *data]
    size = "--config.evals.{}.batch_size=72"
    flags += [size.format(name) for name in evals]
    assert train.cli([*flags, *overrides]) == 0
    return read_rows(workdir)


def last(rows, name):
    return [row[name] for row in rows if name in row][-1]


def test_the_fmnist_vit_learns_and_its_code_tells_digits_apart(tmp_path):
    rows = learn(
        tmp_path,
        "configs/fmnist_vit.py:layer=2,head=2,hidden=32,mlp=64,code=16,patch=4",
        "--config.total_steps=400",
        "--config.lr=3e-3",
        "--config.evals.svc.log_epochs=100",
        f"--config.evals.svc_train.fit_data={dict(DIGITS, split='train')}",
        evals=("val", "svc", "svc_train"),
    )
    first = next(row["val/loss"] for row in rows if "val/loss" in row)
    # The code begins at zero and the last bias small: about 0.1.
    assert 0.08 < first < 0.2
    assert last(rows, "val/loss") < 0.035
    assert last(rows, "val/prec@1") > 0.85
    # Fitted on the examples that it is scored on, it is the better one.
    assert last(rows, "svc/accuracy") >= last(rows, "svc_train/accuracy") > 0.85
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["metric"] == "val/loss"


@pytest.mark.parametrize("variant", ["tower", "vit"])
def test_tower_vits_learn_by_momentum_at_a_constant_rate(tmp_path, variant):
    rows = learn(
        tmp_path,
        f"configs/towervit.py:variant={variant}",
        "--config.total_steps=250",
        "--config.lr=0.02",
        "--config.model.patch_size=(2, 2)",
        "--config.model.widths=(16, 16)",
        "--config.model.num_heads=(2, 2)",
        "--config.model.mlp_dims=(32, 32)",
    )
    assert {row["lr"] for row in rows if "lr" in row} == {pytest.approx(0.02)}
    # Without positions a digit is a bag of patches.
    assert last(rows, "val/prec@1") > {"tower": 0.75, "vit": 0.5}[variant]
    assert (tmp_path / "tensorboard").is_dir()
    assert (tmp_path / "best").is_dir()
