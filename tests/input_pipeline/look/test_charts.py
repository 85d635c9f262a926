"""Pictures of the augmentations: their numbers by numpy, and files that can be opened."""

import numpy as np
import PIL.Image
import pytest

from input_pipeline import plans, randaug
from input_pipeline.look import charts
from input_pipeline.stream import order
from tests.helpers.randaug import by_plan, expected

RED, CYAN = (192, 64, 64), (64, 192, 192)


def test_the_grid_is_the_published_one():
    assert charts.COLOURS == (RED, CYAN)
    assert charts.BLACK_AND_WHITE == ((0, 0, 0), (255, 255, 255))
    squares = np.array([[RED, CYAN] * 2, [CYAN, RED] * 2] * 2, np.uint8)
    np.testing.assert_array_equal(
        charts.grid(RED, CYAN), squares.repeat(56, 0).repeat(56, 1), strict=True
    )


def test_each_panel_is_what_its_title_says():
    before = charts.grid(*charts.COLOURS)
    panels = charts.calibration(before)
    assert len(panels) == len(randaug.OPS) + 2  # before; Contrast twice
    for title, image in panels.items():
        name, *numbers = title.replace("(half of the side)", "").split()
        if name == "before":
            want = before
        elif name == "Cutout":
            want = expected(name, before, int(numbers[0]), 112, 112)
        elif name == "Contrast":
            factor, contrast = numbers
            want = expected(name, before, float(factor.strip(",")), contrast=contrast)
        else:
            args = [float(n) if "." in n else int(n) for n in numbers]
            want = expected(name, before, *args)
        np.testing.assert_array_equal(image, want, err_msg=title)


def test_the_spectrum_counts_each_pixel():
    n, contrast = 30, "fixed"
    grid = charts.grid(*charts.BLACK_AND_WHITE)
    seed = order.example_seed(np.zeros(n, int), np.arange(n), seed=0).numpy()
    words = seed.view(np.uint32)
    chosen = np.stack(plans.draw((words[:, 0], words[:, 1]), 0, 2), axis=-1)
    want = np.zeros(256, np.int64)
    names = set()
    for plan in chosen:
        image, done = by_plan(grid, plan, 10, contrast)
        assert (image == image[..., :1]).all()
        want += np.bincount(image[..., 0].ravel(), minlength=256)
        names |= set(done)
    assert "Contrast" in names
    assert len(names) > 12
    np.testing.assert_array_equal(charts.spectrum_counts(contrast, n), want)


def test_the_spectrum_is_the_sorted_pixels_from_top_to_bottom_then_right():
    rng = np.random.default_rng(0)
    pixels = np.sort(rng.integers(0, 256, 3 * 2000 * 200) ** 2 // 255)
    got = charts.spectrum(np.bincount(pixels, minlength=256))
    assert got.shape == (200, 2000)
    places = pixels.reshape(-1, 3).mean(1)
    np.testing.assert_allclose(got, places.reshape(2000, 200).T, atol=1e-6)


@pytest.mark.parametrize(("sampler", "area"), [("tf", 0.245), ("torchvision", 0.289)])
def test_crops_have_the_measured_mean_area(sampler, area):
    sizes = charts.crop_sizes(sampler, 5000)  # the standard error is 0.0025
    assert sizes.shape == (5000, 2)
    assert sizes.prod(1).mean() / (256 * 512) == pytest.approx(area, abs=0.01)
    assert (sizes <= (256, 512)).all()
    ratio = sizes[:, 1] / sizes[:, 0]
    assert ((ratio > 0.74) & (ratio < 1.34)).all()  # (h, w), not (w, h) of 512 x 256


def test_there_is_a_density_of_each_law():
    assert charts.SAMPLERS == ("tf", "torchvision", "power(2)", "beta(1, 2)")
    small = [
        (charts.crop_sizes(sampler, 2000).prod(1) < 0.1 * 256 * 512).mean()
        for sampler in ("torchvision", "beta(1, 2)")
    ]
    assert small[0] < small[1]  # beta(1, 2) prefers small ones


def test_the_picture_of_the_spectra_has_a_pixel_for_each_place(tmp_path, monkeypatch):
    counts = {"legacy": np.arange(256), "fixed": np.arange(256)[::-1]}
    monkeypatch.setattr(charts, "spectrum_counts", lambda kind, images: counts[kind])
    charts.draw_spectrum(tmp_path / "a.png")
    image = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("L"))
    assert image.shape == (1080, 2200)
    for kind in counts:
        want = charts.spectrum(counts[kind])[100, 50::100]
        rows = np.abs(image[:, 170:2120:100] - want.round()).max(1) <= 1
        assert 190 <= rows.sum() <= 210, kind


@pytest.mark.parametrize("draw", [charts.draw_calibration, charts.draw_crops])
def test_pictures_are_files_of_a_sensible_size(tmp_path, monkeypatch, draw):
    monkeypatch.setattr(charts, "CROPS", 200)
    draw(tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert 700 <= min(image.size) <= max(image.size) <= 2500


def colours_in(path):
    image = np.asarray(PIL.Image.open(path).convert("RGB")).reshape(-1, 3)
    return {tuple(map(int, c)) for c in np.unique(image, axis=0)}


def test_images_are_drawn_in_their_colours(tmp_path):
    """Colours, grey, values from -1 to 1, and values of any other range."""
    red = np.broadcast_to(np.uint8([200, 10, 20]), (8, 8, 3))
    grey = np.full((8, 8, 1), 77, np.uint8)
    floats = np.full((8, 8), -0.2, np.float32)  # 102 of 0 to 255
    wide = np.float32([[0, 40], [80, 400]])  # 0, 25.5, 51, 255
    charts.draw_images(
        tmp_path / "a.png",
        "title",
        [("a", "", red), ("b", "two\nlines", grey), ("c", "", floats), ("d", "", wide)],
        columns=3,
    )
    seen = colours_in(tmp_path / "a.png")
    greys = {(v, v, v) for v in (77, 102, 26, 51)}
    assert {(200, 10, 20), *greys} <= seen


def test_titles_stay_inside_the_picture(tmp_path):
    """The margins are white. Text between dollars is no formula, which would be wrong."""
    name = "$5_to_$10(" + "argument=12345, " * 9
    panels = [(name, "a\nBa$$in", np.ones((4, 4)))]
    for n in (1, 2, 7):
        title = "$5_to_$10: example 12 in epoch 3\nrow 62 of the batch of step 36, both from 0"
        charts.draw_images(tmp_path / "a.png", title, panels * n, columns=6)
        image = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("L"))
        for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
            assert (edge == 255).all()
