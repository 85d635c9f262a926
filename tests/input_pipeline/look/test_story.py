"""The story of an example against the training stream, step by step."""

import itertools

import numpy as np
import PIL.Image
import pytest

from input_pipeline import pipeline
from input_pipeline.look import story as steps
from input_pipeline.randaug import torchvision_policies as policies
from tests.helpers.photographs import PHOTOGRAPHS, encode, pil
from tests.helpers.randaug import expected

SIZE, BATCH = 9, 4  # so that batches 2 and 6 begin and end with an epoch's border
# (epoch, step, row): the last example of epoch 0, the first of epoch 3.
BORDERS = ((0, 2, 0), (3, 6, 3))
FINISH = "value_range(-1, 1)"
KEEP = "keep('image', 'label', '_id')|"
PP = {
    "randaug": KEEP + "decode(precise=True)|random_crop((60, 90))|flip_lr|"
    "randaug(2, 10, contrast='fixed')",
    "per_batch": "decode_jpeg_and_inception_crop(48)|copy('image', 'rows')|"
    "choice(n=7, key='rows')|trivial_augment_wide(per_batch=True)|drop('file_name')",
    "autoaugment": KEEP + "decode|resize(40)|autoaugment_cifar10|pad_crop(40, 4)|"
    "flip_lr|value_range(-1, 1)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for i, image in zip(range(SIZE), itertools.cycle(PHOTOGRAPHS.values())):
        path = root / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image[i::2, ::2]))
    return {"kind": "folder", "data_dir": str(root), "split": "train"}


def open_stream(data, pp, **kwargs):
    arguments = {"data": data, "batch_size": BATCH, "seed": 5, "prefetch": 0, "pp": pp}
    return pipeline.make_train(**arguments | kwargs)[0]


@pytest.fixture(scope="module")
def stories(folder):
    """By the name of the spec: [(story, epoch, index, batch, step, row)]."""
    found = {}
    for name, pp in PP.items():
        stream = open_stream(folder, pp)
        batches = list(itertools.islice(stream, 7))
        found[name] = []
        for epoch, step, row in BORDERS if name == "randaug" else BORDERS[1:]:
            index = int(batches[step]["_id"][row])
            story = steps.tell(stream, pp, epoch, index)
            found[name].append((story, epoch, index, batches[step], step, row))
    return found


@pytest.mark.parametrize("name", PP)
def test_the_end_is_the_row_of_the_stream_that_is_named(stories, name):
    for story, epoch, index, batch, step, row in stories[name]:
        assert step * BATCH + row in (epoch * SIZE + SIZE - 1, epoch * SIZE)
        assert story.place.startswith(f"row {row} of the batch of step {step},")
        last = story.parts[-1].features
        assert last.keys() == batch.keys()
        assert last["_id"] == index
        for feature, value in batch.items():
            assert np.asarray(last[feature]).dtype == value.dtype
            np.testing.assert_array_equal(last[feature], value[row], err_msg=feature)


def images(story):
    """(op, lines, image before, image after) of each step."""
    before = story.raw["image"]
    for op, lines, features in story.parts:
        yield op, lines, before, features["image"]
        before = features["image"]


def is_window(part, whole):
    """True if `part` is a window of `whole`."""
    h, w = part.shape[:2]
    rooms = [n - m + 1 for n, m in zip(whole.shape, (h, w), strict=False)]
    return any(
        np.array_equal(whole[y : y + h, x : x + w], part)
        for y, x in itertools.product(*map(range, rooms))
    )


