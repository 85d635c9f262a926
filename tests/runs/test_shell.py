"""The tools on files of timm and torchvision, and timm on a run of the quickstart.

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
from vitjax.tools import convert, evaluate, export, predict
from vitjax.trees import flatten_with_names
from vitjax.weights.libraries import import_torchvision

WIDTH, DEPTH, HEADS = 32, 2, 2  # as of variant mu
SIDE = 32  # pixels of a photograph
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


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


@torch.no_grad()
def logits_of(model, images):
    """Return a library's logits (n, classes) of uint8 images (n, y, x, ch)."""
    pixels = torch.tensor(np.asarray(images, np.float32) / 127.5 - 1)
    return model.eval()(pixels.permute(0, 3, 1, 2)).numpy()


def metrics_of(logits, labels):
    """Return torch's loss and the accuracy."""
    loss = torch.nn.functional.cross_entropy(
        torch.tensor(logits).double(), torch.tensor(labels)
    )
    return loss.item(), (logits.argmax(1) == labels).mean()


def digits(split, count):
    data = {"kind": "arrays", "name": "digits", "split": split}
    batches, _ = pipeline.make_eval(
        data=data, batch_size=count, pp_fn="keep('image', 'label')"
    )
    batch = next(iter(batches))
    return batch["image"], batch["label"]


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


def torchvision_vit():
    import_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(1)
    return VisionTransformer(
        image_size=SIDE,
        patch_size=8,
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=48,
        num_classes=len(CLASSES),
    )


