"""Bad input to every tool: status 1 or 2, one sentence, and nothing left behind."""

import importlib
import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import weights_cases
from tests.helpers.runs import QUICKSTART, ROOT, SMALL
from vitjax import weights
from vitjax.trees import flatten_with_names
from vitjax.weights import files

pytestmark = pytest.mark.slow

NAMES = {
    "quickstart": QUICKSTART,
    "small": " ".join(SMALL),
    "val": "--config.evals.val",
    "flagship": ROOT / "configs" / "vit_s16_i1k.py",
    "gone": shlex.quote("{'kind': 'folder', 'data_dir': '/no', 'split': 'a'}"),
    "npz": shlex.quote("{'kind': 'npz', 'path': '/no.npz', 'split': 'all'}"),
    "digits": shlex.quote("{'kind': 'arrays', 'name': 'digits', 'split': 'test'}"),
}
# A command, run in the folder of `world`, and words of its sentence.
CASES = [
    ("attention_rollout --ckpt run --image note.pth --out a.png",
     "note.pth' is no image that can be decoded"),
    ("attention_rollout --ckpt run --image photo.png --out no/a.png",
     "there is no folder 'no'"),
    ("attention_rollout --ckpt run --image photo.png --out a.png {val}.data={gone}",
     "needs the image size of its data set, but there is no folder /no"),
    ("attention_rollout --ckpt run --posemb a.png", "no learned position embeddings"),
    ("average_checkpoints run --steps 30:40 --out new",
     "no checkpoint of the steps 30:40; it has 1, 20"),
    ("average_checkpoints run --steps 5 --out new", "--steps must be A:B"),
    ("average_checkpoints no --out new", "no checkpoint"),
    ("compare_runs empty --out new", "metrics.jsonl"),
    ("configs quickstar", "did you mean 'quickstart'?"),
    ("convert tok.npz a.npz --to timm", "timm is written as .safetensors or"),
    ("convert tok.npz a.pth --to timm --scan", "scan is for big_vision only"),
    ("convert tok.npz no/a.pth --to timm", "there is no folder 'no'"),
    ("convert tok.npz a.pth --to timm --posemb none", "have a pos_embedding"),
    ("convert no a.npz --to big_vision", "no checkpoint at"),
    ("convert net.pth a.npz --to big_vision", "its keys include bias, weight"),
    ("evaluate --ckpt run --out new --evals vall", "did you mean 'val'"),
    ("evaluate --ckpt run --out new {val}.data={gone}", "there is no folder /no"),
    ("evaluate --ckpt run --out new --config.evals=None", "nothing to evaluate"),
    ("evaluate --ckpt run --out new --ema", "has no 'ema'"),
    ("evaluate --ckpt run --out new {val}.pp_fn=\"grayscale_to_rgb|keep('image', 'label')\"",
     "the images do not fit the model"),
    ("evaluate --ckpt run --out new --config {flagship}",
     "is for 10 classes, but the config has num_classes=1000"),
    ("evaluate --ckpt run --out new --crop_ratio 1.5", "--crop_ratio must be above 0"),
    ("evaluate --ckpt timm.pth --out new --config {quickstart}",
     "is for 5 classes, but the config has num_classes=10"),
    ("evaluate --ckpt timm.pth --out new", "give num_heads, as --config.model.num_heads=N"),
    ("evaluate --ckpt run --out note.pth", "--out must be a folder"),
    ("evaluate --ckpt run --out new --predictions a.txt",
     "--predictions must be a .csv or .parquet file"),
    ("evaluate --ckpt run --out new --predictions no/a.csv", "there is no folder 'no'"),
    ("evaluate --ckpt run --out new --knn 2000",
     "knn needs k=2000 labelled examples or more in fit_data, got 1438"),
    ("evaluate --ckpt run --out new --knn 3 --feature logit",
     "the model has no output 'logit', only"),
    ("evaluate --ckpt run --out new --linear_probe --feature encoded",
     "no single vector per image in 'encoded', only"),
    ("evaluate --ckpt timm.pth --out new --knn --norm half --config.model.num_heads=3",
     "a probe needs data to fit on and to score: give --config"),
    ("evaluate --ckpt run --out new --fewshot 0", "of at least 1, got [0]"),
    ("evaluate --ckpt run --out new --fewshot --config.input.data={gone}",
     "there is no folder /no"),
    ("export --ckpt run --to onnx a.onxx", "onnx is written as .onnx"),
    ("export --ckpt run --to huggingface new", "always has a class token"),
    ("export --ckpt run --to huggingface new {val}.device_pp='' "
     "{val}.pp_fn=\"keep('image', 'label')\"", "ops of evals.val do not normalise"),
    ("features --ckpt run photo.png --out a.csv", "must be a .npz or .parquet file"),
    ("features --ckpt run photo.png empty --out a.npz", "empty' has no images"),
    ("features --ckpt run --evals vall --out a.npz", "did you mean 'val'"),
    ("features --ckpt run photo.png --feature logit --out a.npz",
     "the model has no output 'logit', only"),
    ("features --ckpt run --evals val --out a.npz {val}.data={gone}",
     "there is no folder /no"),
    ("evaluate --ckpt run --out new {val}.type=mine.Evals",
     "config key evals.val.type: the module 'mine' is not found; looked in "),
    ("export --ckpt note.pth --to timm a.pth",
     "note.pth is not a torch.save file, or is damaged"),
    ("export --ckpt run --to torchvision a.pth", "always has a class token"),
    ("export --ckpt run --to timm a.zip", "timm is written as"),
    ("export --ckpt run --to safetensors a.pth", "written as .safetensors"),
    ("export --ckpt run --to timm no/a.pth", "there is no folder 'no'"),
    ("export --ckpt run --to timm note.pth", "exists already"),
    ("plan {small} --out new --chip=h10", "did you mean 'h100'?"),
    ("plan {small} --out new --chip=v5e", "a TPU needs its topology, as in v5e:2x2"),
    ("plan {small} --out new --config.input.data={gone}",
     "give --examples (known: imagenet2012"),
    ("plan {small} --out new --config.input.data={npz} --examples=9",
     "give --image_size"),
    ("plan {small} --out new --accum_freq 7",
     "no accum_freq of 7 divides a batch of 64 on 8 device(s)"),
    ("plan {small} --out new --config.model_name=mine.vit2",
     "config key model_name: the module 'mine' is not found"),
    ("plan --config=no.py --out new", "does not exist"),
    ("plan {small} --out note.pth", "--out must be a folder"),
    ("plot rows --out a.jpg", "a picture must be a .png file"),
    ("plot rows --out a.png --metrics los", "no run has the metrics los: give some of lr, step"),
    ("plot empty --out a.png", "has no metrics.jsonl with rows"),
    ("plot rows --out a.png --smooth -1", "--smooth must be at least 0"),
    ("predict --ckpt empty photo.png", "no checkpoint at"),
    ("predict --ckpt run photo.png empty", "empty' has no images (.jpg"),
    ("predict --ckpt run photo.png --csv a.parquet", "--csv must be a .csv file"),
    ("predict --ckpt run photo.png --pictures note.pth", "--pictures must be a folder"),
    ("predict --ckpt run photo.png {val}.pp_fn='decode|resize(10)'",
     "does not fit its model and images of 10 x 10 x 3"),
    ("predict --ckpt run photo.png tall.png {val}.pp_fn=\"decode|keep('image', 'label')\"",
     "'image' of several shapes, [(8, 8, 3), (30, 16, 3)]"),
    ("profile {small} --out new --config.input.data={gone}", "there is no folder /no"),
    ("profile {small} --out new --config.input.batch_siz=3", "batch_siz"),
    ("profile {small} --out new \"--config.modules=['mine.ext']\"",
     "config key modules: the module 'mine' is not found"),
    ("profile {small} --out note.pth", "--out must be a folder"),
    ("show --index 0 --config {quickstart} --data 'dict(a=1)'", "--data must be a dict"),
    ("show --index 0 --config {quickstart} --data '[1'", "--data must be a dict"),
    ("show --index 0 --config {quickstart} --data '{{1: 2}}'", "--data must be a dict"),
    ("show --index 0 --config {quickstart} --data \"{{'kind': 'tdfs'}}\"",
     "unknown kind of data 'tdfs'"),
    ("show --index 0 --config {quickstart} --data "
     "\"{{'name': 'mnist', 'split': 'train', 'data_dir': 'nowhere'}}\"",
     "'mnist' is not prepared"),
    ("show --index 0 --config {quickstart} --data \"{{'kind': 'mine.csv'}}\"",
     "the module 'mine' is not found"),
    ("show --index 1438 --config {quickstart}", "0 to 1437"),
    ("show --index 0 --config {quickstart} --out note.pth", "--out must be a folder"),
    ("show --index 0 --config seedless.py", "lacks 'seed': set config.seed"),
    ("show --index 0 --config typo.py", "did you mean 'batch_size'"),
    ("sweep --config {quickstart} --matrix batch --out new",
     "--matrix must be NAME=VALUE"),
    ("sweep --config {quickstart} --matrix batch=64,96 fooo=1 --out new",
     "unknown config argument 'fooo'"),
    ("sweep --config {quickstart} --matrix config.model.widht=8,16 --out new",
     "did you mean 'width'"),
    ("sweep --config {quickstart} --matrix config.input.batch_siz=8 --out new",
     "did you mean 'batch_size'"),
    ("sweep --config {quickstart} --matrix config.mixup.q=1 --out new",
     "unknown config key in mixup: 'q'"),
    ("sweep --config {quickstart} --matrix config.evals.val.type=foo --out new",
     "unknown evaluator 'foo'"),
    ("sweep --config {quickstart} --matrix config.schedule.decay_type=foo --out new",
     "unknown decay_type 'foo'"),
    ("sweep --config {quickstart} --matrix config.input.data.kind=foo --out new",
     "unknown kind of data 'foo'"),
    ("sweep --config {quickstart} --matrix config.lr=-1 --out new",
     "lr must be at least 0, got -1"),
    ("sweep --config {quickstart} --matrix config.ckpt_best.patience=5 --out new",
     "ckpt_best.metric, such as 'val/prec@1'"),
    ("sweep --config {quickstart} --matrix config.sampling=balanced --out new",
     "did you mean 'input.sampling'?"),
    ("sweep --config {quickstart} --matrix config.optax_name=adamW --out new",
     "did you mean 'adamw'?"),
    ("sweep --config {quickstart} --matrix config.lr=1,2 --config.lr=3 --out new",
     "--matrix and --config.lr give the same key"),
    ("sweep --config {quickstart} --matrix 'config.lr=log(1,2)' --out new",
     "is a range, which needs --random N"),
    ("sweep --config {quickstart} --random 2 --matrix 'config.lr=log(0,2)' --out new",
     "must be log(A,B) with numbers above 0, A < B"),
]  # fmt: skip
# Flags that do not fit together, which the parser refuses.
USAGE = [
    ("attention_rollout --ckpt run", "nothing to draw"),
    ("attention_rollout --ckpt run --image a.jpg", "--image and --out go together"),
    ("compare_runs a --level 5", "--level must be between 0 and 1"),
    ("evaluate --ckpt run --temperature 1", "--temperature is for --knn"),
    ("evaluate --ckpt run --feature a", "--feature is for --fewshot"),
    ("evaluate --ckpt run --knn --predictions a.csv", "which a probe does not use"),
    (
        "features --ckpt run a.png --out a.npz --evals val",
        "give it or photos, not both",
    ),
    ("features --ckpt run a.png --out a.npz --batch_size 0", "must be at least 1"),
    ("export --ckpt run --to timm a.pth --image_size 0", "must be at least 1"),
    ("plan {small} --devices=0", "must be above 0"),
    ("plan {small} --memory_gib=-1", "must be above 0"),
    ("plan {small} --kernels=-1", "must be at least 0"),
    ("plan {small} --chip=h100 --devices=8", "as in h100x8"),
    ("plan {small} --accum_freq=0", "must be at least 1"),
    ("predict --ckpt run a.jpg --top=0", "must be at least 1"),
    ("predict --ckpt run a.jpg --batch_size=0", "must be at least 1"),
    ("profile {small} --steps=0", "must be at least 1"),
    ("sweep --config a.py --matrix a=1 --random 0", "must be at least 1"),
    ("sweep --config a.py --matrix a=1 --seed 1", "--seed is for --random"),
    ("show", "give --out, a folder for the pictures, or --index"),
    ("show --out new --epoch 1", "--epoch needs an --index"),
]


