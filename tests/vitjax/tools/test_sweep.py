"""python -m vitjax.tools.sweep: every combination once, then a table and a picture."""

import json

import pytest
from PIL import Image

from tests.vitjax.test_train import QUICKSTART, SMALL
from vitjax.metrics import read_rows
from vitjax.tools import sweep

FLAGS = [flag for flag in SMALL if "batch_size" not in flag and "total" not in flag]


def run(out, *matrix, steps=3):
    return sweep.main(
        ["--config", f"{QUICKSTART}:epochs=1", "--matrix", *matrix, "--out", str(out),
         *FLAGS, f"--config.total_steps={steps}"]
    )  # fmt: skip


def test_combinations_are_the_product_in_order():
    assert sweep.combinations(["a=1,2", "crop=tf,beta(1, 2)"]) == [
        {"a": "1", "crop": "tf"},
        {"a": "1", "crop": "beta(1, 2)"},
        {"a": "2", "crop": "tf"},
        {"a": "2", "crop": "beta(1, 2)"},
    ]


@pytest.mark.parametrize("item", ["a", "a=", "=1", "a=1,,2", "a=1,1"])
def test_a_matrix_that_cannot_be_read_is_one_sentence(item, tmp_path, capsys):
    assert run(tmp_path / "out", item) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --matrix")
    assert not (tmp_path / "out").exists()


def test_a_sweep_runs_each_once_and_tabulates_them(tmp_path, capfd):
    """One of three combinations fails; the others are not run again."""
    assert run(tmp_path, "batch=64,96,0") == 1
    out = capfd.readouterr()
    assert out.out.count("-m vitjax.train") == 3
    assert "error: " in out.err
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| batch | val/loss | val/prec@1 | val/prec@5 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 64", "| 96", "| 0"]
    assert "failed" in lines[4]
    last = read_rows(tmp_path / "batch=96")[-1]
    assert last["step"] == 3
    assert f"{last['val/loss']:.4g}" in lines[3]
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 300
    record = json.loads((tmp_path / "batch=64" / "sweep.json").read_text())
    assert record["config"].endswith("quickstart.py:epochs=1,batch=64")
    assert run(tmp_path, "batch=64,96") == 0
    assert "-m vitjax.train" not in capfd.readouterr().out
    assert run(tmp_path, "batch=64", steps=4) == 1  # another run, in the same place
    assert "was written by a different config" in capfd.readouterr().err