def scatter(model):
    """Add random weights, so that no two classes or patches are alike."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 0.2 * torch.randn(tensor.shape)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {name: (file, model)}; each file is saved as its library saves."""
    root = tmp_path_factory.mktemp("theirs")
    images, labels = digits("train", 500)
    # Mean of the patches and no class token, as the ViT of quickstart.py.
    reader = timm_vit(8, 2, 1, 10, class_token=False, global_pool="avg", fc_norm=False)
    optimizer = torch.optim.Adam(reader.parameters(), 0.01)
    pixels = torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(reader(pixels), torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    safetensors.torch.save_file(reader.state_dict(), root / "digits.safetensors")
    photos = scatter(timm_vit(SIDE, 8, 3, len(CLASSES)))
    torch.save(photos.state_dict(), root / "timm.pth")
    other = scatter(torchvision_vit())
    torch.save(other.state_dict(), root / "torchvision.pth")
    return {
        "digits": (root / "digits.safetensors", reader),
        "timm": (root / "timm.pth", photos),
        "torchvision": (root / "torchvision.pth", other),
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs in folders named after classes, and a config that evaluates them."""
    root = tmp_path_factory.mktemp("photos")
    for i, photo in enumerate([*PHOTOGRAPHS.values()] * 3):
        folder = root / "val" / CLASSES[i % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        part = Image.fromarray(photo[i * 3 :, i * 5 :])
        part.save(folder / f"{i}.{('jpg', 'png')[i % 2]}")
    config = root / "photos.py"
    config.write_text(f"""
from ml_collections import ConfigDict


def get_config(arg=None):
    data = dict(kind="folder", data_dir={str(root)!r}, split="val")
    pp = "decode(precise=True)|central_crop({SIDE})|keep('image', 'label')"
    device_pp = (
        "value_range(-1, 1)|onehot({len(CLASSES)}, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    return ConfigDict(dict(
        input=dict(data=data, batch_size=8, pp=pp), device_pp=device_pp,
        num_classes={len(CLASSES)}, total_steps=1, optax_name="scale_by_adam", lr=0.1,
        evals=dict(val=dict(data=data, pp_fn=pp, device_pp=device_pp, batch_size=8,
                            loss_name="softmax_xent")),
    ))
""")
    return root


@pytest.fixture(scope="module")
def held_out(photos):
    """(paths, their middles as PIL and numpy read them, labels)."""
    paths, middles = sorted((photos / "val").rglob("*.*g")), []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
        middles.append(pixels[top : top + SIDE, left : left + SIDE])
    labels = [CLASSES.index(path.parent.name) for path in paths]
    return paths, np.stack(middles), np.array(labels)


def test_a_file_of_timm_is_evaluated_as_by_timm(files, tmp_path):
    file, model = files["digits"]
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


def test_photos_are_predicted_as_by_timm(files, photos, held_out, capsys):
    (file, model), (paths, images, _) = files["timm"], held_out
    own = ["--ckpt", file, "--config", photos / "photos.py"]
    call(predict.main, *own, photos / "val", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["broken"] == []
    rows = {row["file"]: row["top"] for row in document["photos"]}
    assert sorted(rows) == sorted(map(str, paths))
    theirs = torch.softmax(torch.tensor(logits_of(model, images)).double(), -1).numpy()
    for path, shares in zip(paths, theirs, strict=True):
        best = np.argsort(-shares)[:5]
        assert [g["class"] for g in rows[str(path)]] == best.tolist()
        assert [g["name"] for g in rows[str(path)]] == [CLASSES[k] for k in best]
        for guess in rows[str(path)]:
            expected = shares[guess["class"]]
            assert guess["probability"] == pytest.approx(expected, abs=1e-5)
    assert len({tuple(g["class"] for g in top) for top in rows.values()}) > 3


def test_a_file_of_torchvision_is_evaluated_and_becomes_timms(
    files, photos, held_out, tmp_path
):
    (file, model), (_, images, labels) = files["torchvision"], held_out
    converted, exported = tmp_path / "a.safetensors", tmp_path / "b.pth"
    own = ["--ckpt", file, "--config", photos / "photos.py"]
    call(evaluate.main, *own, "--out", tmp_path / "out", "--save_logits")
    call(convert.main, file, converted, "--to", "timm")
    call(export.main, *own, "--to", "timm", "--image_size", SIDE, exported)
    theirs = logits_of(model, images)
    with np.load(tmp_path / "out" / "val_logits.npz") as saved:
        ours = saved["logits"][np.lexsort(saved["logits"].T)]
        expected = theirs[np.lexsort(theirs.T)]
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    found, (loss, right) = evaluated(tmp_path / "out"), metrics_of(theirs, labels)
    assert found["examples"] == len(labels)
    assert found["prec@1"] == pytest.approx(right)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)

    assert np.abs(theirs).max() > 0.5
    for state in (safetensors.torch.load_file(converted), torch.load(exported)):
        copy = timm_vit(SIDE, 8, 3, len(CLASSES), mlp_ratio=48 / WIDTH)
        copy.load_state_dict(state, strict=True)
        np.testing.assert_allclose(
            logits_of(copy, images), theirs, rtol=1e-4, atol=1e-4
        )


def test_fine_tuning_begins_where_timm_is(files, tmp_path):
    """At step 0, loss and accuracy are those of timm's class."""
    file, model = files["digits"]
    own = {"width": WIDTH, "depth": DEPTH, "mlp_dim": 4 * WIDTH, "num_heads": HEADS}
    own |= {"patch_size": (2, 2), "pool_type": "gap", "posemb": "learn"}
    flags = [f"--config.model={ {**own, 'gelu': 'exact'} }", "--config.total_steps=1"]
    flags.append(f"--config.model_init={file}")
    call(train.cli, "--config", QUICKSTART, "--workdir", tmp_path, *flags)
    images, labels = digits("test", 359)
    loss, right = metrics_of(logits_of(model, images), labels)
    first = read_rows(tmp_path)[0]
    assert first["step"] == 0
    assert first["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert first["val/prec@1"] == pytest.approx(right)


def test_transfer_begins_with_timms_backbone_on_photographs(files, photos, tmp_path):
    """The recipe has a folder, another resolution, a new head and frozen parts."""
    file, model = files["timm"]
    spec = (
        f"{ROOT}/configs/transfer.py:ckpt={file},gelu=exact,variant=mu/8,pool=tok,"
        f"posemb=learn,data_dir={photos},train_split=val,val_split=val,"
        f"classes={len(CLASSES)},res=48,batch=8,steps=3,lr=0.1,freeze=backbone"
    )
    data = {"kind": "folder", "data_dir": str(photos), "split": "val"}
    ops = {
        "pp_fn": "decode|resize(48)|keep('image', 'label')",
        "device_pp": f"value_range(-1, 1)|onehot({len(CLASSES)}, key='label', "
        "key_result='labels')|keep('image', 'labels')",
    }
    fewshot = {"type": "fewshot", "data": data, "fit_data": data, "shots": (1,)}
    fewshot |= {**ops, "log_steps": 3}
    call(
        train.cli, "--config", spec, "--workdir", tmp_path, "--config.model.depth=2",
        f"--config.evals.fewshot={fewshot}",
    )  # fmt: skip
    rows = read_rows(tmp_path)
    assert rows[0]["val/loss"] == pytest.approx(np.log(len(CLASSES))), "a head of zeros"
    [shot] = [row["fewshot/1shot"] for row in rows if "fewshot/1shot" in row][:1]
    assert 0 < shot <= 1
    found = dict(flatten_with_names(read_params(tmp_path)[0]))
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


def test_a_broken_image_is_one_sentence_without_tensorflows_words(
    files, photos, tmp_path
):
    """It is a process, because TensorFlow writes to stderr past Python."""
    folder = tmp_path / "val" / CLASSES[0]
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_text("no photo")
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    done = shell(
        tmp_path, "evaluate", "--ckpt", files["timm"][0], "--out", "out",
        "--config", photos / "photos.py", f"--config.evals.val.data={data}",
    )  # fmt: skip
    assert done.returncode == 1
    *notes, line = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "a.jpg" in line
    assert all(x.startswith("note: ") or "gelu='exact'" in x for x in notes), notes
    assert not (tmp_path / "out").exists()
