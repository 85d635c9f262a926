"""A cache that would not fit is refused before it is filled."""

import pytest

from input_pipeline import pipeline, sources
from input_pipeline.stream import memory


def test_the_free_memory_is_what_the_system_says():
    with open("/proc/meminfo") as file:
        info = dict(line.split(":") for line in file)
    total = int(info["MemTotal"].split()[0]) * 1024
    assert 0 < memory.available() <= total


def test_a_cache_may_take_four_fifths():
    memory.check_cache(80, 100)
    memory.check_cache(320, 100, process_count=4)
    with pytest.raises(
        ValueError, match=r"more than 80% of the 10\.00 GB that are free"
    ):
        memory.check_cache(9 * 10**9, 10**10)


def test_cache_raw_is_refused_where_memory_is_short(monkeypatch, imagenet_dir):
    """The training shards have 300 examples; a part counts in proportion."""
    shards = imagenet_dir.glob("imagenet2012/5.1.0/*-train.tfrecord*")
    size = sum(path.stat().st_size for path in shards)
    data = {
        "name": "imagenet2012",
        "data_dir": str(imagenet_dir),
        "split": "train[:50%]",
    }
    assert abs(sources.open_source(**data).nbytes() - size / 2) < 0.05 * size

    def make(**kwargs):
        kwargs = {"shuffle_buffer_size": 10, "cache_raw": True} | kwargs
        pipeline.make_train(data=data, batch_size=4, seed=0, **kwargs)

    monkeypatch.setattr(memory, "available", lambda: size // 2)
    with pytest.raises(ValueError, match="set cache_raw=False") as caught:
        make()
    assert "\n" not in str(caught.value)
    make(cache_raw=False)
    make(shuffle_buffer_size=None)  # nothing is cached then
    make(process_count=2)  # half of it in each
    monkeypatch.setattr(memory, "available", lambda: size)
    make()
