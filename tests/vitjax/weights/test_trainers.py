"""Files as training programs write them, made by the libraries that these use.

Each gives the logits, or the features, of the module that it was made from.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import re

import numpy as np
import pytest
import torch

from tests.helpers import weights_cases as cases
from tests.helpers.torch_models import (
    assert_logits,
    drawn,
    huggingface_config,
    timm_model,
    torchvision_model,
)
from vitjax import weights
from vitjax.models import vit
from vitjax.weights import files, other_models, trainers


def check(model, path, said=()):
    """The file's model gives what the module gives; the notice has all these words."""
    notices = []
    params, config = weights.load(path, num_heads=cases.HEADS, say=notices.append)
    assert config is None
    kw = weights.model_arguments(params)
    if kw["num_classes"] is None:  # compare the first features
        kernel = np.eye(cases.WIDTH, cases.CLASSES)
        params = {**params, "head": {"kernel": kernel, "bias": np.zeros(cases.CLASSES)}}
    kw = {key: kw[key] for key in ("posemb", "pool_type", "registers")}

    def first(x):
        out = model(x)
        out = getattr(out, "logits", getattr(out, "last_hidden_state", out))
        return (out[:, 0] if out.ndim == 3 else out)[:, : cases.CLASSES]

    assert_logits(first, cases.logits(params, cases.image(), gelu="exact", **kw))
    assert len(notices) == bool(said)
    for words in said:
        assert words in notices[0], notices
        assert "\n" not in notices[0]


class Wrapped(torch.nn.Module):
    """A model as an attribute of another module, as Lightning's and DINO's have it."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


# ----------------------------------------------- what a file holds besides its tensors


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
    check(model, tmp_path / "model_best.pth.tar")
    saver.model_ema = average
    saver.save_checkpoint(4, np.float64(71.6))
    path = tmp_path / "checkpoint-4.pth.tar"
    said = ["at 'state_dict'; 'state_dict_ema' can be", f"{path}:state_dict_ema"]
    check(model, path, said)
    check(average, f"{path}:state_dict_ema")
    check(model, f"{path}:state_dict")
    with pytest.raises(ValueError, match="no model at 'teacher', only 'state_dict', '"):
        weights.load(f"{path}:teacher")
    assert weights.is_file(f"{path}:state_dict_ema")


def others():
    """Other things that the libraries of this field put into a checkpoint."""
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


class Unknown:
    """A class of somebody's program."""

    def __init__(self):
        self.a = 1


