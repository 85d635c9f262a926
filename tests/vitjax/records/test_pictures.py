"""The picture of the first batch shows the images as they are."""

import numpy as np
from PIL import Image

from vitjax.records.pictures import _caption, draw_batch
from vitjax.tools import prediction_pictures
from vitjax.tools.predictions import Predictions


def test_the_grid_shows_each_image_in_its_colours(tmp_path):
    colours = np.array([(1, -1, -1), (-1, 1, -1), (-1, -1, 1)], np.float32)
    images = np.tile(colours[:, None, None], (1, 4, 4, 1))
    draw_batch(tmp_path / "a.png", images, np.eye(3, dtype=np.float32), None)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]:
        assert (pixels == colour).all(axis=1).sum() > 1000


def test_grey_images_in_0_1_are_not_stretched(tmp_path):
    images = np.full((9, 4, 4, 1), 0.5, np.float32)
    draw_batch(tmp_path / "a.png", images, np.zeros((9, 2), np.float32), None)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert (abs(pixels.astype(int) - 127) <= 1).mean() > 0.2


def test_captions_name_both_classes_of_a_mixed_row():
    assert _caption(np.array([0.0, 1.0]), ["cat", "dog"]) == "dog"
    assert _caption(np.array([0.3, 0.7]), ["cat", "dog"]) == "0.70 dog\n+ 0.30 cat"
    assert _caption(np.array([0.3, 0.7]), None) == "0.70 1\n+ 0.30 0"
    assert _caption(np.zeros(2), None) == "no label"


def test_names_are_no_formulas(tmp_path):
    """matplotlib reads text between dollars as a formula, here wrong ones."""
    names = ("$5_to_$10", "Ba$$in")
    labels = np.eye(2, dtype=np.float32)
    draw_batch(tmp_path / "a.png", np.zeros((2, 4, 4, 1)), labels, names)
    predictions = Predictions(labels, labels, names)
    title = "val of $runs"
    prediction_pictures.draw_report(tmp_path / "b.png", predictions, title)
    images = np.zeros((2, 4, 4, 1), np.float32)
    prediction_pictures.draw_samples(tmp_path / "c.png", images, predictions)
    assert len(list(tmp_path.glob("*.png"))) == 3
