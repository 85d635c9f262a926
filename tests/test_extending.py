"""docs/extending.md: its files train, evaluate and predict from a folder of their own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitjax import program, train
from vitjax.evaluators import schedule
from vitjax.records.jsonl import read_rows
from vitjax.tools import (
    average_checkpoints,
    command,
    evaluate,
    export,
    plan,
    predict,
    show,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCKS = dict(
    re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
)
RUN = ["--config", "digits.py", "--workdir", "runs/mine"]


@pytest.fixture
def world(own):
    """The page's files and their data, in the current folder."""
    from sklearn.datasets import load_digits

    for file, text in BLOCKS.items():
        own(file, text)
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rows = np.column_stack([digits.target, images.reshape(len(images), -1)])
    Path("data").mkdir()
    np.savetxt("data/train.csv", rows[:200], "%d", ",")
    np.savetxt("data/test.csv", rows[200:272], "%d", ",")
    Image.fromarray(images[250]).save("photo.png")
    return own


def sentence(capsys):
    """The one line of an error, without the hint that may follow it."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    [line] = [x for x in err.splitlines() if x.startswith("error: ")]
    return line


@pytest.mark.slow
def test_the_pages_files_train_and_the_tools_import_them_again(world, capsys):
    assert set(BLOCKS) >= {f"mine/{x}.py" for x in ("vit2", "ops", "ext", "sources")}
    assert train.cli(RUN) == 0
    rows = {row["step"]: row for row in read_rows(Path("runs/mine"))}
    assert rows[20]["val/loss"] < rows[0]["val/loss"]
    assert 0.1 < rows[20]["val/confidence"] < 1
    recorded = json.loads(Path("runs/mine/config.json").read_text())
    assert recorded["model_name"] == "mine.vit2"
    assert "|mine.ext.brighten|" in recorded["input"]["pp"]
    assert str(Path.cwd()) not in json.dumps(recorded)
    # The same command resumes: the names are those that were recorded.
    assert train.cli([*RUN, "--config.total_steps=20"]) == 0
    assert "already finished at step 20" in capsys.readouterr().out

    tools = {
        evaluate: "--ckpt runs/mine --out runs/report",
        predict: "--ckpt runs/mine photo.png",
        average_checkpoints: "runs/mine --out runs/mean",
        export: "--ckpt runs/mine --to safetensors mine.safetensors",
        plan: "--config digits.py --accum_freq 1",
        show: "--config digits.py --index 3",
    }
    for tool, flags in tools.items():
        assert tool.main(flags.split()) == 0, tool
    report = json.loads(Path("runs/report/report.json").read_text())["evals"]["val"]
    assert report["prec@1"] == pytest.approx(rows[20]["val/prec@1"])
    assert report["loss"] == pytest.approx(rows[20]["val/loss"], rel=1e-5)
    out = capsys.readouterr().out
    assert "2. mine.ext.brighten" in out  # by `show`

    # A file of weights does not choose what is imported.
    file = ["--ckpt", "mine.safetensors", "--out", "runs/again"]
    assert evaluate.main(file) == 1
    assert "give --config.modules=\"['mine']\"" in sentence(capsys)
    assert evaluate.main([*file, "--config.modules=['mine']"]) == 0
    assert evaluate.main([*file, "--config", "digits.py"]) == 0
    again = json.loads(Path("runs/again/report.json").read_text())["evals"]["val"]
    assert again["loss"] == report["loss"]
    # Nor does a run's folder, outside the person's own folders.
    hostile = "--config.evals.val.pp_fn=os.system('touch here')"
    config = {**recorded, "evals": {"val": {"pp_fn": hostile.partition("=")[2]}}}
    stranger(config)
    assert evaluate.main(["--ckpt", "runs/stranger"]) == 1
    assert "names code, os.system, which is not imported unasked" in sentence(capsys)
    assert not Path("here").exists()
    # A program as an export cannot hold an op of the host.
    assert export.main(["--ckpt", "runs/mine", "--to", "stablehlo", "a.hlo"]) == 1
    assert "'mine.ops.posterize(3)' of pp_fn runs on the host only" in sentence(capsys)


def stranger(config):
    """Write the checkpoint of a run with this config."""
    import contextlib

    from vitjax.checkpoints.checkpointer import Checkpointer

    with contextlib.closing(Checkpointer(Path("runs/stranger"))) as checkpointer:
        params = {"params": {"a": np.zeros(2, np.float32)}}
        checkpointer.save(1, params, {"config": config})
        checkpointer.finish()


MODEL = """
import flax.linen as nn, jax.numpy as jnp, optax
class Net(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.num_classes)(x), {}
class Plain(Net):
    def __call__(self, x): return x, {}
class Logits(Net):
    @nn.compact
    def __call__(self, x, train): return super().__call__(x, train)[0]
class Fewer(Net):
    @nn.compact
    def __call__(self, x, train):
        logits, out = super().__call__(x, train)
        return logits[:, :3], out
class Norm(Net):
    @nn.compact
    def __call__(self, x, train): return super().__call__(nn.BatchNorm(True)(x), train)
class Classless(nn.Module):
    width: int
class Wide(Net):
    width: int = None
    depth: int = 2
