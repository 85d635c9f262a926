"""Config files in big_vision's own spelling load and train unmodified.

Three configs: big_vision's ViT-S/16, and mup-vit's forks of it for one and eight GPUs.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from configs import vit_s16_i1k
from input_pipeline import ops
from vitjax import program, train
from vitjax.config.experiment import differences, from_config
from vitjax.config.files import from_big_vision, load, plain
from vitjax.records.jsonl import read_rows

pytestmark = pytest.mark.slow

# Key -> the rest of its notice.
DROPPED = {
    "pp_modules": "is dropped: all ops are always available",
    "mixup.fold_in": "is dropped: big_vision does not read it either",
}
CHANGED = {
    "evals.v2": "is skipped where imagenet_v2 is not prepared (required=False)",
    "evals.real": "is skipped where imagenet2012_real is not prepared (required=False)",
}
ACCUM = {"input.accum_freq": "is read as the top-level accum_freq"}
FILE = str(Path(__file__).parent / "big_vision_style" / "vit_s16_i1k.py")
# File -> (notices, total steps on ImageNet, accum_freq).
FILES = {
    FILE: ({}, 111_477, 1),
    f"{FILE}:single_gpu": (ACCUM, 112_603, 8),
    f"{FILE}:eight_gpus": (ACCUM, 112_603, 1),
}


@pytest.mark.parametrize("file", FILES, ids=["big_vision", "single_gpu", "eight_gpus"])
def test_every_key_is_understood_or_named(file):
    accum, steps, accum_freq = FILES[file]
    original = load(file)
    config, notices = from_big_vision(original)
    expected = DROPPED | CHANGED | accum
    assert sorted(notices) == sorted(f"{k} {why}" for k, why in expected.items())
    # Every key has a notice or is read: from_config refuses an unknown key.
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
    """They differ only in where pixels become floats, and in how they shuffle."""
    theirs, _ = from_big_vision(load(FILE))
    lines = differences(plain(vit_s16_i1k.get_config()), plain(theirs))
    keys = {line.partition(":")[0] for line in lines}
    for name in ("train", "minival", "val", "v2", "real"):
        keys -= {f"evals.{name}.{key}" for key in ("pp_fn", "device_pp", "required")}
    assert keys == {
        "device_pp", "input.cache_raw", "input.pp", "input.shuffle_buffer_size",
        "model.gelu",
    }  # fmt: skip
    evals = vit_s16_i1k.get_config().evals
    assert [k for k in evals if not evals[k].required] == ["real", "v2"]


def test_it_trains_with_one_notice_for_each_key(imagenet_dir, tmp_path, capsys, caplog):
    """Unmodified, except for the data's folder and for sizes."""
    flags = ["--config", f"{FILE}:single_gpu", "--workdir", str(tmp_path)]
    sections = ["input", *(f"evals.{e}" for e in ("train", "val", "v2", "real"))]
    flags += [f"--config.{s}.data.data_dir={imagenet_dir}" for s in sections]
    flags += ["--config.model.variant=mu/16", "--config.input.batch_size=64"]
    flags += ["--config.total_steps=3", "--config.schedule.warmup_steps=1"]
    assert train.cli(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    notes = [x.removeprefix("note: ") for x in lines if x.startswith("note: ")]
    expected = DROPPED | CHANGED | ACCUM
    assert sorted(notes) == sorted(f"{k} {why}" for k, why in expected.items())
    # Also: which sets are not here, and what a shuffle buffer costs.
    warnings = [record.getMessage() for record in caplog.records]
    starts = [f"evals.{e} is skipped: the data set" for e in ("v2", "real")]
    for start in (*starts, "shuffle_buffer_size="):
        assert sum(line.startswith(start) for line in warnings) == 1, warnings
    assert len(warnings) == 3, warnings

    assert json.loads((tmp_path / "config.json").read_text())["accum_freq"] == 8
    rows = read_rows(tmp_path)
    losses = [row["training_loss"] for row in rows if "training_loss" in row]
    assert losses[0] == pytest.approx(np.log(1000), rel=1e-6)
    assert np.isfinite(losses[-1])
    found = {key.split("/")[0] for key in rows[-1] if key.endswith("/prec@1")}
    assert found == {"train", "val"}
