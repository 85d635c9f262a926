"""Every tool as a person calls it, on the quickstart's run and on other libraries' files.

What a tool says of a file is compared with what that library's own class computes of the
same pixels, and what it writes is loaded by that class.
"""

import concurrent.futures
import functools
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from input_pipeline import pipeline
from tests.helpers.photographs import PHOTOGRAPHS
from tests.helpers.runs import QUICKSTART
from vitjax.checkpoints.read import read_params
from vitjax.records.jsonl import read_rows
from vitjax.trees import flatten_with_names
from vitjax.weights.libraries import import_torchvision

ROOT = Path(__file__).resolve().parents[2]
WIDTH, DEPTH, HEADS = 32, 2, 2  # two heads of this width: the variant mu's
SIDE = 32  # pixels, of photographs
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def shell(*command):
    """`python -m vitjax.tools.COMMAND` as a process of its own."""
    words = ["-m", f"vitjax.{command[0]}", *map(str, command[1:])]
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def shells(*commands):
    """Several of them, two at a time; all of them end well."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda command: shell(*command), commands))
    for process in done:
        assert process.returncode == 0, process.stderr
    return done


def report(out):
    return json.loads((out / "report.json").read_text())["evals"]["val"]


@torch.no_grad()
def logits_of(model, images):
    """A library's own logits (n, classes) of uint8 images (n, y, x, ch), in eval mode."""
    pixels = torch.tensor(np.asarray(images, np.float32) / 127.5 - 1)
    return model.eval()(pixels.permute(0, 3, 1, 2)).numpy()


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(
        torch.tensor(logits).double(), torch.tensor(labels)
    ).item()


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
    """Random weights that tell every class and every patch from the others."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 0.2 * torch.randn(tensor.shape)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: (file, the model whose weights it holds)}: each library's own saving."""
    root = tmp_path_factory.mktemp("theirs")
    images, labels = digits("train", 1438)
    # Mean of the patches, no class token: what quickstart.py's own ViT has.
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
    """Photographs below folders named after classes, and a config of their evaluation."""
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


def pixels_of(path):
    """A photograph's middle as PIL and numpy have it."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


def held_out(photos):
    """(paths, images, labels), in the order in which nothing is said of the order."""
    paths = sorted((photos / "val").rglob("*.*g"))
    labels = [CLASSES.index(path.parent.name) for path in paths]
    return paths, np.stack([pixels_of(path) for path in paths]), np.array(labels)


def shares_of(logits):
    return torch.softmax(torch.tensor(logits).double(), -1).numpy()


def test_a_file_of_timm_is_what_timm_says_it_is(files, photos, tmp_path):
    """Evaluated by the quickstart's config as it stands; top-5 of each photograph."""
    (digits_file, reader), (photo_file, judge) = files["digits"], files["timm"]
    paths, pictures, _ = held_out(photos)
    out, drawn = tmp_path / "out", tmp_path / "drawn.png"
    own = ["--config", photos / "photos.py"]
    _, predicted, rolled = shells(
        ["tools.evaluate", "--ckpt", digits_file, "--config", QUICKSTART, "--out", out,
         "--save_logits"],
        ["tools.predict", "--ckpt", photo_file, *own, photos / "val", "--json"],
        ["tools.attention_rollout", "--ckpt", photo_file, *own, "--image", paths[0],
         "--out", drawn, "--posemb", tmp_path / "positions.png"],
    )  # fmt: skip

    images, labels = digits("test", 359)
    theirs = logits_of(reader, images)
    with np.load(out / "val_logits.npz") as saved:
        np.testing.assert_allclose(saved["logits"], theirs, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(saved["labels"].argmax(1), labels)
    found, right = report(out), theirs.argmax(1) == labels
    assert 0.3 < right.mean() < 1
    assert found["examples"] == 359
    assert found["prec@1"] == pytest.approx(right.mean())
    assert found["loss"] == pytest.approx(cross_entropy(theirs, labels), rel=1e-5)

    document = json.loads(predicted.stdout)
    assert document["broken"] == []
    rows = {row["file"]: row["top"] for row in document["photos"]}
    assert sorted(rows) == sorted(map(str, paths))
    theirs = logits_of(judge, pictures)
    for path, shares in zip(paths, shares_of(theirs), strict=True):
        best = np.argsort(-shares)[:5]
        assert [g["class"] for g in rows[str(path)]] == best.tolist()
        assert [g["name"] for g in rows[str(path)]] == [CLASSES[k] for k in best]
        for guess in rows[str(path)]:
            expected = shares[guess["class"]]
            assert guess["probability"] == pytest.approx(expected, abs=1e-5)
    assert len({tuple(g["class"] for g in top) for top in rows.values()}) > 3

    assert f"{drawn}: class {theirs[0].argmax()}" in rolled.stdout
    for path in (drawn, tmp_path / "positions.png"):
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(10**6)) > 100


