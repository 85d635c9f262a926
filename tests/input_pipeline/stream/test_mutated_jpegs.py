"""JPEGs with damage of every kind: each is read, named or replaced."""

import itertools
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import pipeline, sources
from input_pipeline.ops import image
from input_pipeline.stream import order
from tests.helpers.photographs import PHOTOGRAPHS, encode

pytestmark = pytest.mark.slow

COUNT = 240
WHOLE = COUNT  # else eight in a row would stop the run
SEED = 3
PPS = {
    "decode": 'decode|resize(8)|keep("image", "label")',
    "fused": 'decode_jpeg_and_inception_crop(8)|keep("image", "label")',
}


def originals():
    small = {name: x[:48, :61] for name, x in PHOTOGRAPHS.items()}
    yield from (encode(x, quality=80) for x in small.values())
    yield from (encode(x, progressive=True) for x in small.values())
    yield from (encode(x, mode=mode) for x in small.values() for mode in ("L", "CMYK"))


def flip_bits(data, rng):
    for at in rng.integers(2, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)


def cut(data, rng):
    del data[rng.integers(len(data)) :]


def blank(data, rng):
    at, size = rng.integers(len(data)), rng.integers(1, 60)
    data[at : at + size] = bytes([rng.choice([0, 0xFF])]) * size


def repeat(data, rng):
    at, size, to = rng.integers(1, len(data), 3)
    data[to:to] = data[at : at + size]


def lie_in_the_headers(data, rng):
    """A byte before the scan: sizes, tables, lengths, factors."""
    at = rng.integers(2, data.index(b"\xff\xda") + 12)
    data[at] = rng.integers(256)


def lie_about_the_size(data, rng):
    """Sometimes up to 65,535 pixels a side: gigabytes that the file does not hold."""
    frame = re.search(rb"\xff[\xc0\xc2]", data).start()
    shift = rng.choice([0, 6, 7, 8])
    sides = rng.integers(0, 2**16, 2) >> shift
    data[frame + 5 : frame + 9] = sides.astype(">u2").tobytes()


MUTATIONS = (flip_bits, cut, blank, repeat, lie_in_the_headers, lie_about_the_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/ has the mutated files among whole ones, val/ the mutated ones alone."""
    root = tmp_path_factory.mktemp("mutated")
    rng, pictures = np.random.default_rng(0), list(originals())
    for split in ("train", "val"):
        (root / split / "a").mkdir(parents=True)
    for i in range(COUNT):
        data = bytearray(pictures[i % len(pictures)])
        MUTATIONS[i % len(MUTATIONS)](data, rng)
        path = root / "val" / "a" / f"{i:04}.jpg"
        path.write_bytes(data)
        os.link(path, root / "train" / "a" / path.name)
    whole = root / "whole.jpg"
    whole.write_bytes(pictures[0])
    for i in range(WHOLE):
        os.link(whole, root / "train" / "a" / f"{COUNT + i}.jpg")
    return root


def section(folder, split):
    return {"kind": "folder", "data_dir": str(folder), "split": split}


def reads(path):
    """True if TensorFlow alone reads all of it."""
    try:
        image.decode()(tf.constant(path.read_bytes()))
    except tf.errors.OpError:
        return False
    return True


@pytest.fixture(scope="module")
def damaged(folder):
    """The files that cannot be read; many of the others only look odd."""
    found = [p for p in sorted((folder / "val" / "a").iterdir()) if not reads(p)]
    assert COUNT / 5 < len(found) < COUNT * 4 / 5
    return found


@pytest.mark.parametrize("pp", PPS)
def test_they_are_skipped_and_counted(folder, damaged, pp):
    stream, size = pipeline.make_train(
        data=section(folder, "train"), batch_size=40, seed=SEED, pp=PPS[pp],
        skip_errors=True,
    )  # fmt: skip
    assert size == COUNT + WHOLE
    steps = size // 40
    batches = list(itertools.islice(stream, steps))
    assert len(batches) == steps
    assert {b["image"].shape for b in batches} == {(40, 8, 8, 3)}
    skipped = stream.skipped(0, steps)
    if pp == "decode":
        assert skipped == len(damaged)
    else:  # a crop does not need the whole picture
        assert 0 < skipped <= len(damaged)


def test_each_is_named(folder, damaged):
    source = sources.open_source(**section(folder, "val"))
    index_of = {source.describe(i).split("(")[1][:-1]: i for i in range(COUNT)}
    _, index = order.example_at(range(COUNT), seed=SEED, size=COUNT)
    position_of = {int(i): position for position, i in enumerate(index)}
    for path in damaged[::40]:
        i = index_of[str(path)]
        stream, _ = pipeline.make_train(
            data=section(folder, "val"), batch_size=1, seed=SEED, pp=PPS["decode"],
            start_step=position_of[i],
        )  # fmt: skip
        with pytest.raises(ValueError, match="cannot be read") as caught:
            next(iter(stream))
        assert str(caught.value).startswith(f"example {i} of {folder} val ({path})")
