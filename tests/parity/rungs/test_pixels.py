"""The rungs about pixels pass, and every planted fault makes its rung fail."""

import io

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure

from parity.faults import pixels as pixel_faults
from parity.reference import augment, crops
from parity.report import pixels as pixel_figures
from parity.rungs import augmentation, decoding, distributions, pixels, resizing
from parity.sides import samples
from parity.sides.cases import Case

pytestmark = pytest.mark.slow


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
    """Except known differences, distances of samples and float images."""
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
    """It may grow by about half, so that a loss or a gain is noticed."""
    equal = {
        "known: torchvision's RandAugment": distributions.noise(600),
        "known: torchvision's crops": distributions.noise(distributions.BOXES),
        # Without ties no pixel differs.
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


def test_the_references_crop_falls_back_to_the_whole_image():
    generator = torch.Generator().manual_seed(0)
    box = crops.boxes(5, 100, 400, (0.95, 1.0), (0.75, 1.33), generator)
    assert box.tolist() == [[0, 0, 100, 400]] * 5


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
    """The statistics of left and right, above and below see the sign of a warp."""
    monkeypatch.setattr(augment, "SIGNED", ())
    name = "china halved"
    ours, wrong = distributions.ours_sample(name), distributions.reference_sample(name)
    for at, title in enumerate(distributions.STATISTICS):
        if "less right" in title or "less below" in title:
            distance = distributions.distance(ours[:, at], wrong[:, at])
            assert distance > distributions.noise(len(ours))


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