def test_a_file_of_torchvision_is_evaluated_and_becomes_timms(files, photos, tmp_path):
    file, model = files["torchvision"]
    converted, exported = tmp_path / "a.safetensors", tmp_path / "b.pth"
    own = ["--ckpt", file, "--config", photos / "photos.py"]
    shells(
        ["tools.evaluate", *own, "--out", tmp_path / "out", "--save_logits"],
        ["tools.convert", file, converted, "--to", "timm"],
        ["tools.export", *own, "--to", "timm", "--image_size", SIDE, exported],
    )
    paths, images, labels = held_out(photos)
    theirs = logits_of(model, images)
    with np.load(tmp_path / "out" / "val_logits.npz") as saved:
        ours = saved["logits"][np.lexsort(saved["logits"].T)]
        expected = theirs[np.lexsort(theirs.T)]
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    found = report(tmp_path / "out")
    assert found["examples"] == len(paths)
    assert found["prec@1"] == pytest.approx((theirs.argmax(1) == labels).mean())
    assert found["loss"] == pytest.approx(cross_entropy(theirs, labels), rel=1e-5)

    assert np.abs(theirs).max() > 0.5
    for state in (safetensors.torch.load_file(converted), torch.load(exported)):
        copy = timm_vit(SIDE, 8, 3, len(CLASSES), mlp_ratio=48 / WIDTH)
        copy.load_state_dict(state, strict=True)
        np.testing.assert_allclose(
            logits_of(copy, images), theirs, rtol=1e-4, atol=1e-4
        )


