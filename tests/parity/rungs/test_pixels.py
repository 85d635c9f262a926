"""The rungs about pixels: they pass, and every fault planted makes its rung fail."""

import io

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure

from input_pipeline import randaug
from parity.faults import pixels as pixel_faults
from parity.reference import augment, crops, resize
from parity.report import pixels as pixel_figures
from parity.rungs import augmentation, decoding, distributions, pixels, resizing
from parity.sides import others_pixels, ours_pixels, samples
from parity.sides.cases import Case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Images are small: torch's threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lines():
    return [
        (rung, line) for rung, make in pixels.RUNGS.items() for line in make(Case())
    ]


def test_every_comparison_passes(lines):
    failed = [(rung, line) for rung, line in lines if not line.passed]
    assert not failed
    assert {rung for rung, _ in lines} == {"decoding", "resize", "augmentation"}
    assert len({(rung, line.name) for rung, line in lines}) == len(lines) > 120


def test_ops_are_held_to_one_grey_level_and_decoding_to_none(lines):
    """But for what is known, a distance of samples, and float images."""
    for rung, line in lines:
        if line.name.startswith("known: "):
            continue
        if rung == "decoding":
            assert line.bound < 1
        elif "crops of" in line.name or "randaug(2, 10)" in line.name:
            assert line.bound < 0.13
        else:
            assert line.bound <= 1


def test_each_op_is_compared_with_each_other_library(lines):
    names = {line.name.split(",")[0] for _, line in lines}
    assert set(augment.OPS) <= names
    said = {line.name for _, line in lines}
    for name in augment.OPS:
        ties = ", off ties" if name in augment.SIGNED else ""
        assert f"{name}, reference{ties}" in said
        pil = f"{name}, PIL{ties}"
        assert augmentation.LINES.get((name, "PIL"), pil) in said
        there = name not in ("SolarizeAdd", "Contrast")  # not torchvision's
        assert (f"{name}, torchvision{ties}" in said) == there


def test_every_known_difference_is_there_and_has_a_reason(lines):
    known = [line for _, line in lines if line.name.startswith("known: ")]
    about = {line.name.removeprefix("known: ").split(",")[0] for line in known}
    assert about == set(pixels.REASONS)


def test_every_known_difference_exceeds_what_counts_as_equal(lines):
    """And may grow by about half, so that neither a loss nor a gain goes unseen."""
    equal = {
        "known: torchvision's RandAugment": distributions.noise(600),
        "known: torchvision's crops": distributions.noise(distributions.BOXES),
        # Where no position is a tie, no pixel is another.
        "known: ties": 0,
        # Rounding alike on both sides leaves a mean of about none.
        "known: truncated for rounded": decoding.EQUAL,
    }
    for _, line in lines:
        if not line.name.startswith("known: "):
            continue
        least = equal.get(line.name.split(",")[0], augmentation.ONE)
        assert line.measured > least, line
        assert line.bound <= 1.6 * line.measured, line
    corner, ties = (
        {
            line.name.split(", ")[1]: line.measured
            for _, line in lines
            if at in line.name
        }
        for at in ("known: about the corner", "known: ties, Shear")
    )
    assert corner
    for name in corner:
        assert corner[name] > ties[name]


@pytest.mark.parametrize("mutation", pixel_faults.MUTATIONS, ids=lambda m: m.title)
def test_every_fault_is_caught(mutation):
    assert mutation.rungs
    for rung in mutation.rungs:
        assert pixel_faults.caught(mutation, rung) is not None


def test_a_fault_that_changes_nothing_is_missed():
    fault = pixel_faults.MUTATIONS[0]
    nothing = type(fault)(
        "nothing", ("decoding",), decoding, "pil_pixels", decoding.pil_pixels
    )
    assert pixel_faults.caught(nothing, "decoding") is None


# --- the reference, on values that are known ---


def constant(*values):
    """(3, 1, n)."""
    return torch.tensor(values, dtype=torch.uint8).expand(3, 1, -1)


@pytest.mark.parametrize(
    ("name", "argument", "want"),
    [
        ("Solarize", 0, [248, 155, 0]),
        ("Solarize", 256, [248, 155, 0]),
        ("Solarize", 128, [7, 100, 0]),
        ("Posterize", 4, [0, 96, 240]),
        ("Posterize", 6, [4, 100, 252]),
        ("Posterize", 8, [7, 100, 255]),
        ("SolarizeAdd", 110, [117, 210, 255]),
    ],
)
def test_the_reference_on_three_values(name, argument, want):
    got = augment.apply(constant(7, 100, 255), name, argument)
    assert got.tolist() == constant(*want).tolist()


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (augment.contrast, ((188, 0, 0), (0, 188, 188))),
        (augment.contrast_fixed, ((249, 6, 6), (6, 249, 249))),
        (augment.sharpness, ((192, 64, 64), (64, 192, 192))),
        (augment.color, ((255, 29, 29), (0, 226, 226))),
    ],
)
def test_the_reference_on_the_calibration_grid(function, want):
    image = others_pixels.to_torch(samples.grid(*samples.COLOURS))
    got = function(image, 1.9)
    assert (tuple(got[:, 28, 28].tolist()), tuple(got[:, 28, 84].tolist())) == want


