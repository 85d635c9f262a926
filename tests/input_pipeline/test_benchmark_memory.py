"""The memory benchmark runs a stream of each size that it prints."""

import pytest
import tensorflow as tf

from input_pipeline import benchmark, benchmark_memory, sources
from input_pipeline.stream import order

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpegs")
    benchmark.write_jpegs(folder, 8)
    return folder


def test_a_repeated_source_is_as_long_as_it_says(folder):
    few = sources.open_source(kind="folder", data_dir=str(folder), split="train")
    many = benchmark_memory._repeated(few, 1000)
    assert len(many) == 1000
    for index in (0, 7, 8, 999):
        one, other = (tf.constant(i, tf.int64) for i in (index, index % 8))
        assert many.read(one)["image"] == few.read(other)["image"]
    ids = [int(x["_id"]) for x in many.sequential(0, 20)]
    assert ids == [i % 8 for i in range(20)]


@pytest.mark.parametrize("buffer", [None, 16])
def test_the_cost_of_a_stream(folder, buffer, monkeypatch):
    steps = []

    def example_at(positions, *, seed, size, original=order.example_at):
        steps.append(size)
        return original(positions, seed=seed, size=size)

    monkeypatch.setattr(order, "example_at", example_at)
    found = benchmark_memory.cost(folder, 1000, buffer, 1)
    assert found.megabytes > 100
    assert min(found.at_0, found.at_far) > 0
    assert set(steps) == ({1000} if buffer is None else set())


def test_every_case_is_a_row(folder, monkeypatch, capsys):
    asked = []

    def cost(place, size, buffer, batches):
        asked.append((size, buffer))
        return benchmark_memory.Cost(100.0 + len(asked), 0.25, 0.5)

    monkeypatch.setattr(benchmark_memory, "_in_another_process", cost)
    monkeypatch.setattr(benchmark_memory, "_JPEGS", 2)
    assert benchmark_memory.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(asked)
    assert (1_281_167, None) in asked
    assert (1_281_167, 4096) in asked
    assert lines[1].split()[-3:] == ["101", "0.25", "0.50"]
