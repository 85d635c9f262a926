"""Paths with a scheme are refused, in one sentence; local names with ":" are not."""

import argparse
import os
from pathlib import Path

import pytest

from input_pipeline import places, sources

REFUSED = [
    "gs://", "gs://bucket", "gs://bucket/x", "gs:/bucket/x", "s3://bucket/x", "s3:/b/x",
    "az://c/x", "http://host/x", "https:/host/x", "GS://bucket/x", "file:///x",
    Path("gs://bucket/x"),
]  # fmt: skip
LOCAL = [
    "", "runs/a", "/runs/a", "a:b", "12:30/run", "run:1/x", "./gs:/b/x", "gs", "gs:x",
    "gs/b", "runs/gs://x", "model.pth:state_dict_ema", "configs/x.py:ckpt=gs://b/x",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED, ids=str)
def test_a_path_with_a_scheme_is_refused(path):
    with pytest.raises(places.NotServed) as refused:
        places.check(path, "--out")
    message = str(refused.value)
    assert message.startswith(
        f"--out must be a path of this machine, got {str(path)!r}"
    )
    assert "\n" not in message
    assert ("'./" in message) == ("://" not in str(path))


@pytest.mark.parametrize("path", LOCAL)
def test_local_names_with_a_colon_are_paths(path):
    assert places.local(path) == Path(path)
    assert places.local_text(path) == path


def test_a_scheme_is_let_through_where_it_is_served():
    places.check("gs://bucket/x", "data_dir", served=("gs",))
    for path in ("s3://bucket/x", "gs:/bucket/x"):
        with pytest.raises(places.NotServed):
            places.check(path, "data_dir", served=("gs",))


def test_argparse_prints_the_sentence(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=places.local)
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "gs://b/x"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "argument --out: expected a path of this machine, got 'gs://b/x'" in last


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "cifar", "data_dir": "X", "split": "train"},
        {"kind": "npz", "path": "X", "split": "train"},
        {"kind": "huggingface", "data_dir": "X", "split": "train"},
    ],
    ids=lambda data: data["kind"],
)
def test_data_with_a_scheme_is_refused(data):
    data = {k: "s3://bucket/x" if v == "X" else v for k, v in data.items()}
    with pytest.raises(ValueError, match="of a data section must be a path of this"):
        sources.open_source(**data)


@pytest.mark.parametrize(
    "path", ["gs:/b/x", "az://b/x", "http://h/x", "gs://", "gs://b", "s3://b/"]
)
@pytest.mark.parametrize("kind", ["tfds", "folder"])
def test_data_in_what_is_no_bucket_is_refused(path, kind):
    """Of the kinds that a bucket may hold; no request is made."""
    data = {"kind": kind, "data_dir": path, "split": "train"}
    data |= {"name": "imagenet2012"} if kind == "tfds" else {}
    with pytest.raises(ValueError, match=r"gs://BUCKET/(PATH|FOLDER)"):
        sources.open_source(**data)


def test_tfds_default_folder_with_another_scheme_is_refused(monkeypatch):
    monkeypatch.setitem(os.environ, "TFDS_DATA_DIR", "az://bucket/x")
    with pytest.raises(
        ValueError, match="TFDS_DATA_DIR must be a path of this machine"
    ):
        sources.open_source(name="imagenet2012", split="train")


def test_a_source_of_ones_own_may_have_any_data_dir(own):
    own(
        "mine.py",
        "class Read:\n  def __init__(self, *, data_dir): raise ValueError(data_dir)\n",
    )
    with pytest.raises(ValueError, match=r"^gs://bucket/x|: gs://bucket/x"):
        sources.open_source(kind="mine.Read", data_dir="gs://bucket/x")
