"""Runs with workdir and data in a bucket: they lose their host, their bucket, their lock."""

import contextlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from input_pipeline import bucket
from tests.helpers.runs import QUICKSTART, error_of, params_of, run, start, values
from vitjax import train
from vitjax.config import files as config_files
from vitjax.devices.stopping import STATUS
from vitjax.mirror import steps
from vitjax.mirror.lock import Lock
from vitjax.records.jsonl import read_rows

on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)
EVERY = ["--config.ckpt_steps=3", "--config.mirror_seconds=0.2"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the staging folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitjax" / "workdirs"


@pytest.fixture
def begin(remote):
    """Start a run in the bucket as a process of its own, which ends with the test."""
    begun = []

    def begin(*flags):
        begun.append(start(remote.url, 8, *EVERY, *flags))
        return begun[-1]

    yield begin
    for process in begun:
        with process:
            process.kill()


def wait_for(remote, process, number):
    """Return when a marker of step `number` or later is in the bucket."""
    folder = bucket.Bucket.open(remote.url)
    while not any(
        step.number >= number for step in steps.marked(i.key for i in folder.list())
    ):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def fetched(remote, to):
    """A local copy of the whole folder."""
    folder = bucket.Bucket.open(remote.url)
    for info in folder.list():
        path = to / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(folder.read(info.key))
    return to


def keys(remote):
    return {info.key for info in bucket.Bucket.open(remote.url).list()}


def test_a_run_that_loses_its_host_and_disk_twice_ends_as_if_nothing_was(
    remote, begin, tmp_path, cache
):
    assert run(tmp_path / "local", *EVERY) == 0
    for number in (3, 6):
        process = begin("--force")
        wait_for(remote, process, number)
        process.kill()
        process.communicate()
        shutil.rmtree(cache)
    assert run(remote.url, *EVERY, "--force") == 0
    # Nothing is left on this machine, nor of the dead runs in the bucket.
    assert not list(cache.rglob("metrics.jsonl"))
    there = fetched(remote, tmp_path / "there")
    assert not (there / "lock").exists()
    assert [step.number for step in steps.whole(there)] == [9, 12]
    assert values(read_rows(there)) == values(read_rows(tmp_path / "local"))
    ours, theirs = (params_of(tmp_path / x, 12) for x in ("there", "local"))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)


@on_s3
def test_a_signal_ends_a_run_with_all_of_it_in_the_bucket(
    remote, begin, tmp_path, cache
):
    process = begin("--config.total_steps=4000")
    wait_for(remote, process, 3)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == STATUS, text
    there = fetched(remote, tmp_path / "there")
    newest = max(step.number for step in steps.whole(there))
    assert f"stopped after step {newest}, with a checkpoint" in text
    assert steps.Step("checkpoints", newest).marker in keys(remote)
    assert "lock" not in keys(remote)
    assert not list(cache.iterdir())


@on_s3
def test_a_bucket_that_is_lost_costs_warnings_and_says_where_the_files_are(
    remote, begin, tmp_path, cache
):
    """Of 12 steps, the bucket refuses all that is put after the first push."""
    process = begin()
    wait_for(remote, process, 1)
    remote.fail("403", -1, method="PUT")
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 1, text
    line = next(x for x in text.splitlines() if x.startswith("error: "))
    assert "grant this account" in line
    [local] = cache.glob("*/workdir")
    assert str(local) in line
    assert max(step.number for step in steps.whole(local)) == 12


@on_s3
def test_another_run_is_refused_and_a_run_whose_lock_is_taken_ends(
    remote, begin, capsys, cache
):
    process = begin("--config.total_steps=40000")
    wait_for(remote, process, 3)
    # On the same machine: at once, and before anything is fetched.
    line = error_of(capsys, remote.url)
    assert f"another run, process {process.pid} of" in line
    # On another machine, by force: the first ends at its next beat.
    lock = Lock(bucket.Bucket.open(remote.url))
    lock.acquire(print, force=True)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 1, text
    assert "nothing more is uploaded" in text
    lock.beat()


@on_s3
def test_data_that_cannot_be_read_any_more_ends_a_run_in_good_order(
    remote, tmp_path, capsys, monkeypatch
):
    """As after a token has expired: a checkpoint of the last step, status 75."""
    rng = np.random.default_rng(0)
    there = bucket.Bucket.open(f"{remote.url}/photos")
    from PIL import Image

    for number in range(64):
        file = tmp_path / "a.png"
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(file)
        there.put(f"train/{number % 10}/{number}.png", file.read_bytes())
    data = {"kind": "folder", "data_dir": there.url, "split": "train"}
    flags = [
        f"--config.input.data={data}", "--config.input.reads_in_flight=16",
        "--config.evals=None", "--config.ckpt_steps=None", "--config.total_steps=4000",
        "--config.input.pp=decode(channels=1)|resize(8)|keep('image', 'label')",
    ]  # fmt: skip
    remote.fail("401", -1, after=500, key=".png")
    status = run(tmp_path / "run", *flags)
    said = capsys.readouterr().err
    assert status == STATUS, said
    assert "the credentials are missing or not accepted" in said
    [step] = steps.whole(tmp_path / "run")
    assert f"stopped after step {step.number}, with a checkpoint" in said


@pytest.mark.parametrize("kind", ["401", "403"])
def test_a_bucket_that_may_not_be_used_is_told_before_anything_is_made(
    remote, capsys, cache, kind
):
    remote.fail(kind, -1)
    line = error_of(capsys, remote.url)
    assert remote.url in line
    assert not list(cache.glob("*/*"))
    remote.set(faults=[])
    assert keys(remote) == set()


@on_s3
def test_a_bucket_that_may_not_be_written_is_told_before_anything_is_made(
    remote, capsys, cache
):
    remote.fail("403", -1, method="PUT")
    line = error_of(capsys, remote.url)
    assert "cannot write" in line
    assert "grant this account" in line
    assert not list(cache.glob("*/*"))


@on_s3
def test_another_config_is_refused_and_leaves_the_bucket_as_it_was(
    remote, capsys, cache
):
    assert run(remote.url, *EVERY) == 0
    before = keys(remote)
    capsys.readouterr()
    line = error_of(capsys, remote.url, "--config.lr=0.5")
    assert "was written by a different config" in line
    assert keys(remote) == before
    assert not list(cache.iterdir())


@on_s3
@pytest.mark.parametrize("flag", ["mirror_seconds=0", "mirror_second=3", "lr='a'"])
def test_a_wrong_config_is_told_before_the_bucket_is_asked(remote, capsys, flag):
    line = error_of(capsys, remote.url, f"--config.{flag}")
    assert flag.partition("=")[0] in line
    assert remote.set()["requests"] == {}


@pytest.mark.parametrize(
    ("flags", "keeps"),
    [
        ([], False),
        (["--config.max_to_keep=None"], True),
        (["--config.keep_ckpt_epochs=1"], True),
    ],
)
def test_a_config_that_keeps_checkpoints_keeps_those_in_the_bucket(
    monkeypatch, flags, keeps
):
    asked = {}

    def staged(url, **settings):
        asked.update(settings)
        return contextlib.nullcontext("a folder")

    monkeypatch.setattr(train.staging, "staged", staged)
    flags, overrides = train.parse_flags(["--config", QUICKSTART, *flags])
    config, _ = config_files.from_big_vision(config_files.load(flags.config, overrides))
    with train.mirrored("gs://bucket/run", config):
        assert asked["keeps_old"] == keeps
