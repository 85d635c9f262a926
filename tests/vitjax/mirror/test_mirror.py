"""What is pushed into a bucket, what is fetched from it, and in which order."""

import errno
import json
import os
import shutil
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from input_pipeline import bucket
from vitjax.mirror import fetch, staging, steps
from vitjax.mirror.lock import Lock
from vitjax.mirror.push import Pusher
from vitjax.mirror.steps import Step

ONE, TWO, THREE = (Step("checkpoints", n) for n in (1, 2, 3))


@pytest.fixture
def folder(remote):
    return bucket.Bucket.open(remote.url)


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "workdir"
    path.mkdir()
    return path


def save(local, step, content="bits"):
    """Make a checkpoint appear as orbax does: by a rename."""
    partial = local / f"{step.place}/{step.number}.orbax-checkpoint-tmp"
    (partial / "state").mkdir(parents=True)
    (partial / "state" / "d").write_text(f"{content} of {step.number}")
    (partial / "meta").write_text("{}")
    partial.rename(local / step.folder)


def pusher(folder, local, there=(), old=()):
    lock = Lock(folder)
    lock.acquire(lambda text: None, force=True)
    links = local.parent / "links"
    shutil.rmtree(links, ignore_errors=True)
    return Pusher(folder, local, links, lock, there, old)


def names(folder):
    return {info.key for info in folder.list()} - {"lock"}


def files(step):
    return {f"{step.folder}/meta", f"{step.folder}/state/d"}


def test_what_is_pushed_is_fetched_again(folder, local, tmp_path):
    save(local, ONE)
    save(local, Step("best/checkpoints", 1))
    (local / "metrics.jsonl").write_text('{"step": 1}\n')
    (local / "tensorboard").mkdir()
    (local / "tensorboard" / "events").write_text("events")
    for unfinished in ("lock", "a.partial", "checkpoints/2.orbax-checkpoint-tmp-1"):
        (local / unfinished).write_text("not to be seen")
    pusher(folder, local).push()
    assert names(folder) == {
        *files(ONE), ONE.marker, "metrics.jsonl", "tensorboard/events",
        "best/checkpoints/1/meta", "best/checkpoints/1/state/d",
        "best/checkpoints/1.whole.json",
    }  # fmt: skip
    good, left = fetch.fetch(folder, tmp_path / "new")
    assert set(good) == {ONE, Step("best/checkpoints", 1)}
    assert left == []
    new = {
        str(x.relative_to(tmp_path / "new"))
        for x in (tmp_path / "new").rglob("*")
        if x.is_file()
    }
    assert new == names(folder) - {
        ONE.marker, "best/checkpoints/1.whole.json", "tensorboard/events"
    }  # fmt: skip
    for name in new:
        assert (tmp_path / "new" / name).read_bytes() == (local / name).read_bytes()


def test_the_marker_is_put_last_and_removed_first(folder, local, monkeypatch):
    done = []
    for act in ("put", "remove"):
        real = getattr(bucket.Bucket, act)

        def noted(self, what, *args, act=act, real=real):
            done.append((act, what))
            return real(self, what, *args)

        monkeypatch.setattr(bucket.Bucket, act, noted)
    save(local, ONE)
    (local / "metrics.jsonl").write_text('{"step": 1}\n')
    push = pusher(folder, local)
    push.push()
    puts = [what for act, what in done if act == "put"]
    assert puts[0] == "metrics.jsonl"  # the rows of a step before its marker
    assert puts[-1] == ONE.marker
    done.clear()
    save(local, TWO)
    shutil.rmtree(local / ONE.folder)
    push.push()
    assert next(what for act, what in done if act == "remove") == [ONE.marker]
    assert done.index(("put", TWO.marker)) < done.index(("remove", [ONE.marker]))
    assert names(folder) == {*files(TWO), TWO.marker, "metrics.jsonl"}