class Runs:
    """An object of a harmful file: unpickling it calls something."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


# Today's layout of torch.save, and the one of before torch 1.6.
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


@BOTH
def test_what_trainers_keep_with_the_weights(zipped, tmp_path):
    model = drawn(timm_model())
    path = tmp_path / "deit.pth"
    stored = {"model": model.state_dict(), **others()}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    check(model, path)
    # All of it is accepted, and none of it is made.
    assert files.read(path)[0].keys() - {"rng_state"} == {
        f"model/{key}" for key in model.state_dict()
    }


@BOTH
def test_what_would_need_code_is_named_in_one_sentence(zipped, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    path = tmp_path / "x.pth"
    for stored, words in [
        ({"config": Unknown()}, r"holds '\S*test_trainers\.Unknown', which is nei"),
        ({"a": Runs(os.system, "echo run")}, r"holds '\w+\.system', which is neit"),
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


@BOTH
def test_damaged_files_are_named(zipped, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(500)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for n in (0, 1, 30, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"not a torch\.save file, or is dam"):
            files.read(path)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_programs_of_torchscript_are_not_run(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"TorchScript program.*\.state_dict"):
        weights.load(tmp_path / "x.pt")


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", pickle_protocol=5)
    with pytest.raises(ValueError, match="was saved with pickle_protocol=5"):
        weights.load(tmp_path / "x.pth")


def test_a_torch_that_would_run_code_is_not_used(monkeypatch, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    version = torch.torch_version.TorchVersion
    for fine in ("2.6.0", "2.13.0"):
        monkeypatch.setattr(torch, "__version__", version(fine))
        assert files.read(tmp_path / "x.pth")[0].keys() == {"a"}
    monkeypatch.setattr(torch, "__version__", version("2.5.1+cpu"))
    with pytest.raises(ValueError, match=r"2\.5\.1\+cpu is too old.*torch 2\.6 or"):
        files.read(tmp_path / "x.pth")


# --------------------------------------------------------------- which of several models

STATE = {"patch_embed.proj.weight": np.zeros((24, 3, 4, 4)), "norm.bias": np.ones(2)}


def find(arrays, asked=""):
    return trainers.find(arrays, asked, weights.FORMATS, "x.pth")


def test_the_order_in_which_one_is_taken():
    """Each before all that follow it; by the state dict, then by the prefix."""

    def taken(*names):
        return find({f"{name}{key}": x for name in names for key, x in STATE.items()})[
            2
        ]

    for first, second in zip(trainers.ORDER, trainers.ORDER[1:], strict=False):
        for end in ("/", "."):
            notice = taken(f"{second}{end}", f"{first}{end}")
            assert f"at '{first}'; '{second}' can be selected as in" in notice
    assert "at 'model'; 'net' can" in taken("net.", "model.")
    assert "at 'the top'; 'ema' can" in taken("ema/", "")
    assert "at 'state_dict/model'" in taken("state_dict/ema.", "state_dict/model.")
    for two in (("a/", "b/"), ("momentum_encoder.", "base_encoder.")):
        with pytest.raises(
            ValueError, match=r"holds more than one model.*select one, "
        ):
            taken(*two)


def test_what_can_be_asked_for():
    arrays = {
        f"{name}{key}": x + i
        for i, name in enumerate(("a/b/student.net.", "a/b/teacher.net.", "c/", ""))
        for key, x in STATE.items()
    }

    def asked(name):
        found, form, _ = find(arrays, name)
        assert form == "timm"
        return found["norm.bias"][0] - 1

    expected = {
        **dict.fromkeys(("student", "a/b/student", "student.net"), 0),
        **dict.fromkeys(("a", "a/b", "teacher", "a/b/teacher.net", "a/b/"), 1),
        "c": 2,
        "": 3,
    }
    assert {name: asked(name) for name in expected} == expected
    for wrong in ("b", "stud", "net", "d", "c/student"):
        with pytest.raises(ValueError, match=f"no model at '{wrong}', only 'a/b/st"):
            asked(wrong)
    with pytest.raises(
        ValueError, match="no model at 'd', only one state dict at its to"
    ):
        find(STATE, "d")


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


@pytest.mark.parametrize("tree", ["", "state_dict/"])
@pytest.mark.parametrize(
    "prefix", ["net.", "model.", "encoder.backbone.", "model._orig_mod.", "a_b.x."]
)
def test_any_prefix_is_taken_off(tree, prefix):
    inside = {f"{prefix}{key}": x for key, x in STATE.items()}
    inside |= {"criterion.weight": np.ones(2), "criterion.bias": np.ones(2)}
    found, _, notice = find({f"{tree}{k}": x for k, x in inside.items()})
    assert found.keys() == STATE.keys()
    off = prefix.replace("_orig_mod.", "")
    assert f"{off!r}" in notice
    assert " removed from its keys; left out: criterion.* (2)" in notice


def test_lightning(tmp_path):
    model = drawn(timm_model())
    whole = Wrapped(encoder=Wrapped(backbone=model), criterion=torch.nn.Linear(2, 2))
    whole.register_buffer("seen", torch.zeros(()))
    stored = {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": whole.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {}}}},
        "callbacks": {"ModelCheckpoint{'mode': 'min'}": {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1)},
    }
    torch.save(stored, tmp_path / "epoch=3.ckpt")
    off = "'encoder.backbone.' removed from its keys; left out: "
    check(model, tmp_path / "epoch=3.ckpt", [off, "criterion.* (2)", "seen"])


def test_wrappers_of_torch(tmp_path):
    """DataParallel, torch.compile of the whole model or of its blocks, averages."""
    model = drawn(timm_model())
    blocks = timm_model().double()
    blocks.load_state_dict(model.state_dict())
    for i, block in enumerate(blocks.blocks):
        blocks.blocks[i] = torch.compile(block, backend="eager")
    assert "blocks.0._orig_mod.norm1.weight" in blocks.state_dict()
    compiled = torch.nn.DataParallel(torch.compile(model, backend="eager"))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for wrapped, said in (
        (compiled, "'module.' and '_orig_mod.' removed from its keys"),
        (blocks, ": '_orig_mod.' removed from its keys"),
        (averaged, "'module.' removed from its keys; left out: n_averaged"),
    ):
        torch.save({"model_ema": wrapped.state_dict()}, tmp_path / "x.pth")
        check(model, tmp_path / "x.pth", [said])


class Dino(torch.nn.Module):
    """A backbone and the heads of DINO (dino_head, ibot_head), which are no classifiers."""

    def __init__(self):
        super().__init__()
        self.backbone = timm_model()
        self.backbone.head = torch.nn.Identity()
        layers = torch.nn.Linear(cases.WIDTH, 8), torch.nn.Linear(8, 9)
        self.dino_head = torch.nn.Sequential(*layers)


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
    left = "'backbone.' removed from its keys; left out: dino_head.* (4)"
    said = ["at 'teacher/backbone'; 'student/module.backbone' can be selected", left]
    check(teacher.backbone, path, said)
    left = "'module.backbone.' removed from its keys; left out: module.dino_head.* (4)"
    check(student.backbone, f"{path}:student", [left])
    # DINOv2's training: blocks in chunks, each under its own number in the whole model.
    chunked = {
        re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", key): x
        for key, x in teacher.state_dict().items()
    }
    assert any(".blocks.0.1." in key for key in chunked)
    torch.save({"teacher": chunked}, tmp_path / "chunked.pth")
    check(teacher.backbone, tmp_path / "chunked.pth", ["left out: dino_head.* (4)"])


def test_registers_of_dinov2(tmp_path):
    """They have their own name there; the class token has a position, they have none."""
    model = timm_model(reg_tokens=2, no_embed_class=True)
    model.head = torch.nn.Identity()
    own = drawn(model).state_dict()
    own["register_tokens"] = own.pop("reg_token")
    position = torch.full_like(own["cls_token"], 0.25)
    own["cls_token"] = own["cls_token"] - position
    own["pos_embed"] = torch.cat([position, own["pos_embed"]], dim=1)
    own["mask_token"] = torch.zeros(1, cases.WIDTH)
    torch.save(own, tmp_path / "reg4.pth")
    check(model, tmp_path / "reg4.pth", ["left out: mask_token"])


def test_mae_before_fine_tuning(tmp_path):
    """The encoder is read; the decoder of the masked patches is left out."""
    model = timm_model()
    model.head = torch.nn.Identity()
    model.mask_token = torch.nn.Parameter(torch.zeros(1, 1, 16))
    model.decoder_embed = torch.nn.Linear(cases.WIDTH, 16)
    model.decoder_pos_embed = torch.nn.Parameter(torch.zeros(1, 10, 16))
    model.decoder_blocks = torch.nn.ModuleList([torch.nn.Linear(16, 16)])
    model.decoder_pred = torch.nn.Linear(16, 48)
    args = argparse.Namespace(mask_ratio=0.75)
    stored = {"model": drawn(model).state_dict(), "args": args}
    torch.save(stored, tmp_path / "mae.pth")
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


# ------------------------------------------------------------------------ replaced heads


def linear():
    return torch.nn.Linear(cases.WIDTH, cases.CLASSES)


@pytest.mark.parametrize(
    ("make", "at", "head"),
    [
        (timm_model, "head", torch.nn.Sequential(torch.nn.Dropout(0.1), linear())),
        (torchvision_model, "heads", linear()),
        (torchvision_model, "heads", torch.nn.Sequential(torch.nn.Dropout(), linear())),
        (torchvision_model, "heads.head", torch.nn.Sequential(linear())),
        (torchvision_model, "heads", torch.nn.Identity()),
    ],
    ids=["timm", "linear", "dropout", "inner sequential", "identity"],
)
def test_replaced_heads_are_read(make, at, head, tmp_path):
    model = make()
    model.set_submodule(at, head)
    torch.save(drawn(model).state_dict(), tmp_path / "x.pth")
    check(model, tmp_path / "x.pth")
    if isinstance(head, torch.nn.Identity):  # it fits torchvision's class without heads
        params = weights.load(tmp_path / "x.pth", num_heads=cases.HEADS)[0]
        back = weights.to_state_dict(params, format="torchvision")
        cases.assert_same_bits(params, cases.read(back, "torchvision", {}))
        kw = weights.model_arguments(params) | {"gelu": "exact"}
        image = cases.image().astype(np.float32)
        theirs = other_models.logits("torchvision", vit.Model(**kw), back, image)
        features = model(torch.tensor(cases.image()).permute(0, 3, 1, 2))
        np.testing.assert_allclose(theirs, features.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "at", "layers", "words"),
    [
        (timm_model, "head", (torch.nn.LayerNorm(24), linear()), "'head.weight' under"),
        (
            torchvision_model,
            "heads",
            (torch.nn.Linear(24, 24), torch.nn.ReLU(), linear()),
            "two names, 'heads.0.weight' and 'heads.2.weight'",
        ),
    ],
    ids=["timm", "torchvision"],
)
def test_heads_of_more_layers_are_refused(make, at, layers, words, tmp_path):
    model = make()
    model.set_submodule(at, torch.nn.Sequential(*layers))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=words):
        weights.load(tmp_path / "x.pth", num_heads=cases.HEADS)


# ----------------------------------------------------------------------- Hugging Face


def hugging_face(name, **kw):
    """A model of transformers."""
    config = huggingface_config()
    import transformers

    return drawn(getattr(transformers, name)(config, **kw))


def test_shards_of_hugging_face(tmp_path):
    model = hugging_face("ViTForImageClassification")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert weights.is_file(tmp_path)
    check(model, tmp_path)
    check(model, tmp_path / "model.safetensors.index.json")
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
    check(model, old)
    for told, words in (
        ({"weight_map": {**place, "a": "pytorch_model-0.bin"}}, "its shards lack a"),
        ({"weight_map": {"a.b": index.name}}, "it names itself as a shard"),
        ({}, "not an index of shards"),
    ):
        index.write_text(json.dumps(told))
        with pytest.raises(ValueError, match=words):
            weights.load(old)
    shards[1].unlink()
    words = rf"names {len(shards)} shards, but {shards[1].name} is missing"
    with pytest.raises(ValueError, match=words):
        weights.load(tmp_path)


def test_hugging_faces_model_without_a_head(tmp_path):
    model = hugging_face("ViTModel")
    model.save_pretrained(tmp_path)
    keys = files.read(tmp_path / "model.safetensors")[0]
    assert {"embeddings.cls_token", "pooler.dense.weight"} <= keys.keys()
    check(model, tmp_path, ["left out: pooler.* (2)"])
    # As part of a module of one's own, under its keys in memory; the attribute may have
    # the name of Hugging Face's own prefix.
    for name, said in (
        ("net", "'net.' removed from its keys; left "),
        ("vit", "left out: "),
    ):
        state = Wrapped(**{name: model}, fc=torch.nn.Linear(2, 2)).state_dict()
        torch.save(state, tmp_path / "x.pth")
        check(model, tmp_path / "x.pth", [said, "fc.* (2)"])


def test_hugging_faces_own_prefix_is_not_taken_off(tmp_path):
    model = hugging_face("ViTForImageClassification")
    torch.save(Wrapped(model=Wrapped(net=model)).state_dict(), tmp_path / "x.ckpt")
    check(model, tmp_path / "x.ckpt", ["'model.net.' removed from its keys"])
