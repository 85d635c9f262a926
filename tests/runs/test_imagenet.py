"""The flagship config on real TFRecords that tfds' own builder made of ILSVRC's tars."""

import numpy as np
import pytest

from configs import vit_s16_i1k
from input_pipeline.pipeline import make_train
from tests.helpers import ilsvrc
from tests.vitjax.test_benchmark import ELEMENT_SPEC, FLAGSHIP
from vitjax import train
from vitjax.records.jsonl import read_rows


def arguments(data_dir, workdir, *extra):
    argv = ["--config", FLAGSHIP + ":variant=mu/16", "--workdir", str(workdir)]
    for section in ("input", "evals.train", "evals.minival", "evals.val"):
        argv.append(f"--config.{section}.data.data_dir={data_dir}")
    for section in ("evals.v2", "evals.real"):
        argv.append(f"--config.{section}.data.data_dir={data_dir}")
    return [
        *argv,
        "--config.input.batch_size=16",
        "--config.total_epochs=None",
        "--config.total_steps=30",
        "--config.schedule.warmup_steps=5",
        "--config.log_training_steps=5",
        "--config.lr=0.01",
        *extra,
    ]


@pytest.fixture(scope="module")
def workdir(imagenet_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("flagship")
    assert train.cli(arguments(imagenet_dir, path)) == 0
    return path


def test_the_flagship_trains_with_finite_falling_loss(workdir):
    rows = read_rows(workdir)
    losses = [row["training_loss"] for row in rows if "training_loss" in row]
    assert losses[0] == pytest.approx(np.log(1000), rel=1e-6)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 1
    # The validation images are of other classes than the ten that are trained on.
    trained = [row["train/loss"] for row in rows if "train/loss" in row]
    assert trained[-1] < trained[0] - 1
    assert (workdir / "curves.png").exists()
    assert (workdir / "train_batch.png").exists()


def test_accuracies_divide_by_the_examples_of_each_split(workdir):
    """300 training images: train[:2%] has 6, train[99%:] 3; validation has 50."""
    last = [row for row in read_rows(workdir) if "val/prec@1" in row][-1]
    for name, size in (("train", 6), ("minival", 3), ("val", 50)):
        hits = last[f"{name}/prec@5"] * size
        assert hits == pytest.approx(round(hits), abs=1e-6)
    assert last["train/prec@5"] > 0


def test_sets_that_are_not_prepared_are_skipped_with_one_warning(workdir):
    names = {name.split("/")[0] for row in read_rows(workdir) for name in row}
    assert not {"v2", "real"} & names


def test_real_labels_are_multi_hot_and_images_without_any_do_not_count(
    imagenet_dir, tmp_path
):
    """An untrained head prefers class 0: ten of the forty labelled images have it."""
    manual = tmp_path / "manual"
    ilsvrc.write_tars(manual, train_per_class=1, num_classes=1, val=50)
    labels = [[], [0, 7], [3], [3, 4], [2]] * 10
    ilsvrc.prepare_real(tmp_path, manual, labels)
    argv = arguments(imagenet_dir, tmp_path / "run", "--config.total_steps=1")
    argv += [
        "--config.schedule.warmup_steps=0",
        f"--config.evals.real.data.data_dir={tmp_path}",
    ]
    argv += [
        f"--config.evals.{name}=None" for name in ("train", "minival", "val", "v2")
    ]
    argv = [a for a in argv if ".evals." not in a or "real" in a or a.endswith("None")]
    assert train.cli(argv) == 0
    first = read_rows(tmp_path / "run")[0]
    assert first["real/prec@1"] == 10 / 40
    assert first["real/prec@5"] == 1.0
    # Unnormalised labels, as big_vision: ln(1000) for each of an image's labels.
    per_image = np.mean([len(row) for row in labels if row])
    assert first["real/loss"] == pytest.approx(np.log(1000) * per_image, rel=1e-5)


def test_uint8_images_and_integer_labels_are_what_travels(imagenet_dir):
    config = vit_s16_i1k.get_config()
    config.input.data.data_dir = str(imagenet_dir)
    data, size = make_train(**config.input, seed=0)
    assert size == 297
    assert data.element_spec == ELEMENT_SPEC
