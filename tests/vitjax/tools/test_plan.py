"""python -m vitjax.tools.plan: what a run takes, told without running it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image

from tests.helpers.runs import SMALL
from vitjax.config import experiment
from vitjax.config.files import load
from vitjax.tools import plan, plan_cost
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
IMAGENET = str(ROOT / "configs" / "vit_s16_i1k.py")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Of the small quickstart, on two devices, from a shell; with the tables' text."""
    folder = tmp_path_factory.mktemp("plan")
    command = [
        sys.executable, "-m", "vitjax.tools.plan", *SMALL, "--config.model.depth=3",
        "--devices=2", "--accum_freq", "1", "2", "3", "--remat_policy", "none",
        "nothing_saveable", "--accelerator=A100", "--mfu=0.5", "--memory_gib=100",
        f"--out={folder}", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "lr.png") as picture:
        assert picture.width > 700
    return json.loads(done.stdout), done.stderr


def test_steps_and_parameters_are_those_of_the_run(figures, digits_run):
    found, text = figures
    assert found["examples"] == 1438
    assert found["total_steps"] == round(100 * 1438 / 64)
    assert found["epochs"] == pytest.approx(100, abs=0.05)
    blocks = jax.tree.leaves(
        open_trained(digits_run).params["Transformer"]["encoderblock_0"]
    )
    others = sum(x.size for x in jax.tree.leaves(open_trained(digits_run).params))
    assert found["parameters"] == others + 2 * sum(x.size for x in blocks)
    assert found["lr"]["most"] == pytest.approx(0.003, rel=1e-3)
    assert 0 < found["lr"]["last"] < 1e-6
    assert "| total_steps | 2,247 |" in text


