"""Files of arrays, written here byte by byte as their formats say."""

import gzip
import os
import pickle
import pickletools
import re
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import sources

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)


def read_all(source):
    rows = list(tf.data.Dataset.range(len(source)).map(source.read).as_numpy_iterator())
    assert [row["_id"] for row in rows] == list(range(len(source)))
    assert all(row["label"].dtype == np.int64 for row in rows)
    return [(row["image"], int(row["label"])) for row in rows]


def assert_holds(source, images, labels):
    """All examples, each once, in any order; every image here is another one."""
    expected = {x.tobytes(): int(y) for x, y in zip(images, labels, strict=True)}
    assert len(expected) == len(source) == len(images)
    for image, label in read_all(source):
        assert image.shape == images.shape[1:]
        assert expected.pop(image.tobytes()) == label


def assert_fails(message, **data):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        sources.open_source(**data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------- IDX


def idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim])
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx_dir(tmp_path):
    """120 and 30 images of 5x4, three classes; compressed as MNIST comes."""
    for stem, (images, labels) in IDX.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = tmp_path / f"{stem}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


IDX = {
    stem: (RNG.integers(0, 256, (n, 5, 4), np.uint8), np.arange(n, dtype=np.uint8) % 3)
    for stem, n in (("train", 120), ("t10k", 30))
}


@pytest.mark.parametrize(
    ("split", "stem", "unpacked"),
    [("train", "train", None), ("test", "t10k", "-"), ("train", "train", ".")],
)
def test_idx(idx_dir, split, stem, unpacked):
    """Compressed, or unpacked with either character in "-idx3" and ".idx3"."""
    for path in list(idx_dir.iterdir()) if unpacked else ():
        name = path.name.removesuffix(".gz").replace("-idx", f"{unpacked}idx")
        (idx_dir / name).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    source = sources.open_source(
        kind="idx", data_dir=str(idx_dir), split=split, class_names=("x", "y", "z")
    )
    images, labels = IDX[stem]
    assert_holds(source, images[..., None], labels)
    assert source.class_names == ("x", "y", "z")
    assert source.num_classes == 3
    assert source.describe(4) == f"example 4 of {idx_dir} {split}"
    assert source.nbytes() == images.size


def test_idx_parts_are_taken_at_random(idx_dir):
    def part(split):
        return read_all(
            sources.open_source(kind="idx", data_dir=str(idx_dir), split=split)
        )

    whole, first, rest = part("train"), part("train[:75%]"), part("train[75%:]")
    for (image, label), (other, same) in zip(whole, first + rest, strict=True):
        np.testing.assert_array_equal(image, other)
        assert label == same
    labels = [label for _, label in whole]
    assert labels != sorted(labels)
    assert labels[:6] != [0, 1, 2, 0, 1, 2]  # the order of the file
    both = part("train[:5]+test[:2]")
    assert len(both) == 7
    np.testing.assert_array_equal(both[5][0], part("test")[0][0])


def test_idx_errors(idx_dir):
    images = idx_dir / "train-images-idx3-ubyte.gz"
    labels = idx_dir / "train-labels-idx1-ubyte.gz"
    data = {"kind": "idx", "data_dir": str(idx_dir), "split": "train"}
    assert_fails(f"{idx_dir} has no split 'val'", **data | {"split": "val"})
    text = assert_fails("must be in 0 to 1, but 40 of 120", **data, num_classes=2)
    assert str(labels) in text
    assert "the first of them 2 at row 2" in text
    names = {"class_names": ("a", "b", "c"), "num_classes": 4}
    assert_fails("given 3 class_names, but num_classes is 4", **data, **names)

    whole = images.read_bytes()
    images.write_bytes(whole[:-20])
    assert str(images) in assert_fails("is damaged", **data)
    images.write_bytes(b"no gzip")
    assert str(images) in assert_fails("is damaged", **data)
    raw = gzip.decompress(whole)
    images.write_bytes(gzip.compress(raw[:-1]))
    message = "its header says 2400 bytes of data (120, 5, 4), but it has 2399"
    assert str(images) in assert_fails(message, **data)
    images.write_bytes(gzip.compress(b"\0\0\x0d" + raw[3:]))
    assert str(images) in assert_fails("begins with 00 00 0d 03 instead of", **data)
    images.write_bytes(whole)
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(7, np.uint8))))
    assert str(labels) in assert_fails(f"{images} has 120 images, but", **data)
    labels.unlink()
    with pytest.raises(sources.DataNotFound, match="train-labels-idx1-ubyte,"):
        sources.open_source(**data)
    with pytest.raises(sources.DataNotFound, match="no folder"):
        sources.open_source(**data | {"data_dir": str(idx_dir / "no")})


