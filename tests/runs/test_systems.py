"""Other people's systems learn: cut down, on scikit-learn's real digits."""

import pytest

from vitjax import train
from vitjax.records.jsonl import read_rows

DIGITS = {"kind": "arrays", "name": "digits"}


def learn(workdir, config, *overrides, evals=("val",)):
    """The rows of a cut-down run of a config; its data are the digits, 8 x 8 x 1."""
    data = [f"--config.input.data={dict(DIGITS, split='train')}"]
    data += [f"--config.evals.{n}.data={dict(DIGITS, split='test')}" for n in evals]
    flags = ["--config", config, "--workdir", str(workdir), *data]
    for name in evals:
        flags += [f"--config.evals.{name}.batch_size=72"]
        flags += [f"--config.evals.{name}.log_steps=200"]
    flags += ["--config.ckpt_steps=200", "--config.log_training_steps=50"]
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
    assert (tmp_path / "best").is_dir()


# Without positions a digit is a bag of patches, and little in too small ones. After 400
# steps `tower` reads between 0.70 and 0.90, by the seed and the order of sums.
@pytest.mark.parametrize(
    ("variant", "patch", "lr", "steps"), [("tower", 2, 0.1, 600), ("vit", 4, 0.03, 400)]
)
def test_tower_vits_learn_by_momentum_at_a_constant_rate(
    tmp_path, variant, patch, lr, steps
):
    rows = learn(
        tmp_path,
        f"configs/towervit.py:variant={variant}",
        f"--config.total_steps={steps}",
        f"--config.lr={lr}",
        f"--config.model.patch_size=({patch}, {patch})",
        "--config.model.widths=(16, 16)",
        "--config.model.num_heads=(2, 2)",
        "--config.model.mlp_dims=(32, 32)",
    )
    assert [row["lr"] for row in rows if "lr" in row] == pytest.approx(
        [lr] * (steps // 50 + 1)
    )
    assert last(rows, "val/prec@1") > 0.75
    assert (tmp_path / "tensorboard").is_dir()
    assert (tmp_path / "best").is_dir()


def test_nanovit_learns_in_float16_with_a_scaled_loss(tmp_path):
    """It also keeps an average of its parameters, which is evaluated too."""
    average = {
        "type": "classification",
        "params": "ema",
        "loss_name": "softmax_xent",
        "pp_fn": "keep('image', 'label')",
        "device_pp": "value_range(0, 1)|onehot(10, key='label', key_result='labels')"
        "|keep('image', 'labels')",
    }
    rows = learn(
        tmp_path,
        "configs/nanovit.py:step=5,dtype=float16",
        "--config.total_steps=200",
        "--config.lr=3e-3",
        "--config.wd=None",
        "--config.ema={'decay': 0.95}",
        f"--config.evals.average={average}",
        "--config.evals.average.data={'kind': 'arrays', 'name': 'digits', 'split': 'test'}",
        "--config.evals.average.batch_size=72",
        "--config.evals.average.log_steps=200",
        "--config.model.patch_size=(4, 4)",
        "--config.model.width=32",
        "--config.model.depth=2",
        "--config.model.num_heads=2",
    )
    assert last(rows, "val/prec@1") > 0.7
    assert last(rows, "average/prec@1") > 0.7
    assert last(rows, "average/loss") != last(rows, "val/loss")
    # It begins too large for float16 or not, and is never stuck.
    assert last(rows, "most_skipped_updates_in_a_row") < 20
    assert 1 <= last(rows, "loss_scale") <= 2**16