@pytest.fixture(scope="module")
def world(digits_run, tmp_path_factory):
    """A folder with a run, files of weights, photos and configs, good and bad."""
    root = tmp_path_factory.mktemp("world")
    (root / "run").symlink_to(digits_run)
    (root / "empty").mkdir()
    (root / "rows").mkdir()
    rows = [json.dumps({"step": step, "lr": 0.1}) for step in (1, 2)]
    (root / "rows" / "metrics.jsonl").write_text("\n".join(rows))
    (root / "note.pth").write_text("neither weights nor a photo")
    torch.save(torch.nn.Linear(3, 4).state_dict(), root / "net.pth")
    params = weights_cases.params(posemb="learn", pool_type="tok")
    files.write(root / "tok.npz", dict(flatten_with_names(params)), {})
    files.write(root / "timm.pth", weights.to_state_dict(params, format="timm"), {})
    for name, shape in (("photo", (8, 8)), ("tall", (30, 16))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(root / f"{name}.png")
    data = "data={'kind': 'arrays', 'name': 'digits', 'split': 'train'}, pp=''"
    for name, text in (
        ("seedless", f"input=dict({data}, batch_size=8)"),
        ("typo", f"seed=1, input=dict({data}, batchsize=8)"),
    ):
        (root / f"{name}.py").write_text(
            "from ml_collections import ConfigDict\n"
            f"def get_config(): return ConfigDict(dict({text}))\n"
        )
    return root


def call(line):
    name, *flags = shlex.split(line.format(**NAMES))
    return importlib.import_module(f"vitjax.tools.{name}").main(flags)


def tree(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in str(path))


@pytest.mark.parametrize(("line", "words"), CASES, ids=str)
def test_bad_input_is_one_sentence(line, words, world, digits_run, capsys, monkeypatch):
    monkeypatch.chdir(world)
    before = tree(world), tree(digits_run)
    assert call(line) == 1
    *notes, sentence = capsys.readouterr().err.strip().splitlines()
    assert sentence.startswith("error: ")
    assert words in sentence
    assert all(note.startswith("note: ") for note in notes), notes
    assert (tree(world), tree(digits_run)) == before


@pytest.mark.parametrize(("line", "words"), USAGE, ids=str)
def test_flags_that_do_not_fit_show_the_usage(line, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(line)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_every_tool_is_given_bad_input():
    paths = (ROOT / "vitjax" / "tools").glob("*.py")
    tools = {p.stem for p in paths if '__name__ == "__main__"' in p.read_text()}
    assert tools == {re.match(r"\w+", line)[0] for line, _ in CASES}
