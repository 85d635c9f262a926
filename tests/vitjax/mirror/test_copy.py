"""What is copied of a bucket for a tool that reads it, and what is fetched again."""

import shutil
from pathlib import Path

import pytest

from input_pipeline import bucket
from vitjax.mirror import copy, fetch
from vitjax.mirror.steps import Step

ONE, TWO = (Step("checkpoints", n) for n in (1, 2))
on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path):
    """A workdir with two checkpoints and a best one, whose files are all small."""
    workdir = tmp_path / "run"
    for step in (ONE, TWO, Step("best/checkpoints", 1)):
        (workdir / step.folder / "state").mkdir(parents=True)
        (workdir / step.folder / "state" / "d").write_text(f"bits of {step.folder}")
        (workdir / step.folder / "meta").write_text("{}")
    (workdir / "metrics.jsonl").write_text('{"step": 2}\n')
    (workdir / "config.json").write_text("{}")
    (workdir / "curves.png").write_text("no tool reads it")
    return workdir


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_copy_has_the_rows_and_the_newest_checkpoint(remote, run):
    url = remote.hold(run)
    before = remote.set(reset=True)["keys"]
    found = copy.checkpoint(url)
    assert found.name == "2"
    there = remote.set()
    assert there["keys"] == before
    assert set(there["requests"]) == {"GET"}
    workdir = found.parents[1]
    assert workdir.name == "run"
    for one in ("checkpoints/1", "best", "curves.png"):
        shutil.rmtree(run / one, ignore_errors=True)
    (run / "curves.png").unlink()
    assert contents(workdir) == contents(run)


@pytest.mark.parametrize(
    ("inner", "of"),
    [
        ("/checkpoints/1", "checkpoints/1"),
        ("/best", "best/checkpoints/1"),
        ("/best/checkpoints/1/", "best/checkpoints/1"),
    ],
)
@on_s3
def test_one_step_and_the_best_one_have_their_own_names(remote, run, inner, of):
    found = copy.checkpoint(remote.hold(run) + inner)
    assert contents(found) == contents(run / of)
    assert len(list(found.parent.iterdir())) == 1


def test_what_is_there_is_not_asked_for_again(remote, run):
    url = remote.hold(run)
    first = contents(copy.checkpoint(url))
    for name in ("checkpoints/2/", "metrics.jsonl", "config.json"):
        remote.fail("403", -1, key=name)
        assert contents(copy.checkpoint(url)) == first
    assert remote.set()["failed"] == 0


@on_s3
@pytest.mark.parametrize("harm", ["replaced", "here"])
def test_what_has_changed_is_fetched_again(remote, run, harm):
    url = remote.hold(run)
    found = copy.checkpoint(url)
    if harm == "here":
        (found / "state" / "d").unlink()
    else:
        (run / TWO.folder / "state" / "d").write_text("BITS of checkpoints/2")
        (run / "metrics.jsonl").write_text('{"step": 3}\n')
        remote.hold(run)
    assert copy.checkpoint(url) == found
    assert contents(found) == contents(run / TWO.folder)
    rows = copy.rows(url) / "metrics.jsonl"
    assert rows.read_bytes() == (run / "metrics.jsonl").read_bytes()


@on_s3
def test_what_is_gone_from_the_bucket_goes_from_the_copy(remote, run):
    url = remote.hold(run)
    old, folder = copy.checkpoint(f"{url}/checkpoints/1"), bucket.Bucket.open(url)
    folder.remove([ONE.marker, "metrics.jsonl"])
    new = copy.checkpoint(url)
    assert not old.exists()
    assert not (new.parents[1] / "metrics.jsonl").exists()


@on_s3
def test_nothing_without_a_marker_is_used(remote, run):
    url = remote.hold(run)
    folder = bucket.Bucket.open(url)
    folder.remove([TWO.marker])
    assert copy.checkpoint(url).name == "1"
    with pytest.raises(ValueError, match=r"2 is no whole checkpoint.*ones.*: 1$"):
        copy.checkpoint(f"{url}/checkpoints/2")
    folder.remove([ONE.marker])
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*run/checkpoints: "):
        copy.checkpoint(url)


@on_s3
def test_a_damaged_checkpoint_is_not_used(remote, run, caplog):
    url = remote.hold(run)
    folder = bucket.Bucket.open(url)
    folder.put(f"{TWO.folder}/state/d", b"bitz of checkpoints/2")
    with pytest.raises(fetch.Broken, match=r"the bits of .* have changed"):
        copy.checkpoint(f"{url}/checkpoints/2")
    assert copy.checkpoint(url).name == "1"
    assert "is damaged" in caplog.text
    folder.remove([f"{ONE.folder}/meta"])
    shutil.rmtree(copy.rows(url))
    with pytest.raises(fetch.Broken, match="checkpoints/2 is damaged"):
        copy.checkpoint(url)


@on_s3
def test_a_run_that_goes_on_meanwhile_gives_its_newest(remote, run, monkeypatch):
    """It removes the checkpoint that was the newest when this one looked."""
    url, real = remote.hold(run), fetch.fetch_step
    folder = bucket.Bucket.open(url)

    def moved_on(*args):
        monkeypatch.setattr(fetch, "fetch_step", real)
        for step in (ONE, TWO):
            folder.remove([step.marker, f"{step.folder}/meta"])
        (run / "checkpoints/2").rename(run / "checkpoints/3")
        shutil.rmtree(run / "checkpoints/1")
        remote.hold(run)
        return real(*args)

    monkeypatch.setattr(fetch, "fetch_step", moved_on)
    assert copy.checkpoint(url).name == "3"


@on_s3
def test_every_checkpoint_of_a_range(remote, run):
    url = remote.hold(run)
    found = copy.every(url, 1, 1)
    assert [p.name for p in (found / "checkpoints").iterdir()] == ["1"]
    found = copy.every(url, None, None)
    assert contents(found / "checkpoints") == contents(run / "checkpoints")


def test_a_file_is_copied_with_those_beside_it(remote):
    url = f"{remote.scheme}://{remote.name}"  # in no folder
    top, _ = bucket.Bucket.of_file(f"{url}/vit.npz")
    for name in ("vit.npz", "config.json"):
        top.put(name, name.encode())
    beside = ("config.json", "preprocessor_config.json")
    found = copy.file(f"{url}/vit.npz", beside)
    assert found.read_text() == "vit.npz"
    assert found.with_name("config.json").read_text() == "config.json"
    remote.set(reset=True)
    assert copy.file(f"{url}/vit.npz", beside) == found
    assert remote.set()["bytes_out"] < 2000
    top.put("vit.npz", b"new.npz")
    top.remove(["config.json"])
    copy.file(f"{url}/vit.npz", beside)
    assert found.read_text() == "new.npz"
    assert not found.with_name("config.json").exists()
    with pytest.raises(ValueError, match=r"there is no file '.*/other.npz'"):
        copy.file(f"{url}/other.npz")


@on_s3
def test_without_a_home_and_without_credentials_it_is_one_sentence(
    remote, run, monkeypatch
):
    url = remote.hold(run)
    remote.fail("401", -1)
    with pytest.raises(bucket.NotAllowed, match="the credentials are missing"):
        copy.checkpoint(url)
    remote.set(faults=[])
    monkeypatch.setattr(copy.home, "cache", lambda: None)
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME to a folder"):
        copy.checkpoint(url)


@pytest.mark.parametrize("take", [copy.checkpoint, copy.rows, copy.file])
def test_a_path_of_this_machine_is_its_own(take, tmp_path):
    assert take(str(tmp_path / "run")) == Path(tmp_path / "run")
