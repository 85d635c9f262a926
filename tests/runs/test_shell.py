"""The tools on files of timm, and timm on a run of the quickstart.

Each result is compared with what the library's own class computes from the same pixels.
"""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from input_pipeline import pipeline
from tests.helpers.photographs import PHOTOGRAPHS
from tests.helpers.runs import QUICKSTART, ROOT
from vitjax import train
from vitjax.checkpoints.read import read_params
from vitjax.records.jsonl import read_rows
from vitjax.tools import convert, evaluate, export
from vitjax.trees import flatten_with_names
from vitjax.weights.libraries import import_torchvision

WIDTH, DEPTH, HEADS = 32, 2, 2  # as of variant mu


def shell(folder, tool, *flags):
    """Run `python -m vitjax.tools.TOOL` in a folder outside the checkout."""
    command = [sys.executable, "-m", f"vitjax.tools.{tool}", *map(str, flags)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def call(command, *flags):
    assert command([*map(str, flags)]) == 0


def evaluated(out):
    return json.loads((out / "report.json").read_text())["evals"]["val"]


def as_input(images):
    pixels = torch.tensor(np.asarray(images, np.float32) / 127.5 - 1)
    return pixels.permute(0, 3, 1, 2)


@torch.no_grad()
def logits_of(model, images):
    """Return timm's logits (n, classes) of uint8 images (n, y, x, ch)."""
    return model.eval()(as_input(images)).numpy()


def metrics_of(logits, labels):
    """Return torch's loss and the accuracy."""
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits).double(), labels)
    return loss.item(), (logits.argmax(1) == labels.numpy()).mean()


def digits(split, count):
    data = {"kind": "arrays", "name": "digits", "split": split}
    batches, _ = pipeline.make_eval(
        data=data, batch_size=count, pp_fn="keep('image', 'label')"
    )
    batch = next(iter(batches))
    return batch["image"], torch.tensor(batch["label"])


def timm_vit(size, patch_size, channels, classes, **kw):
    import_torchvision()  # which timm imports
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(
        img_size=size,
        patch_size=patch_size,
        in_chans=channels,
        num_classes=classes,
        **{"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **kw},
    )


def test_a_file_of_timm_is_evaluated_as_by_timm(tmp_path):
    """timm's ViT learns digits; it has no class token, as the ViT of quickstart.py."""
    model = timm_vit(8, 2, 1, 10, class_token=False, global_pool="avg", fc_norm=False)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    images, labels = digits("train", 500)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(as_input(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file = tmp_path / "digits.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    done = shell(
        tmp_path, "evaluate", "--ckpt", file, "--config", QUICKSTART,
        "--out", "out", "--save_logits",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images, labels = digits("test", 359)
    theirs = logits_of(model, images)
    with np.load(tmp_path / "out" / "val_logits.npz") as saved:
        np.testing.assert_allclose(saved["logits"], theirs, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(saved["labels"].argmax(1), labels)
    found, (loss, right) = evaluated(tmp_path / "out"), metrics_of(theirs, labels)
    assert 0.3 < right < 1
    assert found["examples"] == 359
    assert found["prec@1"] == pytest.approx(right)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def test_transfer_begins_with_timms_backbone_on_photographs(tmp_path):
    """The recipe has a folder, another resolution, a new head and frozen parts."""
    model = timm_vit(32, 8, 3, 7)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    for i, photo in enumerate([*PHOTOGRAPHS.values()] * 3):
        folder = tmp_path / "val" / "abcdefg"[i % 7]
        folder.mkdir(parents=True, exist_ok=True)
        part = Image.fromarray(photo[i * 3 :, i * 5 :])
        part.save(folder / f"{i}.{('jpg', 'png')[i % 2]}")
    spec = (
        f"{ROOT}/configs/transfer.py:ckpt={tmp_path}/timm.pth,gelu=exact,norm=half,variant=mu/8,"
        f"pool=tok,posemb=learn,data_dir={tmp_path},train_split=val,val_split=val,"
        "classes=7,res=48,batch=8,steps=3,lr=0.1,freeze=backbone"
    )
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    ops = {
        "pp_fn": "decode|resize(48)|keep('image', 'label')",
        "device_pp": "value_range(-1, 1)|onehot(7, key='label', key_result='labels')"
        "|keep('image', 'labels')",
    }
    fewshot = {"type": "fewshot", "data": data, "fit_data": data, "shots": (1,)}
    fewshot |= {**ops, "log_steps": 3}
    workdir = tmp_path / "run"
    call(
        train.cli, "--config", spec, "--workdir", workdir, "--config.model.depth=2",
        f"--config.evals.fewshot={fewshot}",
    )  # fmt: skip
    rows = read_rows(workdir)
    assert rows[0]["val/loss"] == pytest.approx(np.log(7)), "a head of zeros"
    [shot] = [row["fewshot/1shot"] for row in rows if "fewshot/1shot" in row][:1]
    assert 0 < shot <= 1
    found = dict(flatten_with_names(read_params(workdir)[0]))
    np.testing.assert_array_equal(
        found["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"],
        model.state_dict()["blocks.1.mlp.fc1.weight"].numpy().T,
    )
    assert np.abs(found["head/kernel"]).max() > 0
    assert found["pos_embedding"].shape[1] == 36, "resampled from 16"


def test_timm_computes_the_quickstarts_evaluation(digits_run, tmp_path, capsys):
    exported, npz = tmp_path / "a.safetensors", tmp_path / "a.npz"
    call(export.main, "--ckpt", digits_run, "--to", "timm", exported)
    said = capsys.readouterr().out
    assert f"{exported}: timm; read back and compared to the bit" in said
    call(convert.main, digits_run, npz, "--to", "big_vision")
    call(
        evaluate.main, "--ckpt", npz, "--config", QUICKSTART, "--out", tmp_path / "npz",
        "--config.model.num_heads=2",
    )  # fmt: skip
    gelu = functools.partial(torch.nn.GELU, approximate="tanh")
    copy = timm_vit(
        8, 2, 1, 10, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, act_layer=gelu,
        class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    copy.load_state_dict(safetensors.torch.load_file(exported), strict=True)
    images, labels = digits("test", 359)
    loss, right = metrics_of(logits_of(copy, images), labels)
    last = read_rows(digits_run)[-1]
    assert last["val/loss"] == pytest.approx(loss, rel=1e-4)
    assert last["val/prec@1"] == pytest.approx(right)
    assert evaluated(tmp_path / "npz")["prec@1"] == pytest.approx(right)
    names = [name for name, _ in flatten_with_names(read_params(digits_run)[0])]
    with np.load(npz) as stored:
        assert sorted(stored.files) == sorted(names)


def test_a_broken_image_is_one_sentence_without_tensorflows_words(digits_run, tmp_path):
    """It is a process, because TensorFlow writes to stderr past Python."""
    folder = tmp_path / "val" / "0"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_text("no photo")
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    done = shell(
        tmp_path, "evaluate", "--ckpt", digits_run, "--out", "out",
        f"--config.evals.val.data={data}",
        "--config.evals.val.pp_fn=decode(1)|central_crop(8)|keep('image', 'label')",
    )  # fmt: skip
    assert done.returncode == 1
    *notes, line = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "a.jpg" in line
    assert all(x.startswith("note: ") for x in notes), notes
    assert not (tmp_path / "out").exists()
