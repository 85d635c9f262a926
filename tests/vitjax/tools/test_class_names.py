"""Classes by name in whole runs; right predictions are counted by hand, file by file."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from input_pipeline import pipeline
from tests.helpers.runs import run
from vitjax import data as feeding
from vitjax.checkpoints.read import read_meta
from vitjax.records.jsonl import read_rows
from vitjax.tools import evaluate
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow

COLOURS = {"ant": (250, 20, 20), "bee": (20, 250, 20), "cat": (20, 20, 250)}
COLOURS |= {"dog": (250, 250, 20)}
PP = "decode|central_crop(8)|keep('image', 'label')"


def write(root, split, counts):
    """Write noisy pictures; `counts` maps each folder to (class of the colour, number)."""
    for name, (like, count) in counts.items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng(i)
            noisy = np.array(COLOURS[like]) + rng.integers(-20, 20, (8, 8, 3))
            image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
            image.save(root / split / name / f"{i}.png")
    return {"kind": "folder", "data_dir": str(root), "split": split}


def train_on(data, evals, workdir, *more):
    """Train a run on the colours, with the evaluators of `evals`."""
    val = {"pp_fn": PP, "log_steps": 30, "batch_size": 8, "skip_first": True}
    onehot = "onehot(3, key='label', key_result='labels')"
    val["device_pp"] = f"value_range(-1, 1)|{onehot}"
    flags = {
        "total_steps": 30,
        "ckpt_steps": 30,
        "num_classes": 3,
        "input": {"data": data, "batch_size": 16, "pp": PP},
        "device_pp": val["device_pp"] + "|keep('image', 'labels')",
        "mixup": None,
        "lr": 0.01,
        "tensorboard": False,
        "evals": {name: val | section for name, section in evals.items()},
    }
    flags = [f"--config.{key}={value!r}" for key, value in flags.items()]
    return run(workdir, *flags, *more)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(workdir, data of training, data without a class, warnings)."""
    root = tmp_path_factory.mktemp("classes")
    train = write(root, "train", {name: (name, 16) for name in ("ant", "bee", "cat")})
    few = {"bee": ("bee", 5), "cat": ("cat", 6)}
    lacks = write(root / "lacks", "val", few)
    probe = {"type": "fewshot", "fit_data": train, "data": lacks, "shots": (4,)}
    evals = {"val": {"loss_name": "softmax_xent", "data": lacks}, "few": probe}
    with pytest.MonkeyPatch.context() as patch:
        told = []
        patch.setattr("absl.logging.warning", lambda text, *args: told.append(text))
        assert train_on(train, evals, root / "run") == 0
    return root / "run", train, lacks, told


def counted_by_hand(trained, folder):
    """Return {folder of a class: [examples, right predictions]}."""
    found = {}
    for path in sorted(folder.rglob("*.png")):
        image = np.asarray(Image.open(path), np.float32)[None] / 127.5 - 1
        logits = np.asarray(trained.apply(image)[0])[0]
        row = found.setdefault(path.parent.name, [0, 0])
        row[0] += 1
        row[1] += trained.class_names[logits.argmax()] == path.parent.name
    return found


def report_of(workdir, out, data, *more):
    flags = [f"--config.evals.val.data={data!r}", *more]
    argv = ["--ckpt", str(workdir), "--evals", "val", "--out", str(out), *flags]
    assert evaluate.main(argv) == 0
    return json.loads((out / "report.json").read_text())["evals"]["val"]


def test_evaluators_of_a_run_map_by_name_and_say_so_once(ran):
    workdir, _, lacks, told = ran
    trained = open_trained(workdir)
    assert trained.class_names == ("ant", "bee", "cat")
    assert read_meta(workdir)["data_size"] == 48
    found = counted_by_hand(trained, Path(lacks["data_dir"]))
    right = sum(row[1] for row in found.values()) / 11
    assert right > 0.8, "shifted labels would not be seen"
    [row] = [row for row in read_rows(workdir) if "val/prec@1" in row]
    assert row["val/prec@1"] == pytest.approx(right)
    assert row["few/4shot"] == 1, "colours are far apart"
    mapped = [text for text in told if "are mapped" in text]
    # The evaluator and the probe have the same notice.
    assert len(mapped) == 1
    assert mapped[0].endswith("'ant', 'bee', 'cat'; there is no example of 'ant'")


