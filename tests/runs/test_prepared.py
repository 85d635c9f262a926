"""A run on images that were resized before says so, and records it."""

import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.prepare import __main__ as prepare
from tests.input_pipeline.prepare.conftest import inline  # noqa: F401
from vitjax import train
from vitjax.records.jsonl import read_rows

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg):
    data = lambda split: dict(kind="folder", data_dir=arg, split=split)
    pp = "decode|resize(8)|onehot(2, key='label', key_result='labels')"
    pp += "|keep('image', 'labels')"
    device_pp = "value_range(-1, 1)"
    val = dict(type="classification", data=data("val"), pp_fn=pp, log_steps=4,
               device_pp=device_pp, loss_name="softmax_xent")
    return ConfigDict(dict(
        seed=3, total_steps=8, num_classes=2, loss="softmax_xent", tensorboard=False,
        input=dict(data=data("train"), batch_size=8, pp=pp),
        device_pp=device_pp, log_training_steps=2, ckpt_steps=4, evals=dict(val=val),
        model_name="vit",
        model=dict(width=8, depth=1, mlp_dim=8, num_heads=1, patch_size=(4, 4)),
        optax_name="scale_by_adam", lr=0.001, schedule=dict(warmup_steps=2),
    ))
"""


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "photos"


def test_a_run_says_and_records_it(photos, tmp_path, inline, caplog):  # noqa: F811
    small = tmp_path / "small"
    argv = ["--kind", "folder", "--data_dir", str(photos), "--out", str(small)]
    assert prepare.main([*argv, "--short_side", "20"]) == 0
    (tmp_path / "config.py").write_text(CONFIG)

    def run(workdir, folder, *flags):
        caplog.clear()
        config = f"{tmp_path / 'config.py'}:{folder}"
        argv = ["--config", config, "--workdir", str(tmp_path / workdir), *flags]
        assert train.cli(argv) == 0
        return json.loads((tmp_path / workdir / "config.json").read_text())

    assert "prepared" not in run("full", photos)
    assert "resized" not in caplog.text
    # Training and evaluation read the same folder, which is recorded once.
    facts = {"short_side": 20, "filter": "bicubic", "quality": 95}
    recorded = run("run", small, "--config.total_steps=4")
    assert recorded["prepared"] == [{"folder": str(small), **facts}]
    assert f"{small}: images were resized to 20 before" in caplog.text
    assert "other pixels" not in caplog.text

    # The record is no key of the config, so a longer run resumes.
    again = run(
        "run", small, "--config.evals.val.log_steps=2", "--config.total_steps=4"
    )
    assert again["prepared"] == recorded["prepared"]
    assert "other pixels" not in caplog.text
    # An evaluation alone is recorded too, and other pixels in training are noticed.
    mixed = run(
        "run", photos, f"--config.evals.val.data.data_dir={small}",
        "--config.total_steps=4",
    )  # fmt: skip
    assert mixed["prepared"] == recorded["prepared"]
    assert "the images were not resized before, but those of" in caplog.text
    assert "resized (filter='bicubic', quality=95, short_side=20)" in caplog.text
    assert read_rows(tmp_path / "run")[-1]["step"] == 4
