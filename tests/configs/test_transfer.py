"""Fine-tuning: what the arguments say, and that it beats training from scratch."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import transfer
from tests.helpers import weights_cases as cases
from tests.helpers.weights_cases import TOK
from vitjax import step, train
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.models import MODELS
from vitjax.optim import make_optimizer
from vitjax.records.jsonl import read_rows
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names, match_patterns

ROOT = Path(__file__).resolve().parents[2]


def test_bit_hyperrule():
    """Steps and mixup by the number of examples; a tenth from 30, 60, 90 per cent on."""
    for examples, steps, mixup in ((0, 500, False), (50_000, 10_000, True)):
        c = transfer.get_config(f"examples={examples}")
        assert c.total_steps == steps
        assert ("mixup" in c) == mixup
    assert transfer.get_config("examples=1000000").total_steps == 20_000
    c = transfer.get_config("steps=1000,batch=128")
    assert c.lr == pytest.approx(0.003 / 4)
    params = {"head": {"kernel": np.zeros((2, 2), np.float32)}}
    _, [rate] = make_optimizer(
        params, total_steps=1000, batch_size=128, data_size=1000, lr=1.0,
        optax_name="identity", schedule=c.schedule,
    )  # fmt: skip
    found = [float(rate(s)) for s in (0, 50, 100, 299, 300, 600, 900, 999)]
    expected = [0, 0.5, 1, 1, 0.1, 0.01, 0.001, 0.001]
    assert found == pytest.approx(expected)
    # A run of another length, as by --config.total_steps: all of it moves.
    _, [rate] = make_optimizer(
        params, total_steps=100, batch_size=128, data_size=1000, lr=1.0,
        optax_name="identity", schedule=c.schedule,
    )  # fmt: skip
    found = [float(rate(s)) for s in (0, 5, 10, 29, 30, 60, 90, 99)]
    assert found == pytest.approx(expected)


def test_rates_fall_from_the_head_to_the_patches():
    """By hand: 12 blocks, 0.5 each."""
    c = transfer.get_config("layer_decay=0.5,posemb=learn,pool=tok")
    model = MODELS["vit"](
        num_classes=3, variant="S/16", posemb="learn", pool_type="tok"
    )
    shapes = step.param_shapes(model, (32, 32, 3))
    patterns, mults = zip(*c.lr_mults, strict=True)
    found = {}
    for mask, mult in zip(match_patterns(shapes, patterns), mults, strict=True):
        found |= {name: mult for name, hit in flatten_with_names(mask) if hit}
    every = {name for name, _ in flatten_with_names(shapes)}
    whole = {n for n in every if n.startswith(("head/", "Transformer/encoder_norm/"))}
    assert every - found.keys() == whole, "the head and the norm before it"
    for name, mult in found.items():
        parts = name.split("/")
        if parts[0] == "Transformer":
            i = int(parts[1].removeprefix("encoderblock_"))
            assert mult == 0.5 ** (12 - i)
        else:
            assert mult == 0.5**13


def test_freezing_leaves_the_head():
    c = transfer.get_config("freeze=backbone,schedule=cosine")
    (head, section), (rest, none) = c.schedule
    assert (head, rest, none) == ("head/.*", ".*", None)
    assert section["decay_type"] == "cosine"
    c = transfer.get_config("data=cifar10")
    assert c.evals.val.data.to_dict() == {"name": "cifar10", "split": "test"}
    c = transfer.get_config("data=huggingface,data_dir=pets,val_split=validation")
    assert c.input.data.to_dict() == {
        "kind": "huggingface", "data_dir": "pets", "split": "train",
    }  # fmt: skip
    assert c.evals.val.data.split == "validation"
    assert (c.model.gelu, transfer.get_config("gelu=exact").model.gelu) == (
        "tanh", "exact",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form", "kw", "arg", "other"),
    [
        ("x.npz", None, {"pool_type": "map", "rep_size": 7, "posemb": "sincos2d"}, "",
         {}),
        ("x.pth", "timm", TOK | {"layer_scale": 1e-5, "registers": 2}, ",heads=3,norm=half",
         {"gelu": "exact"}),
        ("x.pth", "timm", TOK | {"registers": 1, "distilled": True}, ",heads=3,eps=1e-3,norm=imagenet",
         {"gelu": "exact", "norm_eps": 1e-3}),
        ("x.pth", "timm", {"posemb": "learn", "norm_after_pool": True, "pre_norm": True},
         ",heads=3,gelu=quick,norm=clip", {"gelu": "quick", "norm_eps": 1e-5}),
        ("x.pth", "mup_vit", TOK | {"registers": 1}, ",heads=3,pool=tok",
         {"gelu": "exact"}),
    ],
    ids=["npz", "dinov2", "deit", "clip", "mup_vit"],
)  # fmt: skip
def test_the_model_is_the_checkpoints(tmp_path, name, form, kw, arg, other):
    path = cases.stored(tmp_path / name, form, **kw)
    c = transfer.get_config(f"ckpt={path}{arg},classes=5")
    made = MODELS["vit"](num_classes=5, **c.model.to_dict())
    assert made == cases.model(**kw, **other)
    assert c.model_init == str(path)
    # The heads, and only these, are trained and start fresh.
    names = [n for n, _ in flatten_with_names(cases.params(**kw))]
    [heads] = c.dont_load
    fresh = {n for n in names if re.fullmatch(heads, n)}
    assert fresh == {n for n in names if n.startswith("head")}
    c = transfer.get_config(f"ckpt={path}{arg},freeze=backbone,layer_decay=0.5")
    assert c.schedule[0][0] == heads
    patterns = [pattern for pattern, _ in c.lr_mults]
    whole = {n for n in names if not any(re.fullmatch(p, n) for p in patterns)}
    assert whole == fresh | {
        n for n in names if n.startswith(("Transformer/encoder_norm", "MAPHead", "p"))
        if not n.startswith(("pre_norm", "pos_embedding"))
    }  # fmt: skip


def test_facts_that_no_file_contains_are_arguments(tmp_path):
    path = cases.stored(tmp_path / "x.pth", "timm", **TOK)
    with pytest.raises(
        ValueError, match="give num_heads, as the config argument heads"
    ):
        transfer.get_config(f"ckpt={path}")
    # Positions that leave their grid open leave no argument open.
    path = cases.stored(tmp_path / "y.pth", "timm", grid=(4, 6), **TOK)
    model = transfer.get_config(f"ckpt={path},heads=3,norm=half").model
    assert (model.pool_type, model.posemb) == ("tok", "learn")
    say = {"posemb": "sincos2d", "grid": cases.SQUARE}
    path = cases.stored(tmp_path / "z.pth", "timm", say, posemb="sincos2d")
    assert (
        transfer.get_config(f"ckpt={path},heads=3,norm=half").model.posemb == "sincos2d"
    )
    with pytest.raises(ValueError, match="there is no file"):
        transfer.get_config("ckpt=nowhere.npz")
    model = transfer.get_config(
        f"ckpt={path},variant=S/8,mlp_head,dtype=bfloat16,norm=half"
    ).model
    assert (model.variant, model.rep_size, model.dtype_mm) == ("S/8", True, "bfloat16")
    assert "width" not in model


def test_hugging_faces_config_tells_gelu_and_eps(tmp_path):
    cases.stored(tmp_path / "model.safetensors", "huggingface", **TOK)
    told = {
        "num_attention_heads": 3,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-12,
    }
    (tmp_path / "config.json").write_text(json.dumps(told))
    model = transfer.get_config(f"ckpt={tmp_path},norm=half").model
    assert (model.gelu, model.norm_eps, model.num_heads) == ("quick", 1e-12, 3)
    config = (
        "from configs import vit_s16_i1k\n"
        "def get_config():\n    config = vit_s16_i1k.get_config()\n"
        f"    config.num_classes = {cases.CLASSES}\n    return config\n"
    )
    (tmp_path / "own.py").write_text(config)
    opened = open_trained(tmp_path, config=str(tmp_path / "own.py")).model
    assert (opened.gelu, opened.norm_eps) == ("quick", 1e-12)


def test_a_run_is_read_before_any_device(tmp_path):
    """Several processes join before the first device, and after their config."""
    arguments = {"width": 32, "depth": 1, "num_heads": 2, "patch_size": (2, 2)}
    meta = {"config": {"model": arguments}}
    with contextlib.closing(Checkpointer(tmp_path)) as checkpointer:
        checkpointer.save(1, {"params": {"x": np.zeros(2)}}, meta)
        checkpointer.finish()
    code = (
        "from configs import transfer\n"
        f"model = transfer.get_config('ckpt={tmp_path},norm=half').model\n"
        "assert model.width == 32\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


MODEL = {
    "width": 32, "depth": 2, "mlp_dim": 64, "num_heads": 2, "patch_size": (2, 2),
    "pool_type": "gap", "posemb": "sincos2d",
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits 0 to 4, and few of 5 to 9, as files: {low,high}_{train,test}.npz."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8)
    rng = np.random.default_rng(0)
    for name, first, count in (("low", 0, 700), ("high", 5, 60)):
        own = rng.permutation(np.flatnonzero((labels >= first) & (labels < first + 5)))
        for split, rows in (("train", own[:count]), ("test", own[-200:])):
            np.savez(
                folder / f"{name}_{split}.npz",
                images=images[rows],
                labels=labels[rows] - first,
            )
    return folder


def fit(workdir, digits, name, arg, *overrides):
    """The final accuracy of a run of configs/transfer.py on those files."""
    keep = "keep('image', 'label')"
    flags = ["--config", f"configs/transfer.py:{arg}", "--workdir", str(workdir)]
    for where, split in (("input", "train"), ("evals.val", "test")):
        path = str(digits / f"{name}_{split}.npz")
        data = {"kind": "npz", "path": path, "split": "all", "num_classes": 5}
        flags.append(f"--config.{where}.data={data}")
    flags += [f"--config.input.pp={keep}", f"--config.evals.val.pp_fn={keep}"]
    flags += [f"--config.model={MODEL}", "--config.evals.val.batch_size=40"]
    flags += ["--config.evals.val.log_percent=1", "--config.ckpt_percent=1"]
    assert train.cli([*flags, *overrides]) == 0
    return [row["val/prec@1"] for row in read_rows(workdir) if "val/prec@1" in row][-1]


@pytest.mark.soak
def test_fine_tuning_beats_training_from_scratch_at_the_same_budget(digits, tmp_path):
    """Learned on 0 to 4, then 60 examples of 5 to 9 for 80 steps."""
    adam = ("--config.optax_name=scale_by_adam",)
    recipe = "schedule=cosine,lr=0.003"
    learn = f"classes=5,batch=64,steps=400,{recipe}"
    assert fit(tmp_path / "low", digits, "low", learn, *adam) > 0.9
    start = f"ckpt={tmp_path / 'low'}"
    budget = f"classes=5,batch=32,steps=80,{recipe}"
    tuned = fit(tmp_path / "tuned", digits, "high", f"{start},{budget}", *adam)
    scratch = fit(tmp_path / "scratch", digits, "high", budget, *adam)
    assert tuned > scratch + 0.05
    # The head alone learns on a frozen backbone.
    frozen = f"{start},freeze=backbone,{budget.replace('0.003', '0.03')}"
    assert fit(tmp_path / "frozen", digits, "high", frozen, *adam) > 0.5
