"""The page is complete, needs no other file, and agrees with the comparisons."""

import base64
import io
import platform
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from parity.report import page
from parity.rungs.comparison import Comparison

VOID = {"meta", "img", "br"}


class Structure(HTMLParser):
    """Checks that tags nest; keeps the text of cells, the tags and the attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.rows = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def grid():
    figure = Figure(figsize=(2, 1), facecolor="black")
    figure.add_axes((0, 0, 0.5, 1)).imshow(np.eye(4), aspect="auto")
    return figure


RESULTS = [
    ("forward", Comparison("stem", 1e-13, 1e-9)),
    ("forward", Comparison("<b> & co", 2e-9, 1e-9, "block01/mlp")),
    ("update", Comparison("known: torch's clip", 1e-6, 2e-6, "step 2")),
    ("update", Comparison("nothing came", float("nan"), 1e-9)),
]


@pytest.fixture
def text(tmp_path):
    path = page.write(
        tmp_path / "new" / "folder",
        RESULTS,
        {"the grid, side by side": grid(), 'and "another"': grid()},
        arguments=[
            "--variant",
            "S/16",
            "--out",
            str(tmp_path),
            "--only=a b",
            f"--out={tmp_path}",
        ],
        about={"forward": "Every stage."},
        reasons={"torch's clip": "It adds 1e-6."},
    )
    assert path == tmp_path / "new" / "folder" / "index.html"
    return path.read_text()


def test_the_table_has_every_comparison(text):
    rows = Structure(text).rows
    lines = [row for row in rows if len(row) == 7 and row[0] != "rung"]
    assert [row[:5] + row[6:] for row in lines] == [
        ["forward", "stem", "1.00e-13", "1.0e-09", "pass", ""],
        ["forward", "<b> & co", "2.00e-09", "1.0e-09", "FAIL", "block01/mlp"],
        ["update", "known: torch's clip", "1.00e-06", "2.0e-06", "pass", "step 2"],
        ["update", "nothing came", "nan", "1.0e-09", "FAIL", ""],
    ]
    assert ["forward", "1 of 2 failed", "2", "Every stage."] in rows
    assert ["update", "1 of 2 failed", "inf", ""] in rows
    assert ["update", "torch's clip", "1.00e-06", "step 2", "It adds 1e-6."] in rows


def test_the_summary_counts_and_says_how_to_reproduce(text):
    assert "2 of 4 failed" in text
    assert "4 comparisons: 2 passed, 2 failed. 1 of them" in text
    assert "python -m parity --variant S/16 &#x27;--only=a b&#x27; --out report" in text
    assert f"python {platform.python_version()}" in text
    assert f"numpy {np.__version__}" in text


def test_all_passed_says_so(tmp_path):
    text = page.write(tmp_path, RESULTS[:1], {}).read_text()
    assert "all passed" in text
    assert "FAIL<" not in text
    assert "<h2>Failed" not in text
    assert "<h2>Pictures" not in text
    Structure(text)


def test_bars_are_logarithmic(tmp_path):
    shares = {1.0: 100, 1e-3: 50, 1e-6: 0, 1e-9: 0, 5.0: 100, 0.0: 0}
    results = [("r", Comparison(str(s), s, 1.0)) for s in shares]
    text = page.write(tmp_path, results, {}).read_text()
    assert [int(w) for w in re.findall(r"width:(\d+)%", text)] == list(shares.values())


def test_it_needs_no_other_file_and_names_no_machine(text, tmp_path):
    found = Structure(text)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    for name, value in found.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/png;base64,", "#"))
        assert not name.startswith("on")
    plain = re.sub(r"base64,[^\"]*", "", text)
    assert "http" not in plain
    assert "url(" not in plain
    for private in (platform.node(), str(tmp_path), str(Path.home())):
        assert private not in plain
    targets = {v for k, v in found.attributes if k == "id"}
    links = {v[1:] for k, v in found.attributes if k == "href"}
    assert links
    assert links <= targets


def test_pictures_are_the_figures_on_white(text):
    found = Structure(text)
    sources = [v.split(",")[1] for k, v in found.attributes if k == "src"]
    images = [Image.open(io.BytesIO(base64.b64decode(s))) for s in sources]
    assert [image.size for image in images] == [(280, 140)] * 2
    assert b"Software" not in base64.b64decode(sources[0])[:200]
    pixels = np.asarray(images[0].convert("L"))
    assert pixels[10, 5] > pixels[10, 100]  # imshow's identity matrix
    assert (pixels[:, 150:] == 255).all()
    alts = [v for k, v in found.attributes if k == "alt"]
    assert alts == ["the grid, side by side", 'and "another"']


def test_it_is_readable_on_dark_and_on_paper(text):
    """Each theme gives every colour that the page uses."""
    style = text.split("<style>")[1].split("</style>")[0]
    used = set(re.findall(r"var\((--\w+)\)", style))
    light, dark, paper = re.findall(r":root \{(.*?)\}", style, re.S)
    for theme in (light, dark, paper):
        assert used == set(re.findall(r"(--\w+):", theme))