def test_a_folder_without_a_class_is_counted_right(ran, tmp_path, capsys):
    workdir, _, lacks, _ = ran
    report = report_of(workdir, tmp_path / "out", lacks)
    by_hand = counted_by_hand(open_trained(workdir), Path(lacks["data_dir"]))
    figures = {r["class"]: r for r in report["per_class"]}
    assert figures["ant"]["accuracy"] is None
    for name, (count, right) in by_hand.items():
        assert figures[name]["examples"] == count
        assert figures[name]["accuracy"] == pytest.approx(right / count)
    assert set(report["classification_report"]) >= {"bee", "cat"}
    assert "ant" not in report["classification_report"]
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("note: ")]
    assert len(said) == 1
    assert "'ant'" in said[0]


def test_a_resume_takes_more_images_but_no_other_classes(ran, tmp_path, capsys, caplog):
    """A warning counts the images; the same holds for a resume of another run."""
    workdir, train, lacks, _ = ran
    root = tmp_path / "data"
    shutil.copytree(train["data_dir"], root, ignore=lambda *_: ["run", "lacks"])
    evals = {"val": {"data": lacks, "loss_name": "softmax_xent"}}
    moved = {**train, "data_dir": str(root)}
    write(root, "train", {"bee": ("bee", 18)})
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    assert train_on(moved, evals, copy) == 0
    [text] = [t for t in caplog.messages if "examples, but" in t]
    assert "has 50 examples, but had 48" in text
    capsys.readouterr()
    write(root, "train", {"animal": ("dog", 2)})
    shutil.rmtree(root / "train" / "cat")
    for where, more in ((copy, []), (tmp_path / "new", [f"--config.resume={workdir}"])):
        assert train_on(moved, evals, where, *more) == 1
        line = capsys.readouterr().err.splitlines()[0]
        assert "it lacks 'cat' and adds 'animal'; restore the classes of" in line
        assert "--config.model_init=" in line
    assert not (tmp_path / "new").exists()


class Data:
    """The part of a training stream that `feeding.as_before` reads."""

    def __init__(self, num_classes=3, total_examples=10):
        self.source, self.num_classes = self, num_classes
        self.total_examples = total_examples
        self.prepared = None


def test_a_checkpoint_with_less_metadata_is_compared_by_less():
    told = []
    assert feeding.as_before(data := Data(), "there", {}, told.append) is data
    kept = {"class_names": None, "data_classes": 3, "data_size": 10}
    assert feeding.as_before(data, "there", kept, told.append) is data
    assert told == []
    with pytest.raises(ValueError, match="4 classes, but there was trained on 3"):
        feeding.as_before(Data(4), "there", kept, told.append)


def test_a_resumed_run_keeps_the_order_of_its_classes(tmp_path):
    """Older checkpoints have folders that are numbers in the order of text."""
    write(tmp_path, "train", {"10": ("ant", 3), "0": ("bee", 3), "2": ("cat", 3)})
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "train"}
    stream, _ = pipeline.make_train(data=data, batch_size=9, seed=0, pp=PP)

    def labels(stream):
        batch = next(iter(stream))
        bright = batch["image"].mean((1, 2)).argmax(1)  # its colour
        pairs = zip(bright, batch["label"], strict=True)
        return {("10", "0", "2")[colour]: int(label) for colour, label in pairs}

    assert stream.class_names == ("0", "2", "10")
    assert labels(stream) == {"0": 0, "2": 1, "10": 2}
    for kept in ({"class_names": ["0", "10", "2"]}, {"seed": 0}):
        told = []
        again = feeding.as_before(stream, "there", kept, told.append)
        assert again.class_names == ("0", "10", "2")
        assert labels(again) == {"0": 0, "10": 1, "2": 2}
        order, stored = told
        assert order == "the classes keep their labels from there"
        assert "--config.input.data.as_seen=False does the same" in stored
    kept = {"class_names": ["0", "2", "10"], "data_size": 9, "data_classes": 3}
    told = []
    assert feeding.as_before(stream, "there", kept, told.append).source is stream.source
    assert told == []


def test_only_the_first_process_gives_a_notice_and_once(monkeypatch):
    told = []
    tell = feeding.once(told.append)
    for text in ("a", "b", "a"):
        tell(text)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    feeding.once(told.append)("c")
    assert told == ["a", "b"]
