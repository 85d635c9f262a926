"""Files that are whole or not there."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitjax import files

NAMES = ("$5_to_$10", "Ba$$in", "$x^2$", "a_b")


class Interrupted(Figure):
    def savefig(self, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_picture_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.png"
    files.write_picture(path, Figure(figsize=(2, 1)), dpi=50)
    with Image.open(path) as picture:
        assert picture.size == (100, 50)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        files.write_picture(path, Interrupted(), dpi=50)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def _named(names, log=False):
    """A figure that has names in all places where pictures have them."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    axis = figure.subplots()
    if log:
        axis.set_yscale("log")
    axis.plot([1, 1000], [1, 1000], label=names[0])
    axis.set(title=names[1], xlabel=names[2], ylabel=names[3])
    axis.text(1, 1, names[0])
    axis.legend(title=names[1])
    axis.set_xticks([1, 2], names[:2])
    figure.suptitle(names[2])
    return figure


def test_names_are_no_formulas(tmp_path):
    """Drawn as a person would write them for matplotlib: with every dollar escaped."""
    with pytest.raises(ValueError, match="Parse"):
        _named(NAMES).savefig(tmp_path / "formulas.png")
    files.write_picture(tmp_path / "a.png", _named(NAMES), dpi=80)
    escaped = [re.sub(r"\$", r"\\$", name) for name in NAMES]
    _named(escaped).savefig(tmp_path / "b.png", dpi=80)
    ours, expected = (
        np.asarray(Image.open(tmp_path / name), int) for name in ("a.png", "b.png")
    )
    np.testing.assert_array_equal(ours, expected)


def test_powers_of_ten_stay_formulas(tmp_path):
    plain = ("a", "b", "c", "d")
    files.write_picture(tmp_path / "a.png", _named(plain, log=True), dpi=80)
    _named(plain, log=True).savefig(tmp_path / "b.png", dpi=80)
    assert np.array_equal(
        *(np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    )


@pytest.mark.parametrize("error", [ValueError("a\nb"), OSError("a b"), KeyError("a b")])
def test_a_picture_that_fails_costs_a_warning(error, caplog):
    with files.or_without("x.png"):
        raise error
    [record] = caplog.records
    assert re.fullmatch(r"x\.png cannot be written: '?a b'?", record.getMessage())
    with pytest.raises(KeyboardInterrupt), files.or_without("x.png"):
        raise KeyboardInterrupt
