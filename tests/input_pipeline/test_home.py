"""The home folder on command lines, and no home at all."""

import os
import pwd
from pathlib import Path

import pytest

from input_pipeline import home
from input_pipeline.sources import record_index

ROOT = Path(__file__).parents[2]


@pytest.fixture
def at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


@pytest.fixture
def homeless(monkeypatch):
    """A container may run under a user number without an entry in passwd."""

    def unknown(what):
        raise KeyError(what)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--ckpt=~/run", "--ckpt={home}/run"),
        ("--config.input.data.data_dir=~/x", "--config.input.data.data_dir={home}/x"),
        ("--out=~", "--out={home}"),
        ("~/a b", "{home}/a b"),
        (
            "configs/transfer.py:ckpt=~/vit.npz,data_dir=~/pets,classes=37",
            "configs/transfer.py:ckpt={home}/vit.npz,data_dir={home}/pets,classes=37",
        ),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("--out=a~/x", "--out=a~/x"),
        ("old~", "old~"),
        ("--config.x=~7", "--config.x=~7"),
        ("runs/~/x", "runs/~/x"),
    ],
)
def test_a_tilde_is_the_home_folder(at_home, word, expected):
    assert home.expanded([word]) == [expected.format(home=at_home)]


def test_the_home_of_another_user(at_home):
    entry = pwd.getpwuid(os.getuid())
    word = f"--ckpt=~{entry.pw_name}/run"
    assert home.expanded([word]) == [f"--ckpt={entry.pw_dir.rstrip('/')}/run"]


def test_every_command_line_is_expanded():
    takers = 0
    for package in ("vitjax", "input_pipeline", "parity"):
        for path in (ROOT / package).rglob("*.py"):
            # benchmark_memory has no flags.
            text = path.read_text()
            if "parser.parse_args(" in text and path.name != "benchmark_memory.py":
                takers += 1
                assert "home.expanded(" in text, path
    assert takers >= 6


def test_without_a_home_nothing_is_expanded_or_cached(homeless):
    assert home.expanded(["--ckpt=~/run"]) == ["--ckpt=~/run"]
    assert home.cache() is None


def test_caches_go_where_the_user_says_or_home(at_home, monkeypatch):
    assert home.cache() == at_home / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert home.cache() == Path("/elsewhere")


def test_an_index_without_a_home(homeless, tmp_path, caplog):
    """It is written next to the shards; if that fails, it is not kept."""
    shard = tmp_path / "a.tfrecord"
    shard.write_bytes(b"")
    assert record_index.shard_offsets(str(shard)).tolist() == []
    assert not caplog.records
    for path in (tmp_path / ".record_index").iterdir():
        path.unlink()
    (tmp_path / ".record_index").rmdir()
    (tmp_path / ".record_index").write_text("")
    before = sorted(os.listdir())
    assert record_index.shard_offsets(str(shard)).tolist() == []
    [record] = caplog.records
    assert "cannot be written to any of" in record.getMessage()
    assert "set XDG_CACHE_HOME to a folder for it" in record.getMessage()
    assert sorted(os.listdir()) == before  # no folder that is called "~"
