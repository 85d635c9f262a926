"""Files as training programs write them, made by the libraries that these use.

Each gives the logits, or the features, of the module that it was made from: in float64, so
that the bound, 1e-9, is far above rounding and far below any wrong place of a number.
"""

import argparse
import collections
import datetime
import functools
import json
import os
import pathlib
import re

import jax
import numpy as np
import pytest
import torch

from tests.helpers import weights_cases
from tests.vitjax.weights.test_other_libraries import (
    TOK,
    assert_close,
    timm_model,
    torch_logits,
    torchvision_model,
)
from vitjax import weights
from vitjax.models import vit
from vitjax.weights import files, other_models, trainers
from vitjax.weights.libraries import import_torchvision


@torch.no_grad()
def drawn(model, seed=0):
    """The module with random weights, each of which has a part in what it gives."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.double().eval().state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(std=0.3, generator=generator)
    return model


@functools.cache
def program(**kw):
    """vitjax's model as one program, however many parameters it is given."""
    made = weights_cases.model(dtype="float64", gelu="exact", **kw)
    return jax.jit(lambda params, image: made.apply({"params": params}, image)[0])


def check(model, path, said=(), **say):
    """The file's model gives what the module gives; the notice has all these words."""
    notices = []
    params, config = weights.load(
        path, num_heads=weights_cases.HEADS, say=notices.append, **say
    )
    assert config is None
    kw = weights.model_arguments(params)
    if kw["num_classes"] is None:
        params, model = {**params, "head": unit_head()}, Features(model)
    image = weights_cases.image()
    with jax.enable_x64(True):
        kw = {key: kw[key] for key in ("posemb", "pool_type", "registers")}
        ours = np.asarray(program(**kw)(params, image))
    assert_close(torch_logits(model, image), ours)
    assert len(notices) == bool(said)
    for words in said:
        assert words in notices[0], notices
        assert "\n" not in notices[0]


def unit_head():
    """A head whose logits are the first features."""
    kernel = np.eye(weights_cases.WIDTH, weights_cases.CLASSES)
    return {"kernel": kernel, "bias": np.zeros(weights_cases.CLASSES)}