def cutouts(image, half, y, x):
    """Cutout at each pixel that is y % of the height and x % of the width."""
    places = [
        [p for p in range(n) if n * share // 100 <= p <= n * (share + 1) // 100]
        for n, share in zip(image.shape, (y, x), strict=False)
    ]
    return [expected("Cutout", image, half, *p) for p in itertools.product(*places)]


def by_randaug(line, image):
    """All images that a line of randaug may mean."""
    name, *numbers = line.split()
    if name == "Cutout":
        return cutouts(image, int(numbers[0]), int(numbers[2]), int(numbers[7]))
    args = [float(n) if "." in n or name == "Rotate" else int(n) for n in numbers]
    return [expected(name, image, *args, contrast="fixed")]


def test_layers_of_randaug_by_hand(stories):
    seen = set()
    for story, *_ in stories["randaug"]:
        kept, decoded, cropped, flipped, *layers = images(story)
        assert kept[3] == kept[2]
        np.testing.assert_array_equal(decoded[3], pil(decoded[2]))
        assert cropped[3].shape == (60, 90, 3)
        assert is_window(*cropped[3:1:-1])
        assert flipped[1] in (["mirrored"], ["not mirrored"])
        sign = -1 if flipped[1] == ["mirrored"] else 1
        np.testing.assert_array_equal(flipped[3], flipped[2][:, ::sign])
        spec = "randaug(2, 10, contrast='fixed')"
        assert [op for op, *_ in layers] == [f"{spec}, layer {n}" for n in (1, 2)]
        for _, lines, before, after in layers:
            [line] = lines
            assert any(np.array_equal(x, after) for x in by_randaug(line, before)), line
            seen.add(line.split()[0])
    assert len(seen) > 2


@pytest.mark.parametrize(
    ("op", "policy"),
    [
        ("randaug_tv(magnitude=9, num_ops=2)", policies.randaug_tv(2, 9)),
        ("trivial_augment_wide(per_batch=True)", policies.trivial_augment_wide()),
        ("autoaugment_cifar10", policies.autoaugment_cifar10()),
    ],
)
def test_torchvisions_policies_do_what_the_kept_plan_says(folder, op, policy):
    name = op.split("(")[0]
    pp = f"decode|resize(40)|{op}|keep('image', '{name}_plan')"
    story = steps.tell(open_stream(folder, pp), pp, 3, 1)
    _, _, *shown, kept = images(story)
    features = story.parts[-1].features
    assert set(features) == {"image", f"{name}_plan"}
    words = features[f"{name}_plan"]
    assert [line for _, lines, *_ in shown for line in lines] == policy.explain(words)
    before, after = shown[0][2], shown[-1][3]
    np.testing.assert_array_equal(policy.apply(before, words), after)
    np.testing.assert_array_equal(kept[3], after)
    if name == "randaug_tv":
        assert [title for title, *_ in shown] == [f"{op}, layer {n}" for n in (1, 2)]
        first = policies.randaug_tv(1, 9).apply(before, words[:1])
        np.testing.assert_array_equal(first, shown[0][3])


def test_crops_are_windows_of_the_image_before_them(stories):
    """So is a choice of rows. Comparing the last step with the stream proves the rest."""
    for story, *_ in stories["per_batch"]:
        rows = {s.op.split("(")[0]: s.features.get("rows") for s in story.parts}
        whole = rows["copy"]
        chosen = [np.flatnonzero((whole == row).all((1, 2))) for row in rows["choice"]]
        assert len(chosen) == 7
        assert all(len(found) for found in chosen)
    for story, *_ in stories["autoaugment"]:
        for op, _, before, after in images(story):
            if op.startswith("pad_crop"):
                padded = np.pad(before, ((4, 4), (4, 4), (0, 0)))
                assert is_window(after, padded)


def test_the_report_names_what_was_done(stories):
    story, epoch, index, *_ = stories["randaug"][1]
    text = steps.report(story, epoch, index)
    lines = text.splitlines()
    assert lines[0].startswith(f"example {index} in epoch 3: ")
    assert str(story.name) in lines[0]
    assert ".jpg" in lines[0]
    assert lines[1] == "row 3 of the batch of step 6, both counted from 0"
    assert "image " in text
    assert " bytes" in lines[3]
    for number, step in enumerate(story.parts, start=1):
        at = lines.index(f"{number}. {step.op}")
        assert lines[at + 1 : at + 1 + len(step.lines)] == [
            f"     {line}" for line in step.lines
        ]
        image = step.features["image"]
        if not isinstance(image, bytes):
            h, w, c = image.shape
            size = f"image uint8 {h} x {w} x {c} of {image.min()} to {image.max()}"
            assert size in lines[at + 1 + len(step.lines)]


def test_a_long_op_is_shown_in_full(folder):
    pp = (
        "decode_jpeg_and_inception_crop(24, area_min=5, antialias=False, "
        "precise=False, sampler='torchvision')|keep('image')"
    )
    story = steps.tell(open_stream(folder, pp), pp, 0, 0)
    assert story.parts[0].op == pp.split("|")[0]


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        # keep, copy, choice and drop change no image.
        ("randaug", "decode random_crop flip_lr randaug randaug"),
        ("per_batch", "as_read decode_jpeg_and_inception_crop trivial_augment_wide"),
    ],
)
def test_panels_begin_with_the_whole_image_and_leave_out_what_did_nothing(
    stories, name, titles
):
    story, *_ = stories[name][0]
    panels = steps.panels(story)
    seen = [title.split("(")[0].replace(" ", "_") for title, *_ in panels]
    assert seen == titles.split()
    whole = pil(story.raw["image"]).astype(int)
    np.testing.assert_allclose(panels[0][2], whole, atol=40)  # another decoder's
    np.testing.assert_array_equal(panels[-1][2], story.parts[-1].features["image"])
    for title, text, _ in panels:
        assert bool(text) == title.startswith(("flip", "randaug", "trivial"))