def test_json_stands_alone_on_stdout(capsys, monkeypatch):
    def planned(*_):
        plan.say("a table")
        return {"hours": math.nan, "steps": 3}

    monkeypatch.setattr(plan, "plan", planned)
    assert plan.main(SMALL) == 0
    assert capsys.readouterr().out == "a table\n"
    assert plan.main([*SMALL, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"hours": None, "steps": 3}
    assert printed.err.endswith("a table\n")


def test_operations_and_hours_by_hand(figures):
    found, _ = figures
    n, d, f, k = (
        16,
        16,
        32,
        10,
    )  # 4 x 4 patches of 2 x 2 pixels, width, mlp_dim, classes
    block = 4 * n * d * d + 2 * n * d * f + 2 * n * n * d
    products = n * 4 * d + 3 * block + d * k
    assert found["FLOPs per image"] == 3 * 2 * products
    images = found["total_steps"] * 64
    assert found["FLOPs per run"] == found["FLOPs per image"] * images
    seconds = found["FLOPs per run"] / (2 * 312e12 * 0.5)
    assert found["hours"] * 3600 == pytest.approx(seconds)
    # An image of 8 x 8 bytes, and a label of 8.
    bytes_per_second = images / seconds * (64 + 8)
    assert found["MB/s to the devices"] == pytest.approx(bytes_per_second / 1e6)
    assert found["MB/s from the disk"] == 0


def test_memory_falls_with_accumulation_and_remat(figures):
    found, text = figures
    rows = {(r["accum_freq"], r["remat_policy"]): r for r in found["device memory GiB"]}
    # 3 does not divide 64 rows on two devices.
    assert rows.keys() == {(a, r) for a in (1, 2) for r in ("none", "nothing_saveable")}
    # Parameters and two moments, in float32.
    state = 3 * 4 * found["parameters"] / 2**30
    for row in rows.values():
        assert row["state"] == pytest.approx(state, rel=0.01)
        assert row["plan"] > row["state"]
    once, twice = rows[1, "none"], rows[2, "none"]
    assert twice["kept"] == pytest.approx(once["kept"] / 2, rel=0.02)
    assert state < twice["plan"] < once["plan"]
    remat = rows[1, "nothing_saveable"]
    assert remat["kept"] < 0.5 * once["kept"]
    assert remat["plan"] < once["plan"]
    assert found["suggested accum_freq"] == 1
    assert "accum_freq=1 with remat_policy='none' fits 100.0 GiB" in text


def read(config, *overrides):
    return experiment.from_config(load(config, overrides).to_dict())


@pytest.mark.parametrize(
    ("preset", "steps"), [("big_vision", 111_477), ("fixed", 112_603)]
)
def test_the_flagship_is_outlined_without_imagenet(preset, steps, tmp_path):
    e = read(f"{IMAGENET}:preset={preset}", f"input.data.data_dir={tmp_path}")
    found = plan.outline(e, None, None)
    sizes = {"data_size": found.examples, "batch_size": 1024}
    assert e.steps("total", **sizes) == steps
    assert {k: (s, str(d)) for k, (s, d) in found.element_spec.items()} == {
        "image": ((224, 224, 3), "uint8"),
        "label": ((), "int64"),
    }
    assert plan.outline(e, 77, None).examples == 77
    total, parts = plan_cost.host_bytes(e, found, 1024 * 224 * 224 * 3)
    # Places of 8 bytes, and the batches that are made ahead: two twice.
    assert parts["places of examples"] == 8 * found.examples
    assert parts["4 batches ahead"] == 4 * 1024 * 150_528
    assert total == sum(parts.values())


def rows_of(*plans):
    return [
        plan_cost.DeviceMemory(accum, remat, 0.0, gib, 0.0)
        for accum, remat, gib in plans
    ]


def test_what_fits_is_suggested():
    rows = rows_of(
        (1, "none", 40.0), (2, "none", 21.0), (1, "dots", 20.0), (2, "dots", 10.0)
    )
    assert plan.suggestion(rows, 30.0)[1] is rows[1]
    assert plan.suggestion(rows, 40.0)[1] is rows[0]
    assert plan.suggestion(rows, 20.0)[1] is rows[2]
    text, best = plan.suggestion(rows, 9.0)
    assert best is None
    assert "nothing of this fits 9.0 GiB (the least is 10.0)" in text


def test_every_accelerator_has_its_memory():
    from vitjax.benchmark import PEAK_TFLOPS

    assert plan_cost.MEMORY_GIB.keys() == PEAK_TFLOPS.keys()


def error_of(capsys, *flags):
    assert plan.main([str(flag) for flag in flags]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_mistakes_are_one_sentence(tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    line = error_of(capsys, *SMALL, *out, "--accelerator=H10")
    assert "unknown accelerator 'H10'; did you mean 'H100'?" in line
    folder = (
        "--config.input.data={'kind': 'folder', 'data_dir': '/no', 'split': 'train'}"
    )
    line = error_of(capsys, *SMALL, *out, folder)
    assert "give --examples (known: imagenet2012" in line
    npz = "--config.input.data={'kind': 'npz', 'path': '/no.npz', 'split': 'all'}"
    line = error_of(capsys, *SMALL, *out, npz, "--examples=9")
    assert "give --image_size" in line
    line = error_of(capsys, *SMALL, *out, "--accum_freq", "7")
    assert "no accum_freq of 7 divides a batch of 64 on 8 device(s)" in line
    line = error_of(capsys, "--config=/no.py", *out)
    assert "does not exist" in line
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").write_text("")
    assert "--out is a folder" in error_of(capsys, *SMALL, *out)
    for flag in ("--devices=0", "--mfu=-1", "--accum_freq=0"):
        with pytest.raises(SystemExit):
            plan.parse_flags([*SMALL, flag])
    assert "must be above 0" in capsys.readouterr().err


def test_a_folder_is_counted_as_training_reads_it(tmp_path):
    for path in ("ant/1.jpg", "ant/day 1/2.PNG", "bee/3.tif", "__MACOSX/x/4.jpg"):
        file = tmp_path / "train" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    (tmp_path / "test" / "unknown").mkdir(parents=True)
    config = load(str(ROOT / "configs" / "transfer.py"), ["input.batch_size=2"])
    config.input.data.data_dir = str(tmp_path)
    found = plan.outline(experiment.from_config(config.to_dict()), None, None)
    assert found.examples == 3
    assert found.bytes_per_example == 5
