"""Fine-tuning on one's own images: the recipe, and that it learns."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from configs import everyday, finetune
from tests.helpers import weights_cases
from vitjax import train
from vitjax.optim import make_optimizer
from vitjax.records.jsonl import read_rows

PARAMS = {"head": {"kernel": np.array([[1.0, -2.0]], np.float32)}}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """A file of weights."""
    return weights_cases.stored(tmp_path_factory.mktemp("weights") / "x.npz")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder {train,val}/CLASS/*.png of 640 and 200 digits."""
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    for split, rows in (("train", range(640)), ("val", range(640, 840))):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
        for i in rows:
            Image.fromarray(images[i]).save(root / split / f"{labels[i]}/{i}.png")
    return root


def test_the_rate_grows_with_the_root_of_the_batch(ckpt):
    """By hand: a batch of 256 has the rate itself, one of 16 a quarter of it."""
    say = f"ckpt={ckpt},data_dir=photos,classes=3"
    for batch, factor in ((16, 1 / 4), (64, 1 / 2), (256, 1), (1024, 2)):
        c = finetune.get_config(f"{say},batch={batch}")
        assert c.lr == pytest.approx(factor * everyday.RATE)
    c = finetune.get_config(f"{say},batch=64,lr=0.5")
    assert c.lr == 0.5


def test_the_optimizer_is_torchs_adamw(ckpt):
    c = finetune.get_config(f"ckpt={ckpt},data_dir=photos,classes=3,wd=0.3,lr=0.01")
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    adamw = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.3)
    tx, _ = make_optimizer(
        PARAMS, total_steps=9, batch_size=64, data_size=99, lr=c.lr, wd=c.wd,
        optax_name=c.optax_name,
    )  # fmt: skip
    params, state = PARAMS, tx.init(PARAMS)
    for grad in ([[0.5, 1.0]], [[-0.25, 2.0]]):
        weight.grad = torch.tensor(grad)
        adamw.step()
        grads = {"head": {"kernel": np.array(grad, np.float32)}}
        update, state = tx.update(grads, state, params)
        params = {
            "head": {"kernel": params["head"]["kernel"] + update["head"]["kernel"]}
        }
        np.testing.assert_allclose(
            params["head"]["kernel"], weight.detach().numpy(), rtol=1e-5
        )


def test_the_augmentation_and_the_length_are_those_of_the_page(ckpt):
    """docs/own_images.md has these defaults."""
    say = f"ckpt={ckpt},data_dir=photos,classes=3"
    c = finetune.get_config(say)
    assert (c.total_epochs, c.input.batch_size, c.mixup.p) == (20, 64, 0.1)
    assert "|flip_lr|randaug_tv(2, 5)|" in c.input.pp
    assert "area_min=25" in c.input.pp
    off = finetune.get_config(f"{say},mixup=0,randaug=0,flip=off")
    assert "mixup" not in off
    assert "randaug" not in off.input.pp
    assert "flip" not in off.input.pp


@pytest.mark.parametrize("total", [3, 20, 1000])
def test_runs_of_any_length_warm_up_and_decay(ckpt, total):
    c = finetune.get_config(f"ckpt={ckpt},data_dir=photos,classes=3,epochs=10,warmup=1")
    _, [rate] = make_optimizer(
        PARAMS, total_steps=total, batch_size=64, data_size=99, lr=1.0,
        optax_name="identity", schedule=c.schedule,
    )  # fmt: skip
    rates = [float(rate(step)) for step in range(total + 1)]
    peak = max(1, round(total / 10))
    assert rates[0] == 0
    assert rates[peak] == 1 == max(rates)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[total] == pytest.approx(0, abs=1e-6)


def test_arguments_switch_parts_of_the_recipe(ckpt):
    say = f"ckpt={ckpt},data_dir=photos,classes=3"
    c = finetune.get_config(say)
    assert c.lr_mults[-1] == ("Transformer/encoderblock_1/.*", 0.75)
    assert "ema" not in c
    assert c.evals.val.params == "params"
    off = finetune.get_config(
        f"{say},mixup=0,randaug=0,flip=off,layer_decay=1,ema=0.99,area_min=50"
    )
    assert not {"mixup", "lr_mults"} & {*off.keys()}
    assert off.input.pp == (
        "decode_jpeg_and_inception_crop(224, area_min=50, antialias=True)"
        "|keep('image', 'label')"
    )
    assert off.ema.decay == 0.99
    assert off.evals.val.params == "ema"


def test_classes_and_image_size_are_found(digits, ckpt, digits_run):
    c = finetune.get_config(f"ckpt={ckpt},data_dir={digits},val_split=train[:9]")
    assert c.num_classes == 10
    assert "onehot(10," in c.device_pp
    assert "onehot(10," in c.evals.val.device_pp
    assert "central_crop(224)" in c.evals.val.pp_fn
    c = finetune.get_config(f"ckpt={digits_run},data_dir={digits},classes=12")
    assert c.num_classes == 12
    assert "central_crop(8)" in c.evals.val.pp_fn


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("data_dir=photos", "the config argument ckpt is missing"),
        ("ckpt=no.npz,data_dir=photos", "there is no file"),
        ("ckpt={ckpt}", "the config argument data_dir is missing"),
        ("ckpt={ckpt},data_dir=no/photos", "there is no folder no/photos"),
        ("ckpt={ckpt},data_dir={one}", "has 1 class, but a classifier needs at least two"),
        ("ckpt={ckpt},data_dir={two}", "no split 'val'"),
        ("ckpt={ckpt},data_dir={two},val_split=empty", "has no images"),
        ("ckpt={ckpt},data_dir={two},val_split=train,batch=9",
         "batch=9 is more than the 4 examples of"),
        ("ckpt={ckpt},data_dir={two},epochs=2,warmup=3", "less than epochs=2"),
        ("ckpt={ckpt},data_dir={two},batch=-8", "batch=-8 must be at least 1"),
        ("ckpt={ckpt},data_dir={two},randaug=on", "is not of type int"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(ckpt, tmp_path, arg, words):
    for name in (
        "one/train/a",
        "one/val/a",
        "two/train/a",
        "two/train/b",
        "two/empty/a",
    ):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for i in range(0 if "empty" in name else 2):
            Image.new("RGB", (9, 9)).save(folder / f"{i}.jpg")
    places = {"ckpt": ckpt, "one": tmp_path / "one", "two": tmp_path / "two"}
    with pytest.raises(ValueError, match=words) as error:
        finetune.get_config(arg.format(**places))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_it_learns_digits_from_files(digits, digits_run, tmp_path, capsys):
    """The checkpoint is a model of grey images; files are RGB. A line says what starts."""
    say = f"ckpt={digits_run},data_dir={digits},epochs=15,warmup=1,lr=0.02,flip=off"
    config = f"configs/finetune.py:{say},randaug=0,area_min=80"
    assert train.cli(["--config", config, "--workdir", str(tmp_path / "run")]) == 0
    found = [r["val/prec@1"] for r in read_rows(tmp_path / "run") if "val/prec@1" in r]
    assert found[0] < 0.2
    assert found[-1] > 0.45
    [line] = [x for x in capsys.readouterr().out.splitlines() if "starts from" in x]
    assert re.fullmatch(
        rf"starts from {digits_run}, step \d+; fresh: head/\.\*; images get half, mean "
        "0.5 and deviation 0.5",
        line,
    )