@pytest.mark.parametrize(
    ("height", "width", "mean"),
    [(375, 500, 0.342), (500, 500, 0.376), (256, 512, 0.245)],
)
def test_the_references_crops_have_the_known_mean_area(height, width, mean):
    generator = torch.Generator().manual_seed(0)
    box = crops.boxes(20_000, height, width, (0.05, 1.0), (0.75, 1.33), generator)
    top, left, h, w = box.T
    area = (h * w).double() / (height * width)
    assert area.mean().item() == pytest.approx(mean, abs=0.01)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_the_references_crop_falls_back_to_the_whole_image():
    generator = torch.Generator().manual_seed(0)
    box = crops.boxes(5, 100, 400, (0.95, 1.0), (0.75, 1.33), generator)
    assert box.tolist() == [[0, 0, 100, 400]] * 5


def test_the_references_resize_on_a_ramp_and_on_boxes():
    ramp = torch.arange(8.0).expand(1, 2, 8)
    assert resize.resize(ramp, (2, 4), "area")[0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    plain = resize.resize(ramp, (2, 4), antialias=False)
    assert plain[0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    # Weights 1, 3, 3, 1 of 8 inside; 3, 3, 1 of 7 at an edge.
    smooth = resize.resize(ramp, (2, 4))[0, 0]
    torch.testing.assert_close(
        smooth, torch.tensor([5 / 7, 2.5, 4.5, 7 - 5 / 7], dtype=torch.float64)
    )


# --- what the comparisons are made of ---


def test_boxes_are_read_off_the_pictures_of_places():
    top, left, h, w = ours_pixels.crop_boxes(375, 500, 500).T
    assert (h * w / (375 * 500)).mean() == pytest.approx(0.342, abs=0.04)
    assert min(top.min(), left.min()) >= 0
    assert (top + h <= 375).all()
    assert (left + w <= 500).all()
    assert (np.abs(w / h - 1.04) < 0.31).all()
    assert len(np.unique(top)) > 100


def test_the_distance_of_samples_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(0.3, size=150)
    for x, y in ((a, b), (a.round(), b.round()), (a, a)):
        want = scipy.stats.ks_2samp(x, y).statistic
        assert distributions.distance(x, y) == pytest.approx(want)


def test_the_odd_files_are_odd():
    files = samples.odd_jpegs()
    opened = {name: PIL.Image.open(io.BytesIO(data)) for name, data in files.items()}
    assert {image.mode for image in opened.values()} == {"RGB", "L", "CMYK"}
    assert {image.size for image in opened.values()} >= {(1, 1), (7, 1), (1, 9)}
    sampling = {
        tuple((h, v) for _, h, v, _ in image.layer) for image in opened.values()
    }
    for luma in ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1)):
        assert (luma, (1, 1), (1, 1)) in sampling
    for name, image in opened.items():
        assert bool(image.info.get("progressive")) == name.endswith("progressive")
    assert sum(b"\xff\xd0" in data for data in files.values()) >= 2


def test_a_part_is_found_where_it_was_cut():
    whole = samples.photographs()["flower"][100:180, 200:290]
    part = whole[11:60, 7:70].copy()
    assert decoding._nearest_part(part, whole) == 0
    part[20, 20] ^= 8
    assert decoding._nearest_part(part, whole) == 8
    assert decoding._nearest_part(whole, part) == np.inf


def test_ties_are_left_out_and_nothing_else():
    image = samples.grid(*samples.COLOURS)
    clear = augmentation.off_ties(image, "ShearX", 0.3)
    assert not clear[5::10].any()
    assert clear[np.arange(224) % 10 != 5].all()
    assert augmentation.off_ties(image, "TranslateY", -100.0).all()
    assert augmentation.off_ties(image, "Rotate", 30.0).mean() > 0.95


def test_a_policy_that_never_turns_back_is_noticed(monkeypatch):
    """The sign's place in a plan; `ours_sample` remembers, so it is asked anew."""
    monkeypatch.setattr(randaug, "_NEGATE", (4, 0))
    name = "china halved"
    ours = distributions.ours_sample.__wrapped__(name)
    right = distributions.ours_sample(name)
    bound = distributions.noise(len(ours))
    for at, title in enumerate(distributions.STATISTICS):
        if "less right" in title or "less below" in title:
            assert distributions.distance(ours[:, at], right[:, at]) > bound


def test_sizes_that_differ_are_no_match():
    a, b = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert decoding.levels(a, b).max() == np.inf
    assert resizing.pil(a, (5, 4)).shape == (5, 4, 3)


def test_figures(monkeypatch):
    monkeypatch.setattr(pixel_figures, "SPECTRUM_IMAGES", 100)
    figures = pixel_figures.figures()
    assert "calibration_grids" in figures
    assert "spectra" in figures
    assert "crops" in figures
    for figure in figures.values():
        assert isinstance(figure, Figure)
        figure.savefig(io.BytesIO(), format="png", dpi=20)