def test_randaug_in_the_step_is_shown_as_on_the_host(folder, stories, tmp_path):
    """The same draws and the same pictures, layer by layer, and the same batch."""
    (of_host, epoch, index, *_), call = stories["randaug"][0], "randaug(2, 10, "
    head, _, how = PP["randaug"].partition(call)
    pp = f"{head}randaug_plan(2)"
    device_pp = f"{call}{how}|value_range(-1, 1)"
    stream = open_stream(folder, pp)
    story = steps.tell(stream, pp, epoch, index, device_pp)
    assert [part.op for part in story.parts[-2:]] == [
        f"{call}{how}, in the step, layer {layer}" for layer in (1, 2)
    ]
    for ours, theirs in zip(story.parts[-2:], of_host.parts[-2:], strict=True):
        assert ours.lines == theirs.lines
        np.testing.assert_array_equal(ours.features["image"], theirs.features["image"])
    pictures = []
    for name, spec, later in (("a", PP["randaug"], FINISH), ("b", pp, device_pp)):
        path = tmp_path / f"{name}.png"
        steps.draw_batch(path, open_stream(folder, spec), later)
        with PIL.Image.open(path) as image:
            pictures.append(np.asarray(image))
    np.testing.assert_array_equal(*pictures)


def test_pictures_of_an_example_and_of_a_batch(folder, stories, tmp_path):
    story, *_ = stories["randaug"][0]
    steps.draw_story(tmp_path / "story.png", story, 0, 1)
    stream = open_stream(folder, "decode|resize(32)|keep('image', 'label')")
    steps.draw_batch(tmp_path / "batch.png", stream)
    for name in ("story", "batch"):
        with PIL.Image.open(tmp_path / f"{name}.png") as image:
            assert image.format == "PNG"
            assert 250 < min(image.size) < max(image.size) < 2000


def test_without_an_image_nothing_is_drawn(folder, tmp_path):
    pp = "keep('label', '_id')"
    stream = open_stream({"kind": "arrays", "name": "digits", "split": "train"}, pp)
    with pytest.raises(ValueError, match="no image to draw"):
        steps.draw_batch(tmp_path / "a.png", stream)
    story = steps.Story("x", "y", {"label": 1}, [])
    with pytest.raises(ValueError, match="no image to draw: leave out --out"):
        steps.draw_story(tmp_path / "a.png", story, 0, 0)


@pytest.mark.parametrize(
    ("epoch", "index", "message"),
    [
        (0, SIZE, "in 0 to 8, as the data has 9 examples, but it is 9"),
        (0, -1, "in 0 to 8, .* it is -1"),
        (-1, 0, "epoch is counted from 0, but it is -1"),
        (2**32, 0, "epoch is counted from 0"),
    ],
)
def test_an_index_or_epoch_out_of_range(folder, epoch, index, message):
    stream = open_stream(folder, "decode")
    with pytest.raises(ValueError, match=message):
        steps.tell(stream, "decode", epoch, index)


def test_an_example_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "bad.jpg").write_bytes(b"no image")
    data = {"kind": "folder", "data_dir": str(tmp_path), "split": "train"}
    stream = open_stream(data, "decode", batch_size=1)
    with pytest.raises(ValueError, match=r"(?s)bad\.jpg.* cannot be read: [^\n]*$"):
        steps.tell(stream, "decode", 0, 0)


def test_a_place_in_a_shuffle_buffer_is_not_promised(folder):
    stream = open_stream(folder, "decode", shuffle_buffer_size=5)
    assert "depends on the run" in steps.tell(stream, "decode", 0, 2).place


@pytest.mark.parametrize(
    ("label", "names", "want"),
    [
        (3, None, "3"),
        (1, ("cat", "dog"), "dog"),
        (-1, None, "no label"),
        (np.float32([0, 0.2, 0.8]), ("a", "b", "c"), "c + b"),
        (np.float32([0, 1, 0]), None, "1"),
        (np.zeros(4), None, "no label"),
    ],
)
def test_captions(label, names, want):
    assert steps.caption(label, names) == want
