"""`import vitjax`: against the tools' own path, flax and the trainer's step."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest

import vitjax
from vitjax.library.create import sections_of
from vitjax.models import MODELS
from vitjax.tools import photos
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 8, 8), np.uint8)
SMALL = {"width": 16, "depth": 2, "num_heads": 2, "patch_size": (4, 4)}


@pytest.fixture(scope="module")
def classifier(digits_run):
    return vitjax.load(digits_run)


def test_every_kind_of_image_gives_the_logits_of_the_tools(
    classifier, digits_run, tmp_path
):
    trained = open_trained(digits_run)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, pixels in zip(files, PIXELS, strict=True):
        PIL.Image.fromarray(pixels).save(file)
    feed = photos.Feed(trained.evaluator()[1])
    inputs = np.asarray(feed.batch([feed.read(f) for f in files]))
    expected = np.asarray(trained.apply(inputs)[0])
    for images in (
        files,
        [str(f) for f in files],
        [PIL.Image.open(f) for f in files],
        PIXELS[..., None],
        list(PIXELS),
        inputs,
    ):
        np.testing.assert_array_equal(classifier.logits(images), expected)
    assert classifier.preprocess(files[0]).shape == inputs[:1].shape
    two = vitjax.Classifier(trained, batch_size=2)  # a short last batch is filled
    np.testing.assert_allclose(two.logits(files), expected, atol=1e-6)
    shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    for row, guesses in zip(shares, classifier.predict(files, top=3), strict=True):
        assert [g.label for g in guesses] == list(np.argsort(-row)[:3])
        best = -np.sort(-row)[:3]
        assert [g.probability for g in guesses] == pytest.approx(best, rel=1e-5)
        assert guesses[0].name == str(guesses[0].label)


def test_features_and_attention_are_the_models_own(classifier):
    inputs = classifier.preprocess(PIXELS[..., None])
    _, out = classifier.model.apply({"params": classifier.params}, inputs)
    np.testing.assert_allclose(
        classifier.features(PIXELS[..., None]), out["pre_logits"], atol=1e-5
    )
    with pytest.raises(ValueError, match="no layer 'last': expected one of encoded, "):
        classifier.features(PIXELS[0], layer="last")
    maps = classifier.attention(PIXELS[..., None])
    assert maps.shape == (3, 4, 4)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-6)


def test_models_by_variant_name_and_config():
    assert vitjax.create_model("S/16") == MODELS["vit"](1000, variant="S/16")
    given = {"posemb": "learn", "pool_type": "tok"}
    made = vitjax.create_model("Ti/16", 7, **given)
    assert made == MODELS["vit"](7, variant="Ti/16", **given)
    file = vitjax.create_model("configs/vit_s16_i1k.py", rep_size=False)
    assert (file.width, file.num_classes, file.rep_size) == (384, 1000, False)
    assert vitjax.create_model({"model": SMALL, "num_classes": 3}).num_classes == 3
    for model in (made, vitjax.create_model("tower", 3)):
        assert vitjax.create_model(sections_of(model)) == model
    with pytest.raises(
        ValueError, match="unknown model 'S16': expected a variant such"
    ):
        vitjax.create_model("S16")
    with pytest.raises(
        ValueError, match="unknown model argument 'widht'; did you mean"
    ):
        vitjax.create_model("S/16", widht=3)


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    """Its class is found by its name, or by that of its module."""
    (tmp_path / "own_net.py").write_text(
        "import flax.linen as nn\n\n\n"
        "class Net(nn.Module):\n    num_classes: int\n    width: int = 8\n\n"
        "    @nn.compact\n    def __call__(self, images, *, train=False):\n"
        "        x = nn.Dense(self.width)(images.reshape(len(images), -1))\n"
        "        return nn.Dense(self.num_classes)(nn.relu(x)), {}\n"
    )
    monkeypatch.chdir(tmp_path)
    model = vitjax.create_model("own_net.Net", 3, width=4)
    assert sections_of(model)["model_name"] == "own_net.Net"
    batch = (np.zeros((8, 4, 4, 3), np.uint8), np.arange(8) % 3)
    training = vitjax.make_training(model, batch, total_steps=2)
    state, _ = training.step(training.init(), batch)
    made = training.classifier(state)
    made.save("own.safetensors")
    again = vitjax.load("own.safetensors", overrides=["modules=['own_net']"])
    np.testing.assert_array_equal(again.logits(batch[0]), made.logits(batch[0]))
    local = type("Local", (type(model),), {})(3)
    with pytest.raises(
        ValueError, match=r"class .*Local cannot be made again from its"
    ):
        sections_of(local)


def test_batches_of_any_kind_train_alike():
    torch = pytest.importorskip("torch")
    images = RNG.integers(0, 256, (8, 8, 8, 3), np.uint8)
    labels = np.arange(8) % 3
    rows = np.eye(3, dtype=np.float32)[labels]
    model = vitjax.create_model("vit", 3, head_zeroinit=False, **SMALL)
    states = []
    scaled = images.astype(np.float32) / 127.5 - 1
    for batch in (
        (images, labels),
        {"image": images, "label": labels},
        (torch.tensor(images), torch.tensor(labels)),
        (images, rows),
        [scaled.astype(np.float64), labels],
    ):
        training = vitjax.make_training(model, batch, total_steps=10)
        state, metrics = training.step(training.init(), batch)
        states.append(jax.device_get((state.params, metrics["training_loss"])))
    for other in states[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), states[0], other
        )
    # By hand: softmax cross-entropy of the initial parameters.
    logits, _ = model.apply({"params": jax.device_get(training.init().params)}, scaled)
    expected = -jax.nn.log_softmax(logits)[np.arange(8), labels].mean()
    assert states[0][1] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("batch", "settings", "sentence"),
    [
        ((np.zeros((8, 3, 16, 16)), np.zeros(8, int)), {}, r"permute\(0, 2, 3, 1\)"),
        (np.zeros((8, 8, 8, 3)), {}, "a batch must be {'image': images, 'label'"),
        ({"x": 1, "label": 2}, {}, r"got \['label', 'x'\]"),
        (
            None,
            {"learning_rate": 1.0},
            "unknown config key 'learning_rate'; did you mean",
        ),
        (None, {"norm": "imagnet"}, "unknown norm 'imagnet'; did you mean 'imagenet'"),
        (None, {"mixup": {"p": 0.2, "alpha": 1}}, "unknown config key in mixup"),
        (
            None,
            {"schedule": {"decay_type": "cosine", "warmup_epochs": 1}},
            "warmup_epochs needs data_size",
        ),
        (None, {"total_steps": 0}, "total_steps must be at least 1, got 0"),
        (None, {"pp_fn": "decode|resize(8"}, r"op 2 of the spec, 'resize\(8', cannot"),
        (
            None,
            {"class_weights": "balanced"},
            "labels of all data.* a list of 3 numbers",
        ),
        *[
            (None, {key: None}, f"does not use the config key '{key}', which belongs")
            for key in (
                "device_pp",
                "evals",
                "input",
                "model_name",
                "resume",
                "wandb",
                "batch_size_eval",
                "ckpt_steps",
                "log_training_steps",
                "modules",
                "total_epochs",
            )
        ],
    ],
)
def test_mistakes_are_one_sentence(batch, settings, sentence):
    if batch is None:
        batch = (np.zeros((8, 8, 8, 3), np.uint8), np.zeros(8, int))
    model = {"model": SMALL, "num_classes": 3}
    with pytest.raises(ValueError, match=sentence):
        vitjax.make_training(model, batch, **{"total_steps": 10, **settings})


def test_batches_unlike_the_first_are_refused():
    model = vitjax.create_model("vit", 3, **SMALL)
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 3
    training = vitjax.make_training(model, (images, labels), total_steps=2)
    for batch, sentence in (
        ((images / 255, labels), r"like the first one, of .* got image float32 \(8,"),
        ((images[:, :4], labels), r"image uint8 \(4, 8, 3\)"),
        ((images, np.eye(3)[labels]), r"got .* labels float32 \(3,\)"),
        ((images, labels + 1), "labels must be 0 to 2, .* got 3"),
        ((images, labels - 1), "labels must be 0 to 2, .* got -1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            training.step(None, batch)  # before it looks at the state


def test_settings_reach_the_step():
    """By hand: the initial logits are zero, so that each example's loss is ln 3."""
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.array([0] * 7 + [1])
    training = vitjax.make_training(
        vitjax.create_model("vit", 3, **SMALL),
        (images, labels),
        total_steps=100,
        data_size=40,
        lr=0.5,
        schedule={"decay_type": "linear", "warmup_epochs": 4},
        class_weights=[1, 9, 5],
        norm="imagenet",
        ema={"decay": 0.75},
    )
    # Four epochs are 20 steps, not the 4 of epochs as long as a batch.
    assert training.program.lr_fns[0](10) == pytest.approx(0.25)
    assert repr(training) == (
        f"Training(vit, {training.program.trainable:,} parameters, 3 classes, 100 steps)"
    )
    state = training.init()
    state, metrics = training.step(state, (images, labels))
    assert metrics["training_loss"] == pytest.approx((7 + 9) / 8 * np.log(3), rel=1e-5)
    for _ in range(2):  # the first step's learning rate is 0
        before = jax.device_get(state.ema)
        state, _ = training.step(state, (images, labels))
    averaged = training.classifier(state, ema=True)
    made = training.classifier(state, ["a", "b", "c"])
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(a, 0.75 * b + 0.25 * p, atol=1e-6),
        averaged.params,
        before,
        made.params,
    )
    assert not np.allclose(averaged.params["head"]["bias"], made.params["head"]["bias"])
    assert repr(made) == (
        f"Classifier(the training: vit, {training.program.trainable:,} "
        "parameters, 3 classes)"
    )
    with pytest.raises(ValueError, match=r"class_names must be 3, .* got 2"):
        training.classifier(state, ["a", "b"])

    # The classifier's normalisation and parameters are kept, also as the average.
    again = vitjax.make_training(
        made, (images, labels), keep_head=True, total_steps=2, ema={}
    )
    assert again.config["device_pp"] == training.config["device_pp"]
    assert again.config["device_pp"].startswith("normalize((0.485, ")
    jax.tree.map(np.testing.assert_array_equal, again.init().ema, made.params)


