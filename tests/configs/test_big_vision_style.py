"""Config files in big_vision's own spelling load and train as they stand.

Three files: big_vision's ViT-S/16, and mup-vit's forks of it for one and for eight GPUs.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import vit_s16_i1k
from input_pipeline import ops
from vitjax import program
from vitjax.config.experiment import differences, from_config
from vitjax.config.files import from_big_vision, load, plain
from vitjax.records.jsonl import read_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "big_vision_style"
# Key -> why the notice says that it is dropped, or what is made of it.
DROPPED = {
    "pp_modules": "is dropped: every op is always known",
    "mixup.fold_in": "is dropped: big_vision does not read it either",
}
CHANGED = {
    "evals.v2": "is skipped where imagenet_v2 is not prepared (required=False)",
    "evals.real": "is skipped where imagenet2012_real is not prepared (required=False)",
}
ACCUM = {"input.accum_freq": "is read as the top-level accum_freq"}
# File -> (notices, total steps on ImageNet, evaluators that can be run, accum_freq).
FILES = {
    "vit_s16_i1k": ({}, 111_477, ["minival", "train", "val"], 1),
    "single_gpu": (ACCUM, 112_603, ["train", "val"], 8),
    "eight_gpus": (ACCUM, 112_603, ["train", "val"], 1),
}


def file_of(name):
    return str(FOLDER / f"{name}.py")


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_understood_or_named(name):
    accum, steps, _, accum_freq = FILES[name]
    original = load(file_of(name))
    config, notices = from_big_vision(original)
    expected = DROPPED | CHANGED | accum
    assert sorted(notices) == sorted(f"{k} {why}" for k, why in expected.items())
    # No key goes without a notice; what is left is all read: a wrong key is an error.
    moved = {
        line.partition(":")[0] for line in differences(plain(original), plain(config))
    }
    added = {"evals.v2.required", "evals.real.required"}
    added |= {"accum_freq"} if accum else set()
    assert moved - added == DROPPED.keys() | accum.keys()
    e = from_config(config.to_dict())
    data_size = 1_281_167 if "[" not in e.input["data"]["split"] else 1_268_355
    assert e.steps("total", data_size=data_size, batch_size=1024) == steps
    assert e.accum_freq == accum_freq
    program.make_model(e)
    ops.get_preprocess_fn(e.input["pp"])
    for section in e.evals.values():
        ops.get_preprocess_fn(section["pp_fn"])


def test_big_visions_file_is_the_flagship_in_another_spelling():
    """Where pixels become floats, and how it shuffles, is all that differs."""
    theirs, _ = from_big_vision(load(file_of("vit_s16_i1k")))
    lines = differences(plain(vit_s16_i1k.get_config()), plain(theirs))
    keys = {line.partition(":")[0] for line in lines}
    for name in ("train", "minival", "val", "v2", "real"):
        keys -= {f"evals.{name}.{key}" for key in ("pp_fn", "device_pp", "required")}
    assert keys == {
        "device_pp", "input.cache_raw", "input.pp", "input.shuffle_buffer_size",
        "model.gelu",
    }  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_it_trains_from_a_shell_with_one_notice_for_each_key(
    name, imagenet_dir, tmp_path
):
    """As it stands but for where the data is, and for sizes."""
    accum, _, evaluators, accum_freq = FILES[name]
    sections = [f"evals.{e}" for e in (*evaluators, "v2", "real")]
    command = [
        sys.executable, "-m", "vitjax.train", "--config", file_of(name),
        "--workdir", str(tmp_path),
        *(f"--config.{s}.data.data_dir={imagenet_dir}" for s in ("input", *sections)),
        "--config.model.variant=mu/16",
        "--config.input.batch_size=16",
        "--config.total_steps=3",
        "--config.schedule.warmup_steps=1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    notes = [x.removeprefix("note: ") for x in lines if x.startswith("note: ")]
    expected = DROPPED | CHANGED | accum
    assert sorted(notes) == sorted(f"{k} {why}" for k, why in expected.items())
    # Beside these: which sets are not here, and what a shuffle buffer costs.
    warnings = [x.removeprefix("WARNING:absl:") for x in done.stderr.splitlines()]
    starts = [f"evals.{e} is skipped: the data set" for e in ("v2", "real")]
    for start in (*starts, "shuffle_buffer_size="):
        assert sum(line.startswith(start) for line in warnings) == 1, done.stderr
    assert len(warnings) == 3, done.stderr

    assert json.loads((tmp_path / "config.json").read_text()).get("accum_freq", 1) == (
        accum_freq
    )
    rows = read_rows(tmp_path)
    losses = {
        row["step"]: row["training_loss"] for row in rows if "training_loss" in row
    }
    assert losses[1] == pytest.approx(np.log(1000), rel=1e-6)
    assert np.isfinite(losses[3])
    found = {key.split("/")[0] for key in rows[-1] if key.endswith("/prec@1")}
    assert sorted(found) == evaluators
