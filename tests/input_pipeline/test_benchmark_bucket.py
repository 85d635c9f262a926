"""The benchmark of a bucket measures what it prints, on a data set in one."""

from pathlib import Path

import pytest

from input_pipeline import benchmark_bucket, bucket, sources

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark_bucket, "_BATCH_SIZE", 16)
    monkeypatch.setattr(benchmark_bucket, "_PAUSE", 0)


@pytest.mark.parametrize("remote", ["gs"], indirect=True)
def test_every_figure_is_printed(imagenet_dir, remote, small, capsys):
    there = bucket.Bucket.open(remote.url)
    for path in sorted(Path(imagenet_dir).rglob("*")):
        if path.is_file() and ".record_index" not in path.parts:
            there.put(str(path.relative_to(imagenet_dir)), path.read_bytes())
    source = sources.open_source(
        name="imagenet2012", split="train", data_dir=remote.url
    )
    remote.set(reset=True)
    benchmark_bucket.index_rate(source)
    assert remote.set(reset=True)["requests"] == {"GET": 4}  # the shards, once more
    options = "--in_flight 4 8 --batches 2 --rounds 1 --data_dir"
    assert benchmark_bucket.main([*options.split(), remote.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("300 records of ")
    assert lines[1].startswith("index of 4 shards: ")
    assert [line.split()[0] for line in lines[-2:]] == ["4", "8"]
    assert all(float(line.split()[2]) > 0 for line in lines[-2:])


def test_a_local_folder_is_refused(imagenet_dir, capsys):
    assert benchmark_bucket.main(["--data_dir", str(imagenet_dir)]) == 1
    assert "expected --data_dir in a bucket" in capsys.readouterr().err