# --------------------------------------------------------------------------- CIFAR


class Python2Pickler(pickle._Pickler):
    """Writes strings of both kinds as Python 2 did its own, as in CIFAR's files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def write_pickle(path, content):
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    data = path.read_bytes()
    # numpy's name of the time.
    data = data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    path.write_bytes(data)
    names = {arg for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    assert "numpy.core.multiarray _reconstruct" in names or b"data" not in content


def cifar_batch(count, classes, key):
    images = RNG.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = RNG.integers(0, classes, count).tolist()
    # Red plane, green plane, blue plane; each in rows.
    rows = np.stack([images[..., c].reshape(count, -1) for c in range(3)], 1)
    content = {
        b"data": np.ascontiguousarray(rows.reshape(count, -1)),
        key: labels,
        b"filenames": [b"a.png"] * count,
        b"batch_label": b"testing batch 1 of 1",
    }
    return content, images, labels


@pytest.fixture
def cifar10_dir(tmp_path):
    names = [f"class {i}".encode() for i in range(10)]
    write_pickle(tmp_path / "batches.meta", {b"label_names": names, b"num_vis": 3072})
    return tmp_path


def test_cifar10(cifar10_dir):
    images, labels = [], []
    for i in range(1, 6):
        content, x, y = cifar_batch(7, 10, b"labels")
        write_pickle(cifar10_dir / f"data_batch_{i}", content)
        images.append(x)
        labels += y
    content, test_images, test_labels = cifar_batch(6, 10, b"labels")
    write_pickle(cifar10_dir / "test_batch", content)
    data = {"kind": "cifar", "data_dir": str(cifar10_dir)}
    source = sources.open_source(**data, split="train")
    assert_holds(source, np.concatenate(images), labels)
    assert source.class_names == tuple(f"class {i}" for i in range(10))
    assert_holds(sources.open_source(**data, split="test"), test_images, test_labels)
    assert len(sources.open_source(**data, split="train[:20%]")) == 7
    (cifar10_dir / "data_batch_3").unlink()
    with pytest.raises(sources.DataNotFound, match="data_batch_3 is missing"):
        sources.open_source(**data, split="train")


def test_cifar100(tmp_path):
    names = [f"class {i}".encode() for i in range(100)]
    write_pickle(
        tmp_path / "meta", {b"fine_label_names": names, b"coarse_label_names": []}
    )
    content, images, labels = cifar_batch(9, 100, b"fine_labels")
    write_pickle(tmp_path / "train", content | {b"coarse_labels": [0] * 9})
    source = sources.open_source(kind="cifar", data_dir=str(tmp_path), split="train")
    assert_holds(source, images, labels)
    assert source.num_classes == 100


def test_a_pickle_that_would_run_something_is_refused(cifar10_dir, tmp_path):
    evidence = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(evidence),))

    data = {"kind": "cifar", "data_dir": str(cifar10_dir), "split": "test"}
    batch = cifar10_dir / "test_batch"
    batch.write_bytes(pickle.dumps({"data": Evil()}, protocol=2))
    with batch.open("rb") as file:  # it does what it should be kept from
        pickle.load(file)
    assert evidence.exists()
    evidence.rmdir()
    text = assert_fails("no code in it is run", **data)
    assert str(batch) in text
    assert f"it names {os.mkdir.__module__}.mkdir" in text
    assert not evidence.exists()
    # Names within the admitted modules, too.
    for module, name in (("numpy", "load"), ("builtins", "eval"), ("os", "system")):
        batch.write_bytes(f"c{module}\n{name}\n.".encode())
        assert_fails(f"it names {module}.{name}", **data)


def test_cifar_errors(cifar10_dir):
    data = {"kind": "cifar", "data_dir": str(cifar10_dir), "split": "test"}
    batch = cifar10_dir / "test_batch"
    content, *_ = cifar_batch(5, 10, b"labels")
    write_pickle(batch, content | {b"labels": [0, 1, -1, 3, 10]})
    text = assert_fails("in 0 to 9, but 2 of 5 are not, the first of them -1", **data)
    assert str(batch) in text
    write_pickle(batch, content | {b"labels": [0, 1]})
    assert_fails("5 images, but", **data)
    write_pickle(batch, content | {b"data": content[b"data"][:, :-1]})
    assert_fails(f"{batch} is damaged: its data are not rows of 3,072", **data)
    write_pickle(batch, content | {b"data": content[b"data"].astype(np.float32)})
    assert_fails("rows of 3,072 bytes", **data)
    del content[b"labels"]
    write_pickle(batch, content)
    assert_fails(f"{batch} is not a CIFAR file: it lacks 'labels'", **data)
    batch.write_bytes(batch.read_bytes()[:5000])
    assert_fails(f"{batch} is not a CIFAR file, or damaged", **data)
    (cifar10_dir / "batches.meta").unlink()
    assert_fails("neither batches.meta (CIFAR-10) nor meta (CIFAR-100)", **data)


# ---------------------------------------------------------------------------- .npz


def arrays(count, shape=(6, 5, 3)):
    return RNG.integers(0, 256, (count, *shape), np.uint8), RNG.integers(0, 4, count)


def test_npz(tmp_path):
    images, labels = arrays(40)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=images, labels=labels)
    data = {"kind": "npz", "path": str(path)}
    source = sources.open_source(**data, split="all", num_classes=4)
    assert_holds(source, images, labels)
    assert source.class_names is None
    assert source.num_classes == 4
    assert len(sources.open_source(**data, split="all[:75%]")) == 30
    assert_fails("has no split 'train' (known: all", **data, split="train")


def test_npz_with_names_by_split(tmp_path):
    (x, y), (v, w) = arrays(20, (4, 4)), arrays(10, (4, 4))
    path = tmp_path / "set.npz"
    np.savez(path, x_train=x, y_train=y[:, None], x_test=v, y_test=w)
    data = {
        "kind": "npz",
        "path": str(path),
        "images": "x_{split}",
        "labels": "y_{split}",
    }
    source = sources.open_source(**data, split="train")
    assert_holds(source, x[..., None], y)
    assert_holds(sources.open_source(**data, split="test"), v[..., None], w)
    text = assert_fails("it lacks 'x_val' and has x_train", **data, split="val")
    assert str(path) in text
    np.savez(tmp_path / "only_test.npz", images=v, labels=w)
    source = sources.open_source(
        kind="npz", path=str(tmp_path / "only_{split}.npz"), split="test[:50%]"
    )
    assert len(source) == 5
    with pytest.raises(sources.DataNotFound, match=r"only_train\.npz is missing"):
        sources.open_source(
            kind="npz", path=str(tmp_path / "only_{split}.npz"), split="train"
        )


def test_npz_errors(tmp_path):
    images, labels = arrays(8)
    path = tmp_path / "set.npz"
    data = {"kind": "npz", "path": str(path), "split": "all"}

    def saved(**kwargs):
        np.savez(path, **{"images": images, "labels": labels} | kwargs)

    saved(labels=labels - 5)
    assert str(path) in assert_fails("must be 0 or more, but", **data)
    saved(images=images / 255)
    assert_fails(f"'images' of {path} must be uint8", **data)
    saved(labels=labels.astype(float))
    assert_fails(f"'labels' of {path} must be integers [n], but is float64 [8]", **data)
    saved(labels=labels[:-1])
    assert_fails(f"{path} has 8 images, but {path} has 7 labels", **data)
    saved(images=np.array([{}] * 8, object))
    assert_fails(f"{path} cannot be read: Object arrays cannot be loaded", **data)
    saved()
    path.write_bytes(path.read_bytes()[:300])
    assert_fails(f"{path} cannot be read", **data)
    saved(images=images[:0], labels=labels[:0])
    assert_fails(f"the split 'all' of {path} has no examples", **data)


def fashion_mnist():
    """The folder of the real files, unpacked by `make fashion-mnist` or installed."""
    share = "usr/share/datasets/fashion-mnist"
    for folder in (ROOT / "data" / share, Path("/") / share):
        if folder.is_dir():
            return folder
    pytest.skip("Fashion-MNIST is not there: make fashion-mnist")


def test_the_real_fashion_mnist():
    """70,000 pictures, as many of each class."""
    for split, size in {"train": 60_000, "test": 10_000}.items():
        data = {"kind": "idx", "data_dir": str(fashion_mnist()), "split": split}
        source = sources.open_source(**data)
        counts = np.bincount(source._labels.numpy())
        np.testing.assert_array_equal(counts, np.full(10, size // 10))
        first = source.read(tf.constant(0, tf.int64))["image"].numpy()
        assert first.shape == (28, 28, 1)
        assert first.dtype == np.uint8
        assert 0 < first.mean() < 255