def test_a_step_that_the_run_removes_meanwhile_is_pushed_whole(folder, local):
    save(local, ONE)
    push = pusher(folder, local)
    push._look()
    shutil.rmtree(local / ONE.folder)
    push.push()
    assert names(folder) == {*files(ONE), ONE.marker}
    save(local, TWO)
    push.push()
    assert names(folder) == {*files(TWO), TWO.marker}


def test_a_step_that_is_being_removed_is_not_linked(local, tmp_path, monkeypatch):
    save(local, ONE)

    def removal(seconds):
        (local / ONE.folder / "meta").unlink()

    monkeypatch.setattr(steps.time, "sleep", removal)
    assert steps.link(local, ONE, tmp_path / "links") is None
    assert not (tmp_path / "links" / ONE.folder).exists()


def test_unchanged_files_are_not_put_again(folder, local, remote):
    (local / "config.json").write_text("{}")
    save(local, ONE)
    push = pusher(folder, local)
    push.push()
    remote.set(reset=True)
    push.push()
    assert remote.set()["requests"].get("PUT", 0) == 0
    with (local / "config.json").open("a") as file:
        file.write("\n")
    push.push()
    assert folder.read("config.json") == b"{}\n"


def test_old_checkpoints_go_when_this_run_has_put_its_own(folder, local, tmp_path):
    for step in (ONE, TWO):
        save(local, step)
    pusher(folder, local).push()
    resumed = tmp_path / "resumed"
    good, _ = fetch.fetch(folder, resumed)
    assert steps.whole(resumed) == [TWO]  # the newest only
    push = pusher(folder, resumed, good, good)
    push.push()
    assert steps.marked(names(folder)) == [ONE, TWO]
    save(resumed, THREE)
    push.push()
    assert steps.marked(names(folder)) == [TWO, THREE]
    assert not names(folder) & files(ONE)


def test_a_config_that_keeps_checkpoints_keeps_those_of_an_earlier_start(
    folder, local, tmp_path
):
    for step in (ONE, TWO):
        save(local, step)
    pusher(folder, local).push()
    resumed = tmp_path / "resumed"
    good, _ = fetch.fetch(folder, resumed)
    push = pusher(folder, resumed, good)
    save(resumed, THREE)
    push.push()
    assert steps.marked(names(folder)) == [ONE, TWO, THREE]


def missing(folder):
    folder.remove([f"{TWO.folder}/meta"])


def shorter(folder):
    folder.put(f"{TWO.folder}/state/d", b"bits")


def flipped(folder):
    folder.put(f"{TWO.folder}/state/d", b"bitz of 2")


def no_json(folder):
    folder.put(TWO.marker, b"{")


@pytest.mark.parametrize("harm", [missing, shorter, flipped, no_json])
def test_a_marker_that_does_not_hold_gives_the_checkpoint_before(
    folder, local, tmp_path, harm, caplog
):
    for step in (ONE, TWO):
        save(local, step)
    pusher(folder, local).push()
    harm(folder)
    good, left = fetch.fetch(folder, tmp_path / "new")
    assert good == [ONE]
    assert steps.whole(tmp_path / "new") == [ONE]
    assert left[0] == TWO.marker
    assert set(left) <= {TWO.marker, *files(TWO)}
    assert f"{folder.url}/{TWO.folder} is damaged" in caplog.text
    folder.remove([ONE.marker])
    with pytest.raises(fetch.Broken, match="is damaged"):
        fetch.fetch(folder, tmp_path / "newer")


def test_what_has_no_marker_is_not_fetched_and_is_left_over(folder, local, tmp_path):
    save(local, ONE)
    pusher(folder, local).push()
    folder.remove([ONE.marker])
    good, left = fetch.fetch(folder, tmp_path / "new")
    assert good == []
    assert set(left) == files(ONE)
    assert steps.whole(tmp_path / "new") == []


