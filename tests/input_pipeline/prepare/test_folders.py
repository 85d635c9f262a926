"""A folder of images written once more: the same tree, order and labels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import sources
from input_pipeline.prepare import __main__ as prepare
from input_pipeline.prepare import folders, images
from input_pipeline.sources import folder_layouts
from tests.helpers.photographs import PHOTOGRAPHS, encode
from tests.input_pipeline.prepare.conftest import resized

SHORT = 100


def arguments(source, out, *more):
    flags = {"kind": "folder", "data_dir": source, "out": out, "short_side": SHORT}
    return [x for k, v in flags.items() for x in (f"--{k}", str(v))] + list(more)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def photos(tmp_path):
    """Two splits of three classes, nested folders, other files, a link, other names."""
    root = tmp_path / "photos"
    kinds = [
        ("1.jpg", "JPEG"),
        ("10.JPEG", "JPEG"),
        ("2.png", "PNG"),
        ("x.webp", "WEBP"),
    ]
    for split in ("train", "val"):
        for label, name in ((1, "10"), (2, "9"), (3, "5 or 6")):
            for i, (file, kind) in enumerate(kinds):
                photo = list(PHOTOGRAPHS.values())[(label + i) % 5]
                write(root / split / name / file, encode(photo, kind))
            small = encode(PHOTOGRAPHS["odd"][:90])
            write(root / split / name / "session 1" / "small.jpg", small)
    write(root / "train" / "9" / "clip.gif", encode(PHOTOGRAPHS["odd"], "GIF"))
    write(root / "train" / "9" / "notes.txt", b"notes")
    write(root / "train" / "9" / "._1.jpg", b"junk")
    write(root / "README", b"about")
    (root / "train" / "9" / "again").symlink_to(root / "val" / "10")
    (root / "train" / "9" / "up").symlink_to(root / "train" / "9")
    return root


def files(root):
    """name -> content of every file, without the link to a folder above it."""
    found = {}
    for path, inner, names in os.walk(root, followlinks=True):
        inner[:] = [x for x in inner if x != "up"]
        found |= {
            str(Path(path, name).relative_to(root)): Path(path, name).read_bytes()
            for name in names
        }
    return found


def test_tree_names_order_labels_and_pixels(photos, tmp_path, inline, capsys):
    before = files(photos)
    out = tmp_path / "out"
    assert prepare.main(arguments(photos, out)) == 0
    told = capsys.readouterr().out
    assert "2 not an image, 1 of another format" in told
    small = sum(name.endswith("small.jpg") for name in before)
    assert f"{small + 1} images were copied undecoded, so damage in them is not" in told
    after = files(out)
    assert after.keys() - before.keys() == {"prepared.json"}
    assert before.keys() - after.keys() == {"train/9/._1.jpg"}
    for name in after.keys() - {"prepared.json"}:
        if name.endswith(("small.jpg", ".txt", ".gif", "README")):
            assert after[name] == before[name]
            continue
        old, new = (Image.open(root / name) for root in (photos, out))
        assert old.format == new.format
        share = SHORT / min(old.size)
        assert new.size == tuple(round(side * share) for side in old.size)
        error = np.asarray(new) - resized(np.asarray(old), new.size)
        assert np.abs(error).mean() < 5
    for split in ("train", "val[:50%]", "train[3:]+val"):
        a, b = (
            sources.open_source(kind="folder", data_dir=str(x), split=split)
            for x in (photos, out)
        )
        assert len(a) == len(b)
        assert a.class_names == b.class_names
        np.testing.assert_array_equal(a.labels(), b.labels())
        paths = [
            [Path(x.path(i)).relative_to(root) for i in range(len(x))]
            for x, root in ((a, photos), (b, out))
        ]
        assert paths[0] == paths[1]
        assert a.prepared is None
        assert b.prepared["short_side"] == SHORT
        assert "images were resized to 100 before" in b.notices[-1]
        assert len(b.notices) == len(a.notices) + 1
    # The same command again finds it done.
    assert prepare.main(arguments(photos, out)) == 0
    assert "already prepared" in capsys.readouterr().out


def test_other_layouts_stay_as_they_are(tmp_path, inline):
    """Tiny ImageNet's lists, and ILSVRC's flat folders, of which one has no labels."""
    data, root = encode(PHOTOGRAPHS["odd"]), tmp_path / "tiny"
    write(root / "wnids.txt", b"n2\nn1\n")
    write(root / "train" / "n1" / "images" / "a.JPEG", data)
    write(root / "train" / "n2" / "images" / "b.JPEG", data)
    write(root / "val" / "images" / "val_0.JPEG", data)
    write(root / "val" / "val_annotations.txt", b"val_0.JPEG\tn2\t0\t0\t1\t1\n")
    flat, round_ = tmp_path / "flat", tmp_path / "round"
    write(round_ / "train" / "a" / "1.jpg", data)
    write(round_ / "train" / "b" / "2.jpg", data)
    (round_ / "train" / "b" / "up").symlink_to(round_)  # all images are of b, too
    for split in ("val", "test"):
        name = f"ILSVRC2012_{split}_00000003.JPEG"
        write(flat / split / name, data)
    for folder, split, count in (
        (root, "val", 1),
        (root, "train", 2),
        (flat, "val", 1),
        (round_, "train", 3),
    ):
        out = tmp_path / f"{folder.name}_{SHORT}"
        assert prepare.main(arguments(folder, out)) == 0
        labels = [
            sources.open_source(kind="folder", data_dir=str(x), split=split).labels()
            for x in (folder, out)
        ]
        np.testing.assert_array_equal(*labels)
        assert len(labels[0]) == count
    with Image.open(tmp_path / "flat_100" / "test" / name) as photo:
        assert photo.height == SHORT


def fails(capsys, argv):
    assert prepare.main([str(x) for x in argv]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_a_damaged_file_is_named_or_left_in_its_place(
    photos, tmp_path, inline, capsys, monkeypatch
):
    monkeypatch.setattr(folders, "_LENGTH", 3)
    damaged, out = photos / "val" / "10" / "10.JPEG", tmp_path / "out"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    line = fails(capsys, arguments(photos, out))
    assert "10.JPEG is damaged (" in line
    assert "--skip_damaged" in line
    assert not out.exists()
    done = []
    smaller = images.smaller
    monkeypatch.setattr(
        images, "smaller", lambda data, *rest: done.append(data) or smaller(data, *rest)
    )
    assert prepare.main(arguments(photos, out, "--skip_damaged")) == 0
    assert "2 damaged" in capsys.readouterr().out  # a link leads to it too
    assert (out / "val" / "10" / "10.JPEG").read_bytes() == damaged.read_bytes()
    # After the sample, what was done at the first start is not done again.
    samples = sum(folder_layouts.is_image(name) for name in folders._tree(photos)[1])
    assert 0 < len(done) - samples < samples


def test_damage_that_was_left_is_refused_without_the_flag(
    photos, tmp_path, inline, capsys, monkeypatch
):
    """Of unfinished work, and of finished work."""
    monkeypatch.setattr(folders, "_LENGTH", 3)
    damaged, out = photos / "val" / "10" / "10.JPEG", tmp_path / "out"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    with monkeypatch.context() as patch:
        patch.setattr(folders.Folder, "_verify", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.main(arguments(photos, out, "--skip_damaged"))
    assert "10.JPEG is damaged (" in fails(capsys, arguments(photos, out))
    assert not out.exists()
    assert prepare.main(arguments(photos, out, "--skip_damaged")) == 0
    line = fails(capsys, arguments(photos, out))
    assert f"{out} has 2 damaged images, which --skip_damaged left" in line
    assert prepare.main(arguments(photos, out, "--skip_damaged")) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_folders_that_are_refused(photos, tmp_path, inline, capsys, monkeypatch):
    there = tmp_path / "there"
    write(there / "mine.txt", b"precious")
    line = fails(capsys, arguments(photos, there))
    assert "written by another program: choose another --out" in line
    assert files(there) == {"mine.txt": b"precious"}
    for out in (photos, photos / "train" / "new", photos.parent):
        line = fails(capsys, arguments(photos, out))
        assert "must not be in one another" in line
    assert "there is no folder" in fails(capsys, arguments(tmp_path / "no", "out"))
    (tmp_path / "empty").mkdir()
    assert "has no images" in fails(capsys, arguments(tmp_path / "empty", "out"))
    line = fails(capsys, ["--kind", "folder", "--out", "out"])
    assert "--kind folder needs --data_dir" in line
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    line = fails(capsys, arguments(photos, tmp_path / "disk"))
    assert "is the root of a disk" in line
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "there", "empty"}


def test_a_source_that_changed_is_refused(
    photos, tmp_path, inline, capsys, monkeypatch
):
    """Two classes' pictures change places: all names, sizes and counts are as before."""
    first, second = (photos / "train" / name / "a.bmp" for name in ("10", "9"))
    for path, name in ((first, "odd"), (second, "odd")):
        write(path, encode(PHOTOGRAPHS[name], "BMP"))
    second.write_bytes(first.read_bytes()[:-300] + bytes(300))

    def swap():
        contents = [path.read_bytes() for path in (second, first)]
        for path, content in zip((first, second), contents, strict=True):
            path.write_bytes(content)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(folders.Folder, "_verify", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.main(arguments(photos, out))
    swap()
    line = fails(capsys, arguments(photos, out))
    assert (
        f"{out}.preparing was written from {photos} before files there changed" in line
    )
    # Of the finished data set, too.
    shutil.rmtree(f"{out}.preparing")
    assert prepare.main(arguments(photos, out)) == 0
    there = files(out)
    swap()
    line = fails(capsys, arguments(photos, out))
    assert f"{out} was written from {photos} before files there changed" in line
    assert files(out) == there


def test_a_file_is_on_the_disk_before_it_has_its_name(
    photos, tmp_path, inline, monkeypatch
):
    synced, named = set(), []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked(old, new):
        if Path(old).is_file():
            assert os.stat(old).st_ino in synced, old
            named.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", checked)
    assert prepare.main(arguments(photos, tmp_path / "out")) == 0
    assert {"1.jpg", "notes.txt", "000000000.json", "prepared.json"} <= {*named}


@pytest.mark.parametrize("killed", ["before", "after"])
def test_a_kill_at_the_rename_repeats_no_work(
    photos, tmp_path, inline, monkeypatch, capsys, killed
):
    out, written = tmp_path / "out", []
    replace, write = os.replace, folders.write

    def noted(*task):
        written.append(task)
        return write(*task)

    def kill(old, new):
        if Path(new) != out:
            return replace(old, new)
        if killed == "after":
            replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write", noted)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        assert prepare.main(arguments(photos, out)) == 130
    assert written
    written.clear()
    assert prepare.main(arguments(photos, out)) == 0
    assert not written
    assert ("nothing to do" in capsys.readouterr().out) == (killed == "after")
    names = {path.name for path in out.iterdir()}
    assert names == {"train", "val", "README", "prepared.json"}
    assert not out.with_name("out.preparing").exists()


def test_an_empty_folder_may_be_there(photos, tmp_path, inline):
    (tmp_path / "out").mkdir()
    assert prepare.main(arguments(photos, tmp_path / "out")) == 0
    assert (tmp_path / "out" / "prepared.json").exists()


def test_what_was_written_is_looked_at_again_and_alone_written_again(
    photos, tmp_path, inline, capsys, monkeypatch
):
    """A file that is lost, cut short, full of zeros or of another class."""
    update, write, written = folders.work.kept, folders.write, []
    monkeypatch.setattr(folders, "_LENGTH", 1)

    def noted(task, *rest):
        written.extend(task.names)
        return write(task, *rest)

    def harmed(harm):
        def kept(place, *rest):
            yield from update(place, *rest)
            harm(place.folder / "train")

        with monkeypatch.context() as patch:
            patch.setattr(folders.work, "kept", kept)
            return fails(capsys, arguments(photos, tmp_path / "out"))

    def again(name, harm):
        line = harmed(harm)
        assert f"{name} is not what was written: give the same command again" in line
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(folders, "write", noted)
            assert prepare.main(arguments(photos, tmp_path / "out")) == 0
        assert written == [name]
        shutil.rmtree(tmp_path / "out")

    def cut(train):
        path = train / "9" / "2.png"
        path.write_bytes(path.read_bytes()[:20])

    def halve(train):
        path = train / "9" / "1.jpg"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with Image.open(path) as photo:
            assert min(photo.size) == SHORT

    def empty(train):
        path = train / "9" / "1.jpg"
        path.write_bytes(bytes((photos / "train" / "9" / "1.jpg").stat().st_size))

    def note(train):
        (train / "9" / "notes.txt").write_bytes(b"nodes")

    again("train/9/2.png", lambda train: (train / "9" / "2.png").unlink())
    again("train/9/2.png", cut)
    again("train/9/1.jpg", halve)
    again("train/9/1.jpg", empty)
    again("train/9/notes.txt", note)
    line = harmed(lambda train: (train / "9" / "new.png").touch())
    assert "(train/9/new.png): remove" in line
    shutil.rmtree(tmp_path / "out.preparing")
    # Labels that differ, though the tree is the same.
    labels = folders.FolderSource.labels
    monkeypatch.setattr(
        folders.FolderSource, "labels", lambda x: labels(x) + ("preparing" in x.path(0))
    )
    assert "'train' has other labels" in harmed(lambda train: None)


def test_help_names_what_is_kept(capsys):
    with pytest.raises(SystemExit) as stop:
        prepare.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for words in ("--short_side", "to the byte", "after a kill", "data_dir"):
        assert words in out
    with pytest.raises(SystemExit) as stop:
        prepare.main(["--name", "x", "--out", "y", "--quality", "101"])
    assert stop.value.code == 2


def test_progress_and_sizes_are_for_people():
    from input_pipeline.prepare import work

    sizes = [7, 1234, 5_600_000, 78e9, 1.2e12]
    assert list(map(work.in_words, sizes)) == [
        "7 bytes", "1.2 KB", "5.6 MB", "78.0 GB", "1.2 TB",
    ]  # fmt: skip
    assert work.spread(10, 4) == [0, 2, 5, 7]
    assert work.spread(3, 9) == [0, 1, 2]
    assert work.spread(0, 9) == []


def test_the_resized_pictures_are_read_by_the_pipeline(photos, tmp_path, inline):
    assert prepare.main(arguments(photos, tmp_path / "out")) == 0
    source = sources.open_source(
        kind="folder", data_dir=str(tmp_path / "out"), split="train"
    )
    for i in range(len(source)):
        image = source.read(tf.constant(i, tf.int64))["image"]
        decoded = tf.io.decode_image(image, 3, expand_animations=False)
        assert min(decoded.shape[:2]) in (90, SHORT, 223)  # small, resized, GIF
