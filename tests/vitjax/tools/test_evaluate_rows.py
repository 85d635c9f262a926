"""evaluate: a row for each example, and probes of features."""

import csv
import json

import numpy as np
import pandas
import pytest
from PIL import Image

from tests.helpers import weights_cases
from tests.helpers.runs import QUICKSTART
from vitjax import weights
from vitjax.evaluators.fewshot import few_of_each, ridge_accuracy
from vitjax.evaluators.knn import knn_accuracy
from vitjax.tools import evaluate, features
from vitjax.tools.trained import open_trained
from vitjax.weights import files

pytestmark = pytest.mark.slow

DIGITS = {"kind": "arrays", "name": "digits"}
KEEP = "keep('image', 'label')"


def test_predictions_are_one_row_for_each_example(digits_run, tmp_path):
    out = tmp_path / "out"
    tables = [tmp_path / "a.csv", tmp_path / "a.parquet"]
    flags = ["--ckpt", str(digits_run), "--out", str(out), "--save_logits"]
    for table in tables:
        assert evaluate.main([*flags, "--predictions", str(table)]) == 0
    found = pandas.read_csv(tables[0], keep_default_na=False)
    with np.load(out / "val_logits.npz") as saved:
        logits, labels = saved["logits"].astype(float), saved["labels"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.prediction.tolist() == logits.argmax(1).tolist()
    assert found.label.tolist() == labels.argmax(1).tolist()
    np.testing.assert_allclose(found.probability, shares.max(1), rtol=1e-6)
    assert found.correct.tolist() == (found.label == found.prediction).tolist()
    assert found["index"].tolist() == list(range(359))
    assert set(found.evaluator) == {"val"}
    assert found.label_name.astype(str).tolist() == found.label.astype(str).tolist()
    other = pandas.read_parquet(tables[1])
    assert other.columns.tolist() == found.columns.tolist()
    np.testing.assert_allclose(other.probability, found.probability, rtol=1e-12)


def test_rows_of_a_folder_name_its_files(digits_run, tmp_path):
    """An ImageNet class is named in words."""
    for k, name in enumerate(["n01440764", "n01443537"]):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(2 + k):
            grey = np.full((8, 8), 40 * i, np.uint8)
            Image.fromarray(grey).save(tmp_path / "val" / name / f"{i}.png")
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "val"}
    section = {**open_trained(digits_run).evaluator()[1], "data": data}
    section["data"]["match_classes"] = "number"
    section["pp_fn"] = f"decode(channels=1)|resize(8)|{KEEP}"
    flags = ["--ckpt", str(digits_run), "--out", str(tmp_path / "out")]
    flags += [f"--config.evals.photos={section}", "--evals", "photos"]
    assert evaluate.main([*flags, "--predictions", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    for row in rows:
        folder = "n01440764" if row["label"] == "0" else "n01443537"
        assert row["file"].startswith(str(tmp_path / "val" / folder))
        words = "tench, Tinca tinca" if row["label"] == "0" else "goldfish"
        assert row["label_name"].startswith(words)


@pytest.fixture(scope="module")
def arrays(digits_run, tmp_path_factory):
    """The features of both splits, by the tool."""
    found = []
    for split in ("train", "test"):
        out = tmp_path_factory.mktemp("features") / f"{split}.npz"
        flags = ["--ckpt", str(digits_run), "--evals", "val", "--out", str(out)]
        data = {**DIGITS, "split": split}
        assert features.main([*flags, f"--config.evals.val.data={data}"]) == 0
        with np.load(out) as saved:
            found.append((saved["features"], saved["labels"]))
    return found


def probes(capsys, *flags):
    capsys.readouterr()
    assert evaluate.main([*map(str, flags), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_probes_are_those_of_the_features_that_the_tool_writes(
    digits_run, arrays, tmp_path, capsys
):
    (x, y), test = arrays
    assert (len(x), len(test[0])) == (1438, 359)
    flags = ["--ckpt", digits_run, "--out", tmp_path / "out"]
    report = probes(
        capsys, *flags, "--knn", "7", "--temperature", "0.2", "--fewshot", 3
    )
    assert report["evals"] == {}
    found = report["probes"]
    assert found["knn"] == {"accuracy": knn_accuracy(x, y, *test, 7, 0.2)}
    ridge = [
        ridge_accuracy(x[rows], y[rows], *test, 2.0**10)
        for rows in (few_of_each(y, 3, seed) for seed in range(3))
    ]
    assert found["fewshot"] == {"3shot": pytest.approx(np.mean(ridge))}
    table = (tmp_path / "out" / "report.md").read_text()
    assert f"| knn | accuracy | {found['knn']['accuracy']:.4g} |" in table


def test_a_probe_of_the_config_runs_beside_a_classifier(digits_run, tmp_path, capsys):
    split = {
        "data": {**DIGITS, "split": "test"},
        "fit_data": {**DIGITS, "split": "train"},
    }
    few = {"type": "fewshot", "log_steps": 500, "shots": [5], "num_seeds": 1, **split}
    flags = ["--ckpt", digits_run, "--out", tmp_path / "out", "--evals", "val", "few"]
    report = probes(capsys, *flags, f"--config.evals.few={few}")
    assert list(report["evals"]) == ["val"]
    assert list(report["probes"]["few"]) == ["5shot"]


def test_weights_without_a_head_or_for_other_classes_are_probed(tmp_path, capsys):
    """The labels are those of the data, and the config's num_classes does not count."""
    found = {}
    for name in ("bare", "five"):
        params = weights_cases.params(posemb="learn", pool_type="gap")
        if name == "bare":
            del params["head"]
        file = tmp_path / f"{name}.safetensors"
        files.write(
            file, weights.to_state_dict(params, format="timm"), {"format": "pt"}
        )
        pp = f"resize((12, 12))|grayscale_to_rgb|{KEEP}"
        flags = ["--ckpt", file, "--config", QUICKSTART, "--norm", "half"]
        flags += ["--config.model.num_heads=3", f"--config.evals.val.pp_fn={pp}"]
        flags += ["--out", tmp_path / "out"]
        found[name] = probes(capsys, *flags, "--knn", "5")["probes"]["knn"]["accuracy"]
        assert evaluate.main([*map(str, flags)]) == 1
        words = {"bare": "is a backbone, without a head", "five": "is for 5 classes"}
        assert words[name] in capsys.readouterr().err
    assert found["bare"] > 0.2