def test_load_passes_its_arguments_on(classifier, digits_run):
    assert (
        vitjax.load(digits_run, norm="imagenet")
        .preprocessing[1]
        .startswith("normalize((0.485, ")
    )
    with pytest.raises(ValueError, match="ema"):
        vitjax.load(digits_run, ema=True)
    count = sum(x.size for x in jax.tree.leaves(classifier.params))
    assert repr(classifier) == (
        f"Classifier({digits_run}, step 20: vit, {count:,} parameters, 10 classes)"
    )


def test_a_classifiers_mistakes_are_one_sentence(classifier, tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown format 'foo' .known: big_vision, .*onnx"
    ):
        classifier.save(tmp_path / "foo.npz", to="foo")
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        classifier.predict(PIXELS[0], top=0)
    with pytest.raises(ValueError, match="there are no images"):
        classifier.predict(np.zeros((0, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match="there are no images"):
        classifier.predict([])
    with pytest.raises(ValueError, match=r"image 1 is an array float64 \(8, 8\)"):
        classifier.predict([PIXELS[0], np.zeros((8, 8))])
    with pytest.raises(ValueError, match="image 0 is a int: expected a path"):
        classifier.predict([3])
    with pytest.raises(AttributeError, match="module 'vitjax' has no attribute 'lod'"):
        vitjax.lod  # noqa: B018


def test_a_classifier_is_where_training_starts(classifier):
    batch = (np.repeat(PIXELS[:, :, :, None], 8, axis=0)[:8], np.arange(8) % 2)
    training = vitjax.make_training(classifier, batch, num_classes=2, total_steps=5)
    state = jax.device_get(training.init().params)
    kept = dict(classifier.params)
    assert state["head"]["kernel"].shape == (len(kept["head"]["kernel"]), 2)
    for name in kept.keys() - {"head"}:
        jax.tree.map(np.testing.assert_array_equal, state[name], kept[name])
    again = vitjax.make_training(classifier, batch, keep_head=True, total_steps=5)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(again.init().params["head"]),
        kept["head"],
    )
    with pytest.raises(ValueError, match=r"head/.* give .*, and its num_classes"):
        vitjax.make_training(
            classifier, batch, keep_head=True, num_classes=2, total_steps=5
        )
    learned = vitjax.create_model("vit", 3, posemb="learn", **SMALL)
    start = vitjax.make_training(learned, batch, total_steps=5)
    larger = (np.zeros((8, 16, 16, 1), np.uint8), np.arange(8) % 2)
    with pytest.raises(
        ValueError, match=r"pos_embedding is .* give images of the class"
    ):
        vitjax.make_training(start.classifier(start.init()), larger, total_steps=5)
    with pytest.raises(ValueError, match="no averaged parameters: give make_training"):
        start.classifier(start.init(), ema=True)


def _blocks(page):
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_page_runs_as_it_is_written(digits_run, tmp_path, monkeypatch, capsys):
    """The run is a shorter one than the quickstart's."""
    (tmp_path / "runs").mkdir()
    os.symlink(digits_run, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in _blocks("library.md"):
        exec(compile(block, "docs/library.md", "exec"), names)
    shown = capsys.readouterr().out
    assert float(re.search(r"accuracy (0\.\d+)", shown)[1]) > 0.85
    assert "\nodd\n" in shown
    assert names["attention"].shape == (1, 4, 4)


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its code cells, in order, in one module; the outputs in the file are not read."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "finetune.ipynb").read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    names = {}
    for cell in cells:
        source = "".join(cell["source"]).replace("total_steps=150", "total_steps=60")
        source = source.replace("first_labels, 150)", "first_labels, 60)")
        exec(compile(source, "finetune.ipynb", "exec"), names)
    assert names["right"].mean() > 0.5  # a fifth by chance
    assert (tmp_path / "digits_timm.safetensors").is_file()
