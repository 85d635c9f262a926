"""The metric `skipped`: how many examples were replaced, also after a resume."""

import shutil

import jax
import numpy as np
from PIL import Image

from input_pipeline import sources
from input_pipeline.stream import order
from vitjax import train
from vitjax.records.jsonl import read_rows
from vitjax.records.rows import SkipCount

EXAMPLES, BATCH, STEPS, SEED = 20, 8, 10, 3
DAMAGED = {"a": (4, 7), "b": (1,)}
CONFIG = """
from ml_collections import ConfigDict

def get_config(arg):
    data = dict(kind="folder", data_dir=arg, split="train")
    pp = "decode|resize(8)|onehot(2, key='label', key_result='labels')"
    pp += "|keep('image', 'labels')"
    return ConfigDict(dict(
        seed=3, total_steps=10, num_classes=2, loss="softmax_xent", tensorboard=False,
        input=dict(data=data, batch_size=8, pp=pp, skip_errors=True),
        device_pp="value_range(-1, 1)", log_training_steps=2, ckpt_steps=5,
        model_name="vit",
        model=dict(width=8, depth=1, mlp_dim=8, num_heads=1, patch_size=(4, 4)),
        optax_name="scale_by_adam", lr=0.001, schedule=dict(warmup_steps=2),
    ))
"""


def test_the_count_is_over_all_rows_and_goes_on_from_before(mesh):
    calls = []

    def skipped(start, stop):
        calls.append((start, stop))
        return 3

    count = SkipCount(skipped, mesh, first_step=5, before=40)
    with jax.transfer_guard("disallow"):
        total = count.total(9)
    assert calls == [(5, 9)]
    assert total.dtype == np.int32
    assert int(total) == 43
    assert total.sharding.is_fully_replicated


def test_a_run_records_what_it_skipped(tmp_path):
    """Expected is read off the order of the stream; a resumed run counts on."""
    rng = np.random.default_rng(0)
    damaged = []
    for name in "ab":
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for i in range(EXAMPLES // 2):
            path = folder / f"{i:02}.jpg"
            Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(path)
            if i in DAMAGED[name]:
                path.write_bytes(path.read_bytes()[:200])
                damaged.append(str(path))
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    flags = ["--config", f"{config}:{tmp_path / 'data'}"]

    whole = tmp_path / "whole"
    assert train.cli([*flags, "--workdir", str(whole)]) == 0
    _, indices = order.example_at(
        np.arange(STEPS * BATCH, dtype=np.int64), seed=SEED, size=EXAMPLES
    )
    data = {"kind": "folder", "data_dir": str(tmp_path / "data"), "split": "train"}
    describe = sources.open_source(**data).describe
    bad = [any(path in describe(int(i)) for path in damaged) for i in indices.numpy()]
    expected = np.cumsum(np.reshape(bad, (STEPS, BATCH)).sum(1))
    rows = {row["step"]: row for row in read_rows(whole) if "skipped" in row}
    assert {s: r["skipped"] for s, r in rows.items()} == {
        s: expected[s - 1] for s in (1, 2, 4, 6, 8, 10)
    }
    assert expected[-1] == 12

    # From step 5 on, which lies between two rows.
    half = tmp_path / "half"
    shutil.copytree(whole / "checkpoints" / "5", half / "checkpoints" / "5")
    shutil.copy(whole / "config.json", half)
    assert train.cli([*flags, "--workdir", str(half)]) == 0
    for row in read_rows(half):
        for name in ("skipped", "training_loss"):
            assert row[name] == rows[row["step"]][name]
    assert [row["step"] for row in read_rows(half)] == [6, 8, 10]