def test_fine_tuning_begins_where_timm_is(files, tmp_path):
    """A sweep of one: at step 0, loss and accuracy are those of timm's own class."""
    file, model = files["digits"]
    own = {"width": WIDTH, "depth": DEPTH, "mlp_dim": 4 * WIDTH, "num_heads": HEADS}
    own |= {
        "patch_size": (2, 2),
        "pool_type": "gap",
        "posemb": "learn",
        "gelu": "exact",
    }
    flags = [f"--config.model={own}", f"--config.model_init={file}"]
    flags += ["--config.total_steps=3"]
    out = tmp_path / "sweep"
    _, planned, profiled = shells(
        ["tools.sweep", "--config", f"{QUICKSTART}:epochs=1", "--matrix", "batch=64",
         "--out", out, *flags],
        ["tools.plan", f"--config={QUICKSTART}", *flags, "--accum_freq", "1",
         "--remat_policy", "none", "--json"],
        ["tools.profile", f"--config={QUICKSTART}", *flags, "--steps=3", "--out",
         tmp_path / "trace", "--json"],
    )  # fmt: skip
    images, labels = digits("test", 359)
    theirs = logits_of(model, images)
    first = read_rows(out / "batch=64")[0]
    assert first["step"] == 0
    assert first["val/loss"] == pytest.approx(cross_entropy(theirs, labels), rel=1e-5)
    right = (theirs.argmax(1) == labels).mean()
    assert first["val/prec@1"] == pytest.approx(right)
    last = read_rows(out / "batch=64")[-1]
    assert f"| 64 | {last['val/loss']:.4g} |" in (out / "table.md").read_text()

    parameters = sum(x.numel() for x in model.parameters())
    assert json.loads(planned.stdout)["parameters"] == parameters
    profile = json.loads(profiled.stdout)
    assert min(profile[key] for key in ("data", "transfer", "compute", "loop")) > 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_transfer_begins_with_timms_backbone_on_photographs(files, photos, tmp_path):
    """The recipe as it stands: a folder, another resolution, a new head, frozen parts."""
    file, model = files["timm"]
    spec = (
        f"configs/transfer.py:ckpt={file},gelu=exact,variant=mu/8,pool=tok,posemb=learn,"
        f"data_dir={photos},train_split=val,val_split=val,classes={len(CLASSES)},res=48,"
        "batch=4,steps=3,lr=0.1,freeze=backbone"
    )
    data = {"kind": "folder", "data_dir": str(photos), "split": "val"}
    ops = {
        "pp_fn": "decode|resize(48)|keep('image', 'label')",
        "device_pp": f"value_range(-1, 1)|onehot({len(CLASSES)}, key='label', "
        "key_result='labels')|keep('image', 'labels')",
    }
    fewshot = {"type": "fewshot", "data": data, "fit_data": data, "shots": (1,)}
    fewshot |= {**ops, "log_steps": 3}
    process = shell(
        "train", "--config", spec, "--workdir", tmp_path / "run",
        "--config.model.depth=2", f"--config.evals.fewshot={fewshot}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows = read_rows(tmp_path / "run")
    assert rows[0]["val/loss"] == pytest.approx(np.log(len(CLASSES))), "a head of zeros"
    [shot] = [
        v
        for row in rows
        for k, v in row.items()
        if k.startswith("fewshot/") and "1" in k
    ][:1]
    assert 0 < shot <= 1
    found = dict(flatten_with_names(read_params(tmp_path / "run")[0]))
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    np.testing.assert_array_equal(
        found["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"],
        state["blocks.1.mlp.fc1.weight"].T,
    )
    assert np.abs(found["head/kernel"]).max() > 0
    assert found["pos_embedding"].shape[1] == 36, "resampled from 16"


def test_the_quickstarts_run_is_taken_elsewhere(digits_run, tmp_path):
    """Exported, timm computes its evaluation; evaluate and predict have tests of it."""
    images, labels = digits("test", 359)
    photo, drawn = tmp_path / "digit.png", tmp_path / "drawn.png"
    Image.fromarray(images[7, ..., 0]).save(photo)
    exported, npz = tmp_path / "a.safetensors", tmp_path / "a.npz"
    mean, curves = tmp_path / "mean", tmp_path / "curves.png"
    served = tmp_path / "a.stablehlo"
    said, rolled, *_ = shells(
        ["tools.export", "--ckpt", digits_run, "--to", "timm", exported],
        ["tools.attention_rollout", "--ckpt", digits_run, "--image", photo, "--out",
         drawn],
        ["tools.convert", digits_run, npz, "--to", "big_vision"],
        ["tools.average_checkpoints", digits_run, "--out", mean],
        ["tools.plot", digits_run, "--out", curves],
        ["tools.export", "--ckpt", digits_run, "--to", "stablehlo", served],
    )  # fmt: skip
    shells(
        ["tools.evaluate", "--ckpt", npz, "--config", QUICKSTART, "--out",
         tmp_path / "npz", "--config.model.num_heads=2"],
    )  # fmt: skip
    assert f"{exported}: timm; read back and compared to the bit" in said.stdout

    gelu = functools.partial(torch.nn.GELU, approximate="tanh")
    copy = timm_vit(
        8, 2, 1, 10, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, act_layer=gelu,
        class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    copy.load_state_dict(safetensors.torch.load_file(exported), strict=True)
    theirs = logits_of(copy, images)
    last = read_rows(digits_run)[-1]
    assert last["val/loss"] == pytest.approx(cross_entropy(theirs, labels), rel=1e-4)
    right = (theirs.argmax(1) == labels).mean()
    assert last["val/prec@1"] == pytest.approx(right)
    assert report(tmp_path / "npz")["prec@1"] == pytest.approx(right)
    program = jax.export.deserialize(served.read_bytes())
    np.testing.assert_allclose(program.call(images), theirs, rtol=1e-4, atol=1e-4)
    assert f"{drawn}: class {theirs[7].argmax()}" in rolled.stdout

    kept = sorted((digits_run / "checkpoints").iterdir(), key=lambda p: int(p.name))
    parts = [dict(flatten_with_names(read_params(path)[0])) for path in kept]
    assert len(parts) == 2
    with np.load(npz) as stored:
        assert sorted(name.removeprefix("params/") for name in stored.files) == sorted(
            parts[-1]
        )
    for name, x in flatten_with_names(read_params(mean)[0]):
        expected = (parts[0][name].astype(np.float64) + parts[1][name]) / 2
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9)
    assert report(mean / "evaluation")["examples"] == 359
    for path in (drawn, curves):
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(10**6)) > 50