def Number(num_classes): return num_classes
def Bare(): return Net(10)
def loss(*, logits, labels): return logits.mean()
def other(x, y): return x
def make(): return 3
def evaluator(predict, make_data): pass
def broken(*, logits, labels): return nothing
def op(): return lambda x: nothing
def source(*, path, split): return nothing
def factory(num_classes): return nothing
class Broken(Net):
    @nn.compact
    def __call__(self, x, train): return x + jnp.zeros(77), {}
def transform(): return optax.stateless(lambda grads, params: nothing)
class Fails:
    def __init__(self, predict, make_data, mesh): pass
    def run(self, state): yield "a", nothing
class NotMade(Fails):
    def __init__(
        self, predict, make_data, mesh, data, pp_fn, device_pp, loss_name, temperature
    ): nothing
class NoRun:
    def __init__(self, predict, make_data, mesh): pass
"""
WRONG = [
    ("model_name=mine.nets.Plain", "must be called as (images, train=True or False)"),
    ("model_name=mine.nets.Logits", "must return (logits, out), where out is a dict"),
    ("model_name=mine.nets.Fewer", "must return logits of shape (b, 10) for b images"),
    ("model_name=mine.nets.Norm", "in 'params', which a step trains, got batch_stats"),
    ("model_name=mine.nets.Classless", "Classless must have a field num_classes"),
    ("model_name=mine.nets.Number", "must be a linen module, got int"),
    ("model_name=mine.nets.Bare", "Bare must have a parameter num_classes, which"),
    ("model_name=mine.nets.Nett", "config key model_name: the module 'mine.nets' ("),
    ("model_name=mine.nets.Net,model={'width': 3}", "unknown model argument 'width'"),
    ("loss=mine.nets.loss", "must return one value per example, of shape (b,)"),
    ("loss=mine.nets.other", "must be a function of logits and labels: other() got"),
    ("optax_name=mine.nets.no", "the module 'mine.nets' (mine/nets.py) has no 'no'"),
    ("optax_name=mine.nets.make", "must make a gradient transformation, but makes"),
    ("optax_name=mines.make", "the module 'mines' is not found"),
    ("optax_name=contrib.scale_by_ademamiks", "did you mean 'contrib.scale_by_ademamix'"),
    ("evals.val.type=mine.nets.evaluator", "'mine.nets.evaluator' must have a parameter mesh"),
    ("loss=mine.nets.broken", "the loss 'mine.nets.broken' fails: mine/nets.py, line "),
    ("device_pp=mine.nets.op", "op 'mine.nets.op' fails: mine/nets.py, line "),
    ("input.pp=mine.nets.op", "op 'mine.nets.op' fails: mine/nets.py, line "),
    ("input.data.kind=mine.nets.source", "'mine.nets.source' fails: mine/nets.py, line "),
    ("model_name=mine.nets.factory", "'mine.nets.factory' fails: mine/nets.py, line "),
    ("model_name=mine.nets.Broken", "'mine.nets.Broken' fails: mine/nets.py, line "),
    ("optax_name=mine.nets.transform", "with {} fails: mine/nets.py, line "),
    ("evals.val.type=mine.nets.NotMade", "evals.val fails: mine/nets.py, line "),
    ("evals.val.type=mine.nets.NoRun", "must have run(state), which yields"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), WRONG)
def test_a_wrong_part_is_one_sentence(world, capsys, change, words):
    world("mine/nets.py", MODEL)
    flags = [f"--config.{text}" for text in re.split(r",(?=model=)", change)]
    if change.startswith("model_name") and "model=" not in change:
        flags.append("--config.model={}")
    assert train.cli([*RUN, *flags]) == 1
    assert words in sentence(capsys)
    assert not Path("runs").exists()


def test_an_evaluator_that_fails_names_its_line(own):
    own("mine/nets.py", MODEL)
    evaluator = schedule.evaluator_of({"type": "mine.nets.Fails"})(None, None, None)
    entry = schedule.Entry("val", evaluator, log_steps=None, skip_first=False)
    words = r"^evals.val fails: mine/nets.py, line \d+: NameError: name 'nothing'"
    with pytest.raises(ValueError, match=words):
        schedule.run([entry], None)


@pytest.mark.slow
def test_wrong_names_are_found_before_the_data(world, capsys):
    """The data set is missing too, but that is noticed later."""
    for change in (WRONG[0][0], WRONG[4][0], WRONG[9][0], WRONG[11][0], WRONG[-1][0]):
        world("mine/nets.py", MODEL)
        flags = [
            "--config.input.data.path=no",
            f"--config.{change}",
            "--config.model={}",
        ]
        assert train.cli([*RUN, *flags]) == 1
        assert "there is no file" not in sentence(capsys)


def test_a_linen_class_is_a_model(world, mesh):
    """Also a subclass of it, one whose `train` has no default, and a function."""
    world("mine/nets.py", MODEL)
    spec = {name: ((), np.int32) for name in ("label", "seed")}
    spec |= {"image": ((8, 8, 1), np.uint8), "seed": ((2,), np.int32)}
    for name in ("mine.nets.Wide", "mine.vit2.Mixer", "mine.vit2.Model"):
        changed = [f"model_name={name}", "model={'width': 8}"]
        e = command.read_config("digits.py", changed)
        sizes = {"batch_size": 32, "total_steps": 3, "data_size": 99}
        built = program.build(e, mesh, element_spec=spec, **sizes)
        assert built.model.width == 8
