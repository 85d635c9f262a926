"""The config files as data: what each argument changes, and that all of it is valid."""

import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import optax
import pytest
import torch
from PIL import Image

from configs import nanovit, simplest_vit, towervit, transfer, vit_i1k, vit_s16_i1k
from configs.common import ORIGINS
from input_pipeline import device_ops, ops
from input_pipeline.pipeline import make_eval
from tests.helpers import weights_cases
from vitjax.config.experiment import differences, from_config
from vitjax.config.files import from_big_vision, load, plain
from vitjax.optim import make_optimizer

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    p.stem
    for p in (ROOT / "configs").glob("*.py")
    if "def get_config(" in p.read_text()
)


@pytest.mark.parametrize(
    ("module", "arg"),
    [(towervit, "data"), (nanovit, "step=6,data"), (simplest_vit, "source")],
    ids=["towervit", "nanovit", "simplest_vit"],
)
def test_cifar10_comes_from_its_archive_from_tfds_or_from_folders(
    tmp_path, module, arg
):
    """The pixels of a folder of PNGs and of the archive are the same."""
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    archive.mkdir()
    names = [f"class{i}" for i in range(10)]
    rows = images.transpose(0, 3, 1, 2).reshape(10, -1)
    for name, content in {
        "test_batch": {b"data": rows, b"labels": list(range(10))},
        "batches.meta": {b"label_names": [n.encode() for n in names]},
    }.items():
        (archive / name).write_bytes(pickle.dumps(content))
    for name, image in zip(names, images, strict=True):
        (folder / "test" / name).mkdir(parents=True)
        Image.fromarray(image).save(folder / "test" / name / "0.png")
    for kind, place in (("cifar", archive), ("folder", folder)):
        val = module.get_config(f"{arg}={kind},data_dir={place}").evals.val
        data, _ = make_eval(data=val.data.to_dict(), batch_size=10, pp_fn=val.pp_fn)
        batch = next(iter(data))
        order = np.argsort(batch["label"])
        np.testing.assert_array_equal(batch["image"][order], images)
    c = module.get_config(f"{arg}=tfds")
    assert c.input.data.to_dict() == {
        "kind": "tfds", "name": "cifar10", "split": "train",
    }  # fmt: skip
    assert c.input.pp.startswith("decode")


@pytest.mark.parametrize("name", FILES)
def test_every_config_is_valid_and_in_vitjaxs_own_spelling(name, tmp_path):
    needed = {"scratch": "data_dir=photos,classes=3"}
    if name == "finetune":
        path = weights_cases.stored(tmp_path / "x.npz")
        needed[name] = f"{needed['scratch']},ckpt={path}"
    config = load(f"{ROOT}/configs/{name}.py:{needed.get(name, '')}")
    same, notices = from_big_vision(config)
    assert notices == []
    assert same == config
    e = from_config(config.to_dict())
    ops.get_preprocess_fn(e.input["pp"])
    device_ops.get_preprocess_fn(e.device_pp)
    for section in e.evals.values():
        ops.get_preprocess_fn(section["pp_fn"])
        device_ops.get_preprocess_fn(section["device_pp"])


def changed(arg):
    """The lines that an argument of the flagship config changes."""
    base = plain(vit_s16_i1k.get_config())
    return "\n".join(differences(base, plain(vit_s16_i1k.get_config(arg))))


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("head=linear", "model.rep_size: True -> False"),
        ("posemb=learn", "model.posemb: 'sincos2d' -> 'learn'"),
        ("pool=tok", "model.pool_type: 'gap' -> 'tok'"),
        ("variant=B/32", "model.variant: 'S/16' -> 'B/32'"),
        ("gelu=exact", "model.gelu: 'tanh' -> 'exact'"),
        ("batch=4096", "input.batch_size: 1024 -> 4096"),
        ("epochs=300", "total_epochs: 90.0 -> 300.0"),
        ("mu_dtype=float32", "optax.mu_dtype: 'bfloat16' -> 'float32'"),
        ("mixup=off", "mixup: {'p': 0.2} -> not set"),
        ("contrast=fixed", "randaug(2, 10, contrast='fixed')"),
        ("crop=torchvision", "sampler='torchvision'"),
        ("randaug=tv", "|randaug_tv(2, 10)|keep"),
        ("crop=power(2)", "sampler='power(2)'"),
        ("crop=beta(1, 2)", "sampler='beta(1, 2)'"),
        ("area_min=2.5", "area_min=2.5,"),
        ("precision=tf32", "matmul_precision: not set -> 'high'"),
    ],
)
def test_a_single_choice_changes_that_and_nothing_else(arg, words):
    [line] = changed(arg).splitlines()
    assert words in line


