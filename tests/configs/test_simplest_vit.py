"""SimplEsT-ViT's recipes as the original has them, and that it learns, cut down."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs import simplest_vit
from input_pipeline import device_ops, ops
from vitjax import train
from vitjax.models import MODELS
from vitjax.records.jsonl import read_rows

pytestmark = pytest.mark.slow

DIGITS = {"kind": "arrays", "name": "digits"}


def get_config(*args):
    return simplest_vit.get_config(",".join(args)).to_dict()


@pytest.mark.parametrize(
    ("data", "steps", "warmup", "batch", "rate", "l2"),
    [
        ("cifar10", 90 * 24, 75, 2048, 5e-4, 5e-5),
        ("cifar100", 90 * 24, 75, 2048, 5e-4, 5e-5),
        ("tiny_imagenet", 90 * 48, 75, 2048, 5e-4, 5e-5),
        ("imagenet", 112_590, 10_000, 1024, 5e-4, 1e-5),
    ],
)
def test_every_data_set_has_its_recipe(data, steps, warmup, batch, rate, l2):
    c = get_config(f"data={data}")
    assert c["total_steps"] == steps
    assert c["schedule"] == {"warmup_steps": warmup, "decay_type": "cosine"}
    assert c["input"]["batch_size"] == batch
    assert c.get("accum_freq") == (2 if data == "imagenet" else None)
    assert (c["lr"], c["l2"], c["grad_clip_norm"]) == (rate, l2, 1.0)
    assert c["l2_mults"] == ((".*/bias$", 0.0), (".*", 1.0))
    assert c["model"]["dtype_mm"] == "bfloat16"
    assert "wd" not in c, "decay is coupled here"
    patch = {"tiny_imagenet": 8, "imagenet": 16}.get(data, 4)
    assert c["model"]["patch_size"] == (patch, patch)
    for pp in (c["input"]["pp"], c["evals"]["val"]["pp_fn"]):
        ops.get_preprocess_fn(pp)
    device_ops.get_preprocess_fn(c["device_pp"])
    assert c["evals"]["val"]["device_pp"] == c["device_pp"]
    model = dict(c["model"], depth=7)
    assert MODELS[c["model_name"]](num_classes=c["num_classes"], **model)


def test_the_two_setups():
    tat, simplevit = get_config(), get_config("setup=simplevit")
    assert tat["label_smoothing"] == 0.1
    assert tat["model"]["dropout"] == 0.2
    assert "mixup" not in tat
    assert tat["input"]["pp"] == "pad_crop(32, 4)|flip_lr|keep('image', 'label')"
    assert simplevit["mixup"] == {"p": 0.2}
    assert simplevit["model"]["dropout"] == 0
    assert "label_smoothing" not in simplevit
    assert "|flip_lr|randaug_tv(2, 10)|keep" in simplevit["input"]["pp"]
    assert get_config("crop_flip=off")["input"]["pp"] == "keep('image', 'label')"
    imagenet = get_config("data=imagenet", "setup=simplevit")["input"]["pp"]
    assert "random_resized_crop(224)|flip_lr|randaug_tv(2, 10)|" in imagenet
    for config in (tat, simplevit):
        assert config["evals"]["val"]["pp_fn"] == "keep('image', 'label')"


def test_the_optimizers_and_the_baseline():
    adam, shampoo = get_config(), get_config("opt=shampoo")
    assert adam["optax_name"] == "scale_by_adam"
    assert "optax" not in adam, "torch's defaults are optax's"
    assert shampoo["optax_name"] == "vitjax.scale_by_shampoo"
    assert shampoo["optax"] == {"every": 25, "start": 25}
    assert shampoo["lr"] == 7e-4
    assert get_config("opt=shampoo", "data=imagenet")["lr"] == 3e-4
    assert get_config("sam")["sam"] == {"rho": 0.05}
    assert "l2" not in get_config("l2=0")
    simple = get_config("model=simple", "out_proj=off")
    assert (simple["model_name"], simple["lr"]) == ("simple_vit", 1e-3)
    assert simple["model"]["out_proj"] is False
    assert get_config("lr=3e-4", "model=simple")["lr"] == 3e-4


def test_fashion_mnist_is_padded_and_grey_in_three_channels():
    c = get_config("data=fashion_mnist")
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    features = {"image": tf.constant(image), "label": tf.constant(3)}
    padded = ops.get_preprocess_fn(c["evals"]["val"]["pp_fn"])(features)["image"]
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[2:30, 2:30] = image
    np.testing.assert_array_equal(padded, expected)


def test_it_learns_cut_down_on_real_digits(tmp_path):
    """Four blocks of width 32, 150 steps: two of three digits are read correctly."""
    config = (
        "configs/simplest_vit.py:data=fashion_mnist,l2=0,depth=4,eta=0.7,"
        "width=32,heads=2,patch=8,batch=64,dropout=0,lr=3e-3"
    )
    flags = ["--config", config, "--workdir", str(tmp_path)]
    for where, split in (("input", "train"), ("evals.val", "test")):
        flags.append(f"--config.{where}.data={dict(DIGITS, split=split)}")
    pp = "grayscale_to_rgb|resize(32)|keep('image', 'label')"
    flags += [f"--config.input.pp={pp}", f"--config.evals.val.pp_fn={pp}"]
    flags += ["--config.evals.val.batch_size=72", "--config.evals.val.log_steps=150"]
    flags += ["--config.total_steps=150", "--config.schedule.warmup_steps=20"]
    assert train.cli(flags) == 0
    last = [row["val/prec@1"] for row in read_rows(tmp_path) if "val/prec@1" in row][-1]
    assert last > 0.65


def test_shampoo_trains_and_resumes_to_the_same_bits(tmp_path):
    """A process with one device, where parallel decompositions can wait for ever."""
    config = (
        "configs/simplest_vit.py:data=fashion_mnist,model=simple,opt=shampoo,l2=1e-4,"
        "depth=2,width=32,heads=2,patch=8,batch=64,dropout=0"
    )
    command = [sys.executable, "-m", "vitjax.train", "--config", config]
    command += [f"--config.input.data={dict(DIGITS, split='train')}"]
    command += ["--config.input.pp=grayscale_to_rgb|resize(32)|keep('image', 'label')"]
    command += ["--config.evals=None", "--config.total_steps=12"]
    command += ["--config.optax={'every': 3, 'start': 3, 'block_size': 256}"]
    command += ["--config.schedule.warmup_steps=2", "--config.log_training_steps=1"]
    command += ["--config.ckpt_steps=6", "--workdir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "12")
    again = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert "resumes from step 6" in again.stdout, again.stderr
    names = ("training_loss", "l2_params", "l2_updates")
    first, second = (
        [[row[n] for n in names] for row in found if "training_loss" in row]
        for found in (rows, read_rows(tmp_path))
    )
    assert first == second
    assert len(first) == 12
    assert first[-1][0] < first[0][0]


@pytest.mark.soak
def test_64_blocks_learn_by_their_initialisation(tmp_path):
    """The loss after 120 steps: below 2.25 with E-SPA and TAT, ln 10 with LeCun's."""
    config = (
        "configs/simplest_vit.py:data=fashion_mnist,depth=64,width=32,heads=2,patch=16,"
        "batch=32,l2=0,dropout=0,crop_flip=off,lr=1e-3,init="
    )
    pp = "resize(32)|grayscale_to_rgb|keep('image', 'label')"
    flags = [f"--config.input.data={dict(DIGITS, split='train')}"]
    flags += [f"--config.input.pp={pp}", "--config.evals=None"]
    flags += ["--config.total_steps=120", "--config.log_training_steps=5"]
    found = {}
    for init in ("espa_tat", "lecun"):
        workdir = ["--workdir", str(tmp_path / init)]
        assert train.cli(["--config", config + init, *workdir, *flags]) == 0
        rows = read_rows(tmp_path / init)
        losses = [row["training_loss"] for row in rows if "training_loss" in row]
        found[init] = np.mean(losses[-5:])
    assert found["espa_tat"] < 2.25
    assert abs(found["lecun"] - np.log(10)) < 0.02
