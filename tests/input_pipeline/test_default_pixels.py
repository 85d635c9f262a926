"""The pixels of the flagship's presets, against values of the ops before they were fast.

At that time TensorFlow resized, and compiled randaug op by op.
"""

import itertools
import platform
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from configs import vit_s16_i1k
from input_pipeline import pipeline

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not tf.__version__.startswith("2.21."),
    reason="the values are those of TensorFlow 2.21 on x86-64",
)
BATCHES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """scikit-learn's two photographs, as JPEGs with all colours and with 4:2:0."""
    folder = tmp_path_factory.mktemp("photographs")
    images = Path(sklearn.datasets.__file__).parent / "images"
    for name in ("china", "flower"):
        (folder / "train" / name).mkdir(parents=True)
        data = (images / f"{name}.jpg").read_bytes()
        if name == "flower":
            data = tf.io.encode_jpeg(tf.io.decode_jpeg(data), quality=90).numpy()
        for i in range(8):
            (folder / "train" / name / f"{i}.jpg").write_bytes(data)
    return folder


def checksum(batches):
    arrays = [np.ascontiguousarray(batch["image"]) for batch in batches]
    assert all(a.dtype == np.uint8 and a.shape[1:] == (224, 224, 3) for a in arrays)
    return zlib.crc32(b"".join(array.tobytes() for array in arrays))


@pytest.mark.parametrize(
    ("arg", "want"),
    [
        ("randaug=off", 2585686417),
        ("", 3868245925),
        ("preset=fixed", 650367922),
        ("preset=mup_vit,crop=torchvision", 755917431),
    ],
    ids=["crops", "randaug", "fixed", "mup_vit"],
)
def test_training(folder, arg, want):
    """64 crops of all sizes, decoded, resized and mirrored; then with randaug, too."""
    config = vit_s16_i1k.get_config(arg)
    data = {"kind": "folder", "data_dir": str(folder), "split": "train"}
    stream, _ = pipeline.make_train(
        data=data, batch_size=16, seed=0, pp=config.input.pp
    )
    assert checksum(itertools.islice(stream, BATCHES)) == want


@pytest.mark.parametrize(
    ("arg", "want"), [("", 1568611824), ("preset=fixed", 943994174)]
)
def test_evaluation(folder, arg, want):
    config = vit_s16_i1k.get_config(arg)
    data = {"kind": "folder", "data_dir": str(folder), "split": "train"}
    batches, steps = pipeline.make_eval(
        data=data, batch_size=16, pp_fn=config.evals.val.pp_fn
    )
    assert checksum(itertools.islice(batches, steps)) == want