def test_randaug_moves_into_the_step_as_a_whole():
    """With the preset's contrast; the evaluations stay."""
    host, device = (
        vit_s16_i1k.get_config(f"preset=fixed,randaug={where}")
        for where in ("on", "device")
    )
    call = "randaug(2, 10, contrast='fixed')"
    kept = "keep('image', 'label', 'randaug_plan')"
    plain_keep = "keep('image', 'label')"
    moved = host.input.pp.replace(call, "randaug_plan(2)").replace(plain_keep, kept)
    assert device.input.pp == moved
    assert device.device_pp == f"{call}|{host.device_pp}"
    lines = differences(plain(host), plain(device))
    assert [line.split(":")[0] for line in lines] == ["device_pp", "input.pp"]


def test_choices_that_concern_training_and_evaluation_change_both():
    for arg in ("precise", "antialias"):
        lines = changed(arg).splitlines()
        assert len(lines) == 6
        assert all(f"{arg}=True" in line for line in lines)
    assert "randaug" not in vit_s16_i1k.get_config("randaug=off").input.pp
    c = vit_s16_i1k.get_config("data=100%")
    assert c.input.data.split == "train"
    assert "minival" not in c.evals, "it would be part of the training data"


def test_presets_and_choices_on_top_of_them():
    c = vit_s16_i1k.get_config("preset=mup_vit,mu_dtype=bfloat16")
    assert c.optax.mu_dtype == "bfloat16"
    assert c.model.gelu == "exact"
    assert c.model.rep_size is False
    assert "precise=True" in c.input.pp
    assert "method='bilinear', antialias=True" in c.evals.val.pp_fn
    assert changed("preset=big_vision") == ""
    assert changed("precision=float32") == ""
    c = vit_s16_i1k.get_config("crop=beta(1, 2),epochs=3")
    assert c.total_epochs == 3


def test_vit_i1k_scales_the_recipe():
    b, large = vit_i1k.get_config(), vit_i1k.get_config("variant=L/16")
    assert b.model.to_dict() == {
        "variant": "B/16",
        "rep_size": True,
        "pool_type": "tok",
        "posemb": "learn",
        "gelu": "tanh",
    }
    assert large.model.variant == "L/16"
    assert b.input.pp.count("randaug(2, 15)|keep") == 1
    assert b.mixup.p == 0.5
    assert (b.loss, b.init_head_bias) == ("sigmoid_xent", -6.9)
    assert b.evals.val.loss_name == "sigmoid_xent"
    assert b.optax_name == "scale_by_adam"
    adafactor = vit_i1k.get_config("optimizer=adafactor,beta2_cap=0.95")
    assert adafactor.optax_name == "big_vision.scale_by_adafactor"
    assert adafactor.optax.to_dict() == {"beta2_cap": 0.95}
    assert "randaug" not in vit_i1k.get_config("aug=none").input.pp
    assert "mixup" not in vit_i1k.get_config("aug=light1")