class Features(torch.nn.Module):
    """The first features of a backbone, as `unit_head` gives them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)[:, : weights_cases.CLASSES]


# ------------------------------------------------- what a file holds beside its tensors


def test_timms_own_checkpoints(tmp_path):
    """Its saver's files: arguments, an optimizer, a metric, averaged weights."""
    model, average = drawn(timm_model()), drawn(timm_model(), seed=1)
    from timm.utils import CheckpointSaver

    args = argparse.Namespace(
        model="vit_tiny", lr=1e-3, betas=(0.9, 0.999), out=pathlib.Path("a/b")
    )
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saver = CheckpointSaver(
        torch.nn.DataParallel(model), optimizer, args, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(3, np.float64(71.5))
    check(model, tmp_path / "checkpoint-3.pth.tar")
    check(model, tmp_path / "model_best.pth.tar")
    saver.model_ema = average
    saver.save_checkpoint(4, np.float64(71.6))
    path = tmp_path / "checkpoint-4.pth.tar"
    said = ["at 'state_dict'; 'state_dict_ema' can be", f"{path}:state_dict_ema"]
    check(model, path, said=said)
    check(average, f"{path}:state_dict_ema")
    check(model, f"{path}:state_dict")
    with pytest.raises(ValueError, match="no model at 'teacher', only 'state_dict', '"):
        weights.load(f"{path}:teacher")
    assert weights.is_file(f"{path}:state_dict_ema")


def others():
    """What else the libraries of this field put into a checkpoint."""
    numbers = collections.defaultdict(list, {"loss": [1.0, np.float32(2)]})
    return {
        "args": argparse.Namespace(lr=1e-3, dist=None, size=(8, 8), more={"a": {1, 2}}),
        "best_acc1": np.float64(71.5),
        "history": np.arange(3.0),
        "dtype": np.dtype("int64"),
        "numbers": numbers,
        "last": collections.deque([1, 2], maxlen=5),
        "order": collections.OrderedDict(a=1),
        "count": collections.Counter("aab"),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "kind": torch.float16,
        "version": torch.__version__,
        "where": [pathlib.PurePosixPath("a/b"), pathlib.Path("c"), frozenset({3})],
        "when": [datetime.datetime(2024, 5, 6), datetime.timedelta(seconds=3)],
        "rng_state": torch.get_rng_state(),
        "numpy_rng": np.random.RandomState(0).get_state(),
        1: {"exp_avg": torch.ones(2)},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_what_trainers_keep_beside_the_weights(zipped, tmp_path):
    """Also in files of today's layout, and of before torch 1.6."""
    model = drawn(timm_model())
    path = tmp_path / "deit.pth"
    stored = {"model": model.state_dict(), **others()}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    check(model, path)
    # None of it was made, though each of it was let in.
    assert files.read(path)[0].keys() - {"rng_state"} == {
        f"model/{key}" for key in model.state_dict()
    }


class Unknown:
    """A class of somebody's program."""

    def __init__(self):
        self.a = 1


class Runs:
    """What a harmful file would hold: unpickling it calls something."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_what_would_need_code_is_named_in_one_plain_sentence(zipped, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    path = tmp_path / "x.pth"
    for stored, words in [
        ({"config": Unknown()}, r"holds '\S*test_trainers\.Unknown', which is neither"),
        ({"a": Runs(os.system, "echo run")}, r"holds '\w+\.system', which is neither"),
        ({"a": Runs(eval, "1")}, r"holds 'eval', which is neither"),
        (model, "a whole module .'torch.nn.modules.container.Sequential'"),
        ({"epoch": 3, "model": model}, "a whole module .*torch.nn.modules"),
        (timm_model(), r"a whole module .'timm.models.vision_transformer.VisionTr"),
    ]:
        torch.save(stored, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=words) as error:
            weights.load(path)
        message = str(error.value)
        assert message.startswith(f"{path} holds ")
        assert "torch.save(model.state_dict(), PATH)" in message
        assert message.isprintable()
        assert len(message) < 350
        assert "weights_only" not in message


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_programs_of_torchscript_are_not_run(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"program of TorchScript.*\.state_dict"):
        weights.load(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_damaged_files_are_told_in_our_words(zipped, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(500)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for n in (0, 1, 30, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"no file of torch\.save, or is damaged$"):
            files.read(path)


def test_a_torch_that_would_run_code_is_not_used(monkeypatch, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    version = torch.torch_version.TorchVersion
    for old, refused in (("2.5.1+cpu", True), ("2.6.0", False), ("2.13.0", False)):
        monkeypatch.setattr(torch, "__version__", version(old))
        if refused:
            with pytest.raises(
                ValueError, match=r"2\.5\.1\+cpu is too old.*torch 2\.6 or"
            ):
                files.read(tmp_path / "x.pth")
        else:
            assert files.read(tmp_path / "x.pth")[0].keys() == {"a"}


# --------------------------------------------------------------- which of several models


def test_the_order_in_which_one_is_taken(tmp_path):
    """Each before all that follow it; by the state dict, then by the prefix."""
    state = {"patch_embed.proj.weight": np.zeros((24, 3, 4, 4))}
    formats = weights.FORMATS

    def taken(*names):
        arrays = {f"{name}{key}": x for name in names for key, x in state.items()}
        return trainers.find(arrays, "", formats, "x.pth")[2]

    for first, second in zip(trainers.ORDER, trainers.ORDER[1:], strict=False):
        for end in ("/", "."):
            notice = taken(f"{second}{end}", f"{first}{end}")
            assert f"at '{first}'; '{second}' can be asked for" in notice
    assert "at 'model'; 'net' can" in taken("net.", "model.")
    assert "at 'the top'; 'ema' can" in taken("ema/", "")
    assert "at 'state_dict/model'" in taken("state_dict/ema.", "state_dict/model.")
    for two in (("a/", "b/"), ("momentum_encoder.", "base_encoder.")):
        with pytest.raises(
            ValueError, match=r"holds more than one model.*say which, as"
        ):
            taken(*two)


def test_what_can_be_asked_for():
    state = {
        "patch_embed.proj.weight": np.zeros((24, 3, 4, 4)),
        "norm.bias": np.ones(2),
    }
    arrays = {
        f"{name}{key}": x + i
        for i, name in enumerate(("a/b/student.net.", "a/b/teacher.net.", "c/", ""))
        for key, x in state.items()
    }

    def asked(what):
        found, form, _ = trainers.find(arrays, what, weights.FORMATS, "x.pth")
        assert form == "timm"
        return found["norm.bias"][0] - 1

    expected = {
        **dict.fromkeys(("student", "a/b/student", "student.net"), 0),
        **dict.fromkeys(("a", "a/b", "teacher", "a/b/teacher.net", "a/b/"), 1),
        "c": 2,
        "": 3,
    }
    assert {what: asked(what) for what in expected} == expected
    for wrong in ("b", "stud", "net", "d", "c/student"):
        with pytest.raises(ValueError, match=f"no model at '{wrong}', only 'a/b/st"):
            asked(wrong)
    with pytest.raises(
        ValueError, match="no model at 'd', but one state dict at its to"
    ):
        trainers.find(state, "d", weights.FORMATS, "x.pth")


def test_paths_that_ask():
    for path, expected in [
        ("a/x.npz:img/vit", ("a/x.npz", "img/vit")),
        ("a.pt/x.pth.tar:state_dict", ("a.pt/x.pth.tar", "state_dict")),
        ("x.ckpt:a:b", ("x.ckpt", "a:b")),
        ("x.safetensors", ("x.safetensors", "")),
        ("runs/a:b", ("runs/a:b", "")),
    ]:
        file, asked = files.split(path)
        assert (str(file), asked) == expected


# --------------------------------------------------------------------- prefixes, leftovers


class Wrapped(torch.nn.Module):
    """A model as an attribute of another module, as Lightning's and DINO's have it."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def lightning(model):
    """What Lightning writes around the state dict of a LightningModule."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {}}}},
        "callbacks": {"ModelCheckpoint{'mode': 'min'}": {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1)},
    }


@pytest.mark.parametrize(
    "words",
    [
        ("net",),
        ("model",),
        ("encoder", "backbone"),
        ("model", "_orig_mod"),
        ("a_b", "x"),
    ],
    ids=".".join,
)
def test_lightning_and_any_prefix(words, tmp_path):
    model = drawn(timm_model())
    whole = model
    for word in reversed(words):
        whole = Wrapped(**{word: whole})
    whole.criterion = torch.nn.Linear(2, 2)
    whole.register_buffer("seen", torch.zeros(()))
    off = "".join(f"{word}." for word in words if word != "_orig_mod")
    said = [f"{off!r}", " taken off its keys; left out: ", "criterion.* (2)", "seen"]
    path = tmp_path / "epoch=3.ckpt"
    torch.save(lightning(whole), path)
    check(model, path, said)
    path = tmp_path / "x.safetensors"
    state = {key: x.numpy() for key, x in whole.state_dict().items()}
    files.write(path, state, {})
    check(model, path, said)


def test_data_parallel_and_compiled_modules(tmp_path):
    model = drawn(timm_model())
    wrapped = torch.nn.DataParallel(torch.compile(model, backend="eager"))
    torch.save(wrapped.state_dict(), tmp_path / "x.pth")
    said = ["'module.' and '_orig_mod.' taken off its keys"]
    check(model, tmp_path / "x.pth", said)
    blocks = timm_model().double()
    blocks.load_state_dict(model.state_dict())
    for i, block in enumerate(blocks.blocks):
        blocks.blocks[i] = torch.compile(block, backend="eager")
    assert "blocks.0._orig_mod.norm1.weight" in blocks.state_dict()
    torch.save(blocks.state_dict(), tmp_path / "y.pth")
    check(model, tmp_path / "y.pth", [": '_orig_mod.' taken off its keys"])


@pytest.mark.parametrize("make", [torchvision_model, timm_model])
def test_averaged_models_of_torch(make, tmp_path):
    model = drawn(make())
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save({"model_ema": averaged.state_dict()}, tmp_path / "x.pth")
    said = ["'module.' taken off its keys; left out: n_averaged"]
    check(model, tmp_path / "x.pth", said)


class Dino(torch.nn.Module):
    """A backbone and the heads of DINO (dino_head, ibot_head), which are no classifiers."""

    def __init__(self, **kw):
        super().__init__()
        self.backbone = timm_model(**kw)
        self.backbone.head = torch.nn.Identity()
        self.dino_head = torch.nn.Sequential(
            torch.nn.Linear(weights_cases.WIDTH, 8), torch.nn.Linear(8, 9)
        )


def test_teachers_of_dino(tmp_path):
    teacher, student = drawn(Dino()), drawn(Dino(), seed=1)
    stored = {
        "student": torch.nn.DataParallel(student).state_dict(),
        "teacher": teacher.state_dict(),
        "dino_loss": {"center": torch.ones(1, 9)},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(stored, path)
    left = "'backbone.' taken off its keys; left out: dino_head.* (4)"
    said = ["at 'teacher/backbone'; 'student/module.backbone' can be asked", left]
    check(teacher.backbone, path, said)
    left = "'module.backbone.' taken off its keys; left out: module.dino_head.* (4)"
    check(student.backbone, f"{path}:student", [left])
    torch.save({"teacher": teacher.state_dict()}, tmp_path / "teacher.pth")
    check(teacher.backbone, tmp_path / "teacher.pth", ["left out: dino_head.* (4)"])
    # DINOv2's training: blocks in chunks, each under its own number in the whole model.
    chunked = {
        re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", key): x
        for key, x in teacher.state_dict().items()
    }
    assert any(".blocks.0.1." in key for key in chunked)
    torch.save({"teacher": chunked}, tmp_path / "chunked.pth")
    check(teacher.backbone, tmp_path / "chunked.pth", ["left out: dino_head.* (4)"])


def test_a_timm_head_behind_dropout(tmp_path):
    model = timm_model()
    model.head = torch.nn.Sequential(torch.nn.Dropout(0.1), model.head)
    drawn(model)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    check(model, tmp_path / "x.pth")
    model.head = torch.nn.Sequential(torch.nn.LayerNorm(24), model.head[1])
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"'head\.weight' under two names"):
        weights.load(tmp_path / "x.pth", num_heads=weights_cases.HEADS)


def test_registers_of_dinov2(tmp_path):
    """Under their own name there, with a position of the class token, not of theirs."""
    model = timm_model(reg_tokens=2, no_embed_class=True)
    model.head = torch.nn.Identity()
    drawn(model)
    own = model.state_dict()
    own["register_tokens"] = own.pop("reg_token")
    position = torch.full_like(own["cls_token"], 0.25)
    own["cls_token"] = own["cls_token"] - position
    own["pos_embed"] = torch.cat([position, own["pos_embed"]], dim=1)
    own["mask_token"] = torch.zeros(1, weights_cases.WIDTH)
    torch.save(own, tmp_path / "reg4.pth")
    check(model, tmp_path / "reg4.pth", ["left out: mask_token"])


def test_another_pickle_protocol_is_said(tmp_path):
    torch.save(timm_model().state_dict(), tmp_path / "x.pth", pickle_protocol=5)
    with pytest.raises(ValueError, match="was saved with pickle_protocol=5"):
        weights.load(tmp_path / "x.pth", num_heads=weights_cases.HEADS)


def test_mae_before_fine_tuning(tmp_path):
    """The encoder is read; what painted the masked patches is left out."""
    model = timm_model()
    model.head = torch.nn.Identity()
    model.mask_token = torch.nn.Parameter(torch.zeros(1, 1, 16))
    model.decoder_embed = torch.nn.Linear(weights_cases.WIDTH, 16)
    model.decoder_pos_embed = torch.nn.Parameter(torch.zeros(1, 10, 16))
    model.decoder_blocks = torch.nn.ModuleList([torch.nn.Linear(16, 16)])
    model.decoder_pred = torch.nn.Linear(16, 48)
    drawn(model)
    args = argparse.Namespace(mask_ratio=0.75)
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "mae.pth")
    said = [
        "mae.pth: left out: mask_token, decoder_pos_embed, decoder_embed.* (2), "
        "decoder_blocks.* (2), decoder_pred.* (2)"
    ]
    check(model, tmp_path / "mae.pth", said)


def test_lists_of_what_is_left_out_are_short_and_of_one_line():
    keys = ["a", "b.c", "b.d.e", "net.f.g", "net.f.h", "net.i", "j\nk"]
    expected = ["a", "b.* (2)", "net.f.* (2)", "net.i", r"'j\nk'"]
    assert trainers.brief(keys, "net.") == expected
    many = trainers.brief(f"a{i}" for i in range(30))
    assert many[-2:] == ["a19", "and 10 more"]


# ------------------------------------------------------------------ torchvision's heads


@pytest.mark.parametrize(
    "heads",
    [
        lambda: torch.nn.Linear(weights_cases.WIDTH, weights_cases.CLASSES),
        lambda: torch.nn.Sequential(
            torch.nn.Linear(weights_cases.WIDTH, weights_cases.CLASSES)
        ),
        lambda: torch.nn.Sequential(
            torch.nn.Dropout(),
            torch.nn.Linear(weights_cases.WIDTH, weights_cases.CLASSES),
        ),
        torch.nn.Identity,
        None,
    ],
    ids=["linear", "sequential", "dropout", "identity", "inner sequential"],
)
def test_torchvision_with_its_heads_replaced(heads, tmp_path):
    model = torchvision_model()
    if heads is None:
        model.heads.head = torch.nn.Sequential(model.heads.head)
    else:
        model.heads = heads()
    drawn(model)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    check(model, tmp_path / "x.pth")
    params = weights.load(tmp_path / "x.pth", num_heads=weights_cases.HEADS)[0]
    back = weights.to_state_dict(params, format="torchvision")
    weights_cases.assert_same_bits(params, weights_cases.read(back, "torchvision", {}))
    if "head" not in params:  # and is what torchvision's class holds without its heads
        kw = weights.model_arguments(params) | {"gelu": "exact"}
        image = weights_cases.image().astype(np.float32)
        theirs = other_models.logits("torchvision", vit.Model(**kw), back, image)
        features = torch_logits(model, image.astype(np.float64))
        np.testing.assert_allclose(theirs, features, rtol=0, atol=1e-5)


def test_torchvision_with_more_layers_for_its_head_is_refused(tmp_path):
    model = torchvision_model()
    layers = [
        torch.nn.Linear(weights_cases.WIDTH, weights_cases.WIDTH) for _ in range(2)
    ]
    model.heads = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"two names, 'heads.0.weight' and 'heads.2.weight'"
    ):
        weights.load(tmp_path / "x.pth", num_heads=weights_cases.HEADS)


# ----------------------------------------------------------------------- Hugging Face


def hugging_face(name, **kw):
    """(class, config) of transformers."""
    transformers = pytest.importorskip("transformers")
    import_torchvision()  # which transformers imports where it is installed
    config = transformers.ViTConfig(
        hidden_size=weights_cases.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=weights_cases.HEADS,
        intermediate_size=40,
        layer_norm_eps=1e-6,
        image_size=12,
        patch_size=4,
        num_labels=weights_cases.CLASSES,
    )
    return drawn(getattr(transformers, name)(config, **kw))


class Logits(torch.nn.Module):
    """A model of transformers as a function of images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        found = self.model(x)
        if "logits" in found:
            return found.logits
        return found.last_hidden_state[:, 0]


def test_shards_of_hugging_face(tmp_path):
    model = hugging_face("ViTForImageClassification")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert weights.is_file(tmp_path)
    check(Logits(model), tmp_path)
    check(Logits(model), tmp_path / "model.safetensors.index.json")
    # The same as older versions of transformers wrote them.
    old = tmp_path / "old"
    old.mkdir()
    place = {}
    for i, shard in enumerate(shards):
        state = {k: torch.tensor(x) for k, x in files.read(shard)[0].items()}
        torch.save(state, old / f"pytorch_model-{i}.bin")
        place |= dict.fromkeys(state, f"pytorch_model-{i}.bin")
    index = old / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    check(Logits(model), old)
    # What is missing is named.
    index.write_text(
        json.dumps({"weight_map": {**place, "a.b": "pytorch_model-0.bin"}})
    )
    with pytest.raises(ValueError, match=r"its shards lack a\.b"):
        weights.load(old)
    shards[1].unlink()
    words = rf"names {len(shards)} shards, of which {shards[1].name} is missing"
    with pytest.raises(ValueError, match=words):
        weights.load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a.b": index.name}}))
    with pytest.raises(ValueError, match="it names itself as a shard"):
        weights.load(old)
    index.write_text("{}")
    with pytest.raises(ValueError, match="no index of shards"):
        weights.load(old)


@pytest.mark.parametrize("pooler", [True, False])
def test_hugging_faces_model_without_a_head(pooler, tmp_path):
    model = hugging_face("ViTModel", add_pooling_layer=pooler)
    model.save_pretrained(tmp_path)
    keys = files.read(tmp_path / "model.safetensors")[0]
    assert "embeddings.cls_token" in keys
    assert ("pooler.dense.weight" in keys) == pooler
    check(Logits(model), tmp_path, ["left out: pooler.* (2)"] if pooler else ())
    # As part of a module of one's own, under its keys in memory.
    state = Wrapped(net=model, fc=torch.nn.Linear(2, 2)).state_dict()
    torch.save(state, tmp_path / "x.pth")
    off, left = "'net.' taken off its keys; left out: ", "fc.* (2)"
    check(Logits(model), tmp_path / "x.pth", [off, left])
    # Its attribute may be called as Hugging Face's own is.
    state = Wrapped(vit=model, fc=torch.nn.Linear(2, 2)).state_dict()
    torch.save(state, tmp_path / "y.pth")
    check(Logits(model), tmp_path / "y.pth", ["y.pth: left out: ", left])


def test_hugging_faces_own_prefix_is_not_taken_off(tmp_path):
    model = hugging_face("ViTForImageClassification")
    torch.save(Wrapped(model=Wrapped(net=model)).state_dict(), tmp_path / "x.ckpt")
    check(Logits(model), tmp_path / "x.ckpt", ["'model.net.' taken off its keys"])


# --------------------------------------------------------------------------- model_init


def test_a_backbone_gets_a_fresh_head(tmp_path, mesh, caplog):
    """Of the config's number of classes; of what else is missing, each is named."""
    from tests.vitjax.weights import test_fit

    stored = weights_cases.params(**TOK)
    fresh = weights_cases.params(**TOK, **test_fit.FRESH)
    state = weights.to_state_dict(stored, format="timm")
    state = {f"net.{k}": x for k, x in state.items() if not k.startswith("head.")}
    path = tmp_path / "x.safetensors"
    files.write(path, {**state, "net.mask_token": np.zeros((1, 24))}, {})
    load = functools.partial(test_fit.load, gelu="exact", **TOK)
    weights_cases.assert_same_bits(
        {**stored, "head": fresh["head"]}, load(path, mesh, fresh)
    )
    taken, headless = (record.getMessage() for record in caplog.records)
    assert taken == f"{path}: 'net.' taken off its keys; left out: net.mask_token"
    assert headless == f"{path} has no head: the model's own starts fresh"
    caplog.clear()
    load(path, mesh, fresh, ["head/.*"])
    assert len(caplog.records) == 1
    wider = weights_cases.params(**TOK, rep_size=7, **test_fit.FRESH)
    with pytest.raises(ValueError, match=r"dont_load .*missing there: pre_logits/bias"):
        load(path, mesh, wider, rep_size=7)