def test_a_bucket_that_fails_costs_a_warning(folder, local, remote, caplog):
    save(local, ONE)
    push = pusher(folder, local)
    remote.fail("403", -1, method="PUT")
    push._push_or_warn()
    assert "training goes on" in caplog.text
    assert "grant this account" in caplog.text
    push._push_or_warn()
    assert len(caplog.records) == 1
    remote.set(faults=[])
    push.push()
    assert ONE.marker in names(folder)


def test_a_lost_lock_uploads_no_marker(folder, local):
    save(local, ONE)
    push = pusher(folder, local)
    Lock(folder).acquire(lambda text: None, force=True)
    push._push_or_warn()
    assert ONE.marker not in names(folder)


def test_a_marker_has_sizes_and_checksums(folder, local):
    save(local, ONE)
    pusher(folder, local).push()
    found = json.loads(folder.read(ONE.marker))["files"]
    assert found == {
        f"{ONE.folder}/meta": [2, 0xA3A6BF43],
        f"{ONE.folder}/state/d": [9, 0xE42DD610],
    }


def test_a_step_that_could_not_be_linked_is_linked_when_there_is_room(
    folder, local, monkeypatch
):
    save(local, ONE)
    push = pusher(folder, local)
    with monkeypatch.context() as patch:
        link, left = os.link, [1]  # room for one file

        def full(source, to):
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            left.pop()
            link(source, to)

        patch.setattr(os, "link", full)
        push._look_or_wait()  # the thread that looks must not end
        with pytest.raises(OSError, match="No space left"):
            push.push()
    push.push()
    assert ONE.marker in names(folder)


def test_a_folder_that_is_removed_while_it_is_looked_at_is_empty(local, monkeypatch):
    """As a checkpoint's folder, between its listing and that of what is in it."""
    save(local, ONE)
    (local / "metrics.jsonl").write_text("")
    scandir = os.scandir

    def removed(path):
        if path == str(local / ONE.folder):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removed)
    assert steps.files(local) == ["metrics.jsonl"]


def test_a_lost_lock_uploads_no_file(folder, local):
    (local / "metrics.jsonl").write_text("old rows")
    push = pusher(folder, local)
    push.push()
    Lock(folder).acquire(lambda text: None, force=True)
    folder.put("metrics.jsonl", b"the new run's")
    (local / "metrics.jsonl").write_text("old rows, and one more")
    push._push_or_warn()
    assert folder.read("metrics.jsonl") == b"the new run's"


def test_objects_that_a_web_console_makes_for_folders_are_no_files(
    folder, local, remote, tmp_path
):
    save(local, ONE)
    pusher(folder, local).push()
    for name in ("", "checkpoints/", "tensorboard/"):
        address = f"{remote.address}/{quote(remote.url.split('//')[1])}/{name}"
        urlopen(Request(address, b"", method="PUT")).close()
    good, left = fetch.fetch(folder, tmp_path / "new")
    assert (good, left) == ([ONE], [])
    assert {x.name for x in (tmp_path / "new").iterdir()} == {"checkpoints"}
    assert steps.whole(tmp_path / "new") == [ONE]


def test_a_damaged_best_checkpoint_is_left_out_as_on_a_disk(
    folder, local, tmp_path, caplog
):
    best = Step("best/checkpoints", 1)
    for step in (ONE, best):
        save(local, step)
    pusher(folder, local).push()
    folder.put(f"{best.folder}/meta", b"[]")
    good, left = fetch.fetch(folder, tmp_path / "new")
    assert good == [ONE]
    assert left == [best.marker, *sorted(files(best))]
    assert "the search for the best checkpoint restarts" in caplog.text


def test_the_last_push_outlasts_the_patience_of_one(folder, local, remote):
    save(local, ONE)
    push = pusher(bucket.Bucket.open(remote.url, patience=0.1), local)
    remote.fail("503", 5, method="PUT")
    staging._push_all(push)
    assert ONE.marker in names(folder)