@pytest.mark.parametrize(
    ("module", "arg", "words"),
    [
        (vit_s16_i1k, "presett=fixed", "'presett'; did you mean 'preset'"),
        (vit_s16_i1k, "preset=fixd",
         "preset='fixd' is not one of big_vision, fixed, mup_vit"),
        (vit_s16_i1k, "crop=pytorch", "crop='pytorch' is not one of"),
        (vit_s16_i1k, "epochs=many", "epochs='many' is not of type float"),
        (vit_s16_i1k, "mixup=maybe", "mixup='maybe' is not on or off"),
        (vit_s16_i1k, "head", "head='true' is not one of"),
        (nanovit, "step=1", "step='1' is not one of 2, 3, 4, 5, 6, 7"),
        (nanovit, "step=2,data=cifar", "data='cifar' is not one of idx, tfds"),
        (nanovit, "dtype=float8",
         "dtype='float8' is not one of float32, bfloat16, float16"),
        (vit_i1k, "beta2_cap=0.95", "beta2_cap needs optimizer=adafactor"),
        (simplest_vit, "data=cifar", "data='cifar' is not one of cifar10, cifar100"),
        (simplest_vit, "setup=none", "setup='none' is not one of tat, simplevit"),
        (simplest_vit, "opt=sgd", "opt='sgd' is not one of adam, shampoo"),
        (simplest_vit, "model=vit", "model='vit' is not one of simplest, simple"),
        (simplest_vit, "init=he", "init='he' is not one of espa_tat, lecun"),
        (simplest_vit, "dept=3", "did you mean 'depth'"),
        (transfer, "gelu=erf", "gelu='erf' is not one of tanh, exact"),
        (transfer, "mlp_head=maybe", "mlp_head='maybe' is not one of on, true"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_sentence(module, arg, words):
    with pytest.raises(ValueError, match="config argument") as error:
        module.get_config(arg)
    assert words in str(error.value)


def test_configs_import_nothing_of_the_programme():
    for name in FILES:
        module = importlib.import_module(f"configs.{name}")
        assert not {"jax", "tensorflow", "vitjax"} & vars(module).keys()


def test_every_argument_that_the_docs_name_is_taken():
    text = (ROOT / "docs" / "numerics.md").read_text()
    # The paper's ablation: whole cells of code.
    arguments = set(re.findall(r"\| `(\w+=[^`]+)` \|", text))
    assert len(arguments) == 8
    # The tables of choices: the name, then its values in code or plain, default first.
    for name, values in (
        ("head", ("mlp", "linear")),
        ("data", ("99%", "100%")),
        ("crop", ("tf", "torchvision", "power(2)", "beta(1, 2)")),
        ("gelu", ("tanh", "exact")),
        ("preset", ("big_vision", "fixed", "mup_vit")),
        ("mu_dtype", ("bfloat16", "float32")),
        ("precision", ("float32", "tf32", "bfloat16", "bfloat16_all")),
    ):
        assert f"`{name}`" in text or f"{name}=" in text
        assert all(value in text for value in values)
        arguments |= {f"{name}={value}" for value in values}
    assert len(arguments) > 15
    for argument in arguments:
        vit_s16_i1k.get_config(argument)


def test_towervits_optimizer_is_torchs_sgd_with_momentum():
    c = towervit.get_config()
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    sgd = torch.optim.SGD([weight], lr=3e-4, momentum=0.9)
    params = {"kernel": np.array([1.0, -2.0], np.float32)}
    sizes = dict(total_steps=100, batch_size=128, data_size=50_000)
    tx, _ = make_optimizer(
        params, **sizes, lr=c.lr, optax_name=c.optax_name, optax=c.optax
    )
    state = tx.init(params)
    for grad in ([0.5, 1.0], [-0.25, 2.0]):
        weight.grad = torch.tensor(grad)
        sgd.step()
        grads = {"kernel": np.array(grad, np.float32)}
        update, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, update)
        np.testing.assert_allclose(params["kernel"], weight.detach(), rtol=1e-6)


# The differences between nanoViT's steps in its notebooks: data, patch, depth,
# heads, width, dropout, batch, steps, rate, torch's weight decay, clipping, warm-up.
NANOVIT = {
    2: ("idx", 4, 4, 4, 768, 0.2, 32, 1_000, 6e-4, 0.01, None, None),
    3: ("cifar", 8, 4, 4, 768, 0.2, 32, 1_000, 6e-4, 0.01, None, None),
    4: ("cifar", 8, 4, 4, 768, 0.2, 32, 1_000, 6e-4, 0.1, 1.0, 50),
    5: ("cifar", 8, 8, 8, 1024, 0.2, 32, 10_000, 6e-4, 0.1, 1.0, 500),
    6: ("cifar", 4, 4, 4, 512, 0.2, 128, 10_000, 3e-4, 0.1, 1.0, 1_000),
    7: ("folder", 16, 12, 12, 768, 0.1, 32, 400_000, 3e-4, 0.1, 1.0, 20_000),
}


@pytest.mark.parametrize("step", NANOVIT)
def test_nanovits_steps(step):
    c = nanovit.get_config(f"step={step}")
    e = from_config(c.to_dict())
    m, schedule = c.model, c.get("schedule")
    found = (c.input.data.kind, m.patch_size[0], m.depth, m.num_heads, m.width)
    found += (m.dropout, c.input.batch_size, c.total_steps, c.lr, c.wd / c.lr)
    found += (c.get("grad_clip_norm"),)
    found += (schedule and round(schedule.warmup_percent * c.total_steps),)
    assert found == pytest.approx(NANOVIT[step])
    for pp in (e.input["pp"], e.evals["val"]["pp_fn"]):
        ops.get_preprocess_fn(pp)
    for pp in (e.device_pp, e.evals["val"]["device_pp"]):
        device_ops.get_preprocess_fn(pp)
    augmented = {
        6: "pad_crop(32, 4)|flip_lr|autoaugment_cifar10",
        7: "randaug_tv(2, 9)",
    }
    assert augmented.get(step, "keep") in c.input.pp
    assert ("flip" in c.input.pp) == (step in augmented)
    assert ("normalize" in c.device_pp) == (step in augmented)
    assert c.num_classes == (100 if step == 7 else 10)
    if schedule:
        assert (schedule.decay_type, schedule.end) == ("cosine", 0.1)


def test_nanovits_choices():
    lines = differences(
        plain(nanovit.get_config("step=5")),
        plain(nanovit.get_config("step=5,fixed=off")),
    )
    assert lines == ["schedule.decay_type: 'cosine' -> 'odd_cosine'"]
    for step, kind, name in ((2, "idx", "mnist"), (6, "cifar", "cifar10")):
        c = nanovit.get_config(f"step={step},data=tfds")
        assert c.input.data.to_dict() == {
            "kind": "tfds",
            "name": name,
            "split": "train",
        }
        assert c.evals.val.data.split == "test"
        assert c.input.pp.startswith("decode")
        c = nanovit.get_config(f"step={step},data_dir=here")
        assert c.input.data.to_dict() == {
            "kind": kind, "data_dir": "here", "split": "train", "origin": ORIGINS[name],
        }  # fmt: skip
        assert "decode" not in c.input.pp
    c = nanovit.get_config("step=7")
    # Every 10,000th stays, and of the others only the newest: 13 from 280,000 on.
    assert (c.keep_ckpt_steps, c.max_to_keep) == (10_000, 1)
    c = nanovit.get_config("step=7,data=huggingface")
    assert c.evals.val.data.to_dict() == {
        "kind": "huggingface", "name": "clane9/imagenet-100", "split": "validation",
        "origin": ORIGINS["imagenet100_hub"],
    }  # fmt: skip
    c = nanovit.get_config("step=7,data=huggingface,data_dir=here")
    assert c.input.data.to_dict() == {
        "kind": "huggingface", "data_dir": "here", "split": "train",
    }  # fmt: skip
    assert nanovit.get_config("step=6").model.dtype_mm == "bfloat16"
    c = nanovit.get_config("step=6,dtype=float16")
    assert c.model.dtype_mm == "float16"
    assert c.loss_scale.to_dict() == {}
    assert "loss_scale" not in nanovit.get_config("step=6")