def tree(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_bad_input_is_one_sentence_and_leaves_nothing(
    files, photos, digits_run, tmp_path, capfd
):
    """Each kind of it, each tool at least once, by the function that its command calls."""
    (reader, _), (judge, _) = files["digits"], files["timm"]
    own, out = ["--config", photos / "photos.py"], tmp_path / "out"
    note, none, net = (tmp_path / n for n in ("note.pth", "none.pth", "net.pth"))
    note.write_text("no weights")
    torch.save(torch.nn.Linear(3, 4).state_dict(), net)
    empty, broken = tmp_path / "empty", tmp_path / "broken" / "val" / CLASSES[0]
    empty.mkdir()
    broken.mkdir(parents=True)
    (broken / "a.jpg").write_text("no photo")
    data = (
        f"{ {'kind': 'folder', 'data_dir': str(tmp_path / 'broken'), 'split': 'val'} }"
    )
    tiny = tmp_path / "tiny.png"
    Image.fromarray(np.zeros((16, 30, 3), np.uint8)).save(tiny)
    before = tree(tmp_path), tree(digits_run)
    cases = [
        # Not a checkpoint.
        (["tools.export", "--ckpt", note, "--to", "timm", tmp_path / "a.pth"],
         "note.pth is not a torch.save file, or is damaged"),
        (["tools.average_checkpoints", empty, "--out", out], "no checkpoint"),
        (["tools.plot", empty, "--out", tmp_path / "a.png"], "no metrics.jsonl"),
        # Another architecture: which keys, which shapes.
        (["tools.convert", net, tmp_path / "a.npz", "--to", "big_vision"],
         "its keys include bias, weight"),
        (["train", "--config", QUICKSTART, f"--config.model_init={judge}",
          "--workdir", out], "embedding/kernel"),
        (["tools.attention_rollout", "--ckpt", judge, *own, "--image",
          next(photos.rglob("0.jpg")), "--out", tmp_path / "a.png",
          "--config.evals.val.pp_fn=decode|central_crop(64)|keep('image', 'label')"],
         "pos_embedding is (1, 16, 32) there, and would be (1, 64, 32)"),
        # Other classes.
        (["tools.evaluate", "--ckpt", reader, *own, "--out", out],
         "is for 10 classes, but the config has num_classes=7"),
        # An empty folder; what is no image.
        (["tools.predict", "--ckpt", judge, *own, empty, "--pictures", out],
         "has no images (.jpg"),
        (["tools.predict", "--ckpt", judge, *own, note, tiny, "--pictures", out],
         "note.pth' is no image that can be decoded"),
        (["tools.evaluate", "--ckpt", judge, *own, "--out", out,
          f"--config.evals.val.data={data}"], "a.jpg"),
        # Configs.
        (["tools.plan", "--config", none, "--out", out], "does not exist"),
        (["tools.show", "--config", none, "--out", out], "there is no config file"),
        (["tools.compare_runs", empty, "--out", out], "want of a metrics.jsonl"),
        (["tools.profile", "--config", QUICKSTART, "--config.input.batch_siz=3",
          "--out", out], "batch_siz"),
        (["tools.sweep", "--config", QUICKSTART, "--matrix", "batch", "--out", out],
         "--matrix takes NAME=VALUE"),
    ]  # fmt: skip
    for (name, *flags), words in cases:
        if name in ("tools.evaluate", "tools.predict"):
            # What TensorFlow says of broken images, a person sees.
            process = shell(name, *flags)
            status, errors = process.returncode, process.stderr
        else:
            tool = importlib.import_module(f"vitjax.{name}")
            main = tool.cli if hasattr(tool, "cli") else tool.main
            status, errors = main([*map(str, flags)]), capfd.readouterr().err
        assert status == 1, name
        assert words in errors, name
        lines = errors.strip().splitlines()
        if "probably trained with gelu='exact'" in lines[0]:  # told beside the error
            lines = lines[1:]
        assert [line.split(":")[0] for line in lines] in (
            ["error"],
            ["note", "error"],
            ["error", "(VITJAX_TRACEBACK=1 shows where it comes from)"],
            2 * ["left out"] + ["error"],
        ), lines
        if "left out" in errors:
            assert "tiny.png', of 16 x 30 pixels, cannot be prepared" in errors
    assert (tree(tmp_path), tree(digits_run)) == before


def test_no_tool_is_left_out():
    tools = {
        path.stem
        for path in (ROOT / "vitjax" / "tools").glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    here = Path(__file__).read_text()
    assert tools == set(re.findall(r'\["tools\.(\w+)"', here))
