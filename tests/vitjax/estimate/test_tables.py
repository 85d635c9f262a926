"""The tables of an estimate, and its picture."""

import numpy as np
import pytest
from PIL import Image

from vitjax.devices import chips
from vitjax.estimate import compiled, tables
from vitjax.tools import plan_pictures

V5E = chips.CHIPS["v5e"]
PARTS = (
    compiled.Part(
        "Transformer/encoderblock", "forward", "fusion mul", 24, 3e9, 2e12, 0.004
    ),
    compiled.Part(
        "Transformer/encoderblock",
        "backward",
        "cublas dot_general",
        36,
        6e9,
        4e12,
        0.008,
    ),
    compiled.Part("step", "other", "fusion add", 3, 1e9, 0.0, 0.0125),
    compiled.Part("head", "forward", "fusion add", 1, 2e7, 0.0, 0.0),
    compiled.Part("copies", "other", "copy", 1, 1e7, 0.0, 0.0),
)


def found(**changes):
    kw = dict(
        memory=4 * 2**30,
        temporaries=3 * 2**30,
        traffic=10.03e9,
        flops=6e12,
        kernels=65,
        seconds=0.0245,
        collectives={"all-reduce": (1, 88e6)},
        parts=PARTS,
        xla_bytes=22e9,
    )
    return compiled.Estimate(**(kw | changes))


def test_a_row_is_in_the_units_of_its_head():
    row = tables.figures(found(), V5E, images=980)
    assert dict(zip(tables.HEAD, tables.cells(row), strict=True)) == {
        "memory GiB": "4.00 of 15.75",
        "traffic GB": "10",
        "XLA's count GB": "22",
        "TFLOP": "6",
        "kernels": "65",
        "collectives (MB)": "1 all-reduce (88)",
        "estimate ms": "24.5",
        "images/s": "40,000",  # 980 images in 24.5 ms
    }


def test_what_is_missing_is_a_dash():
    alone = tables.figures(found(xla_bytes=None, collectives={}), V5E, images=1)
    cells = dict(zip(tables.HEAD, tables.cells(alone), strict=True))
    assert (cells["XLA's count GB"], cells["collectives (MB)"]) == ("-", "none")
    much = tables.cells(tables.figures(found(memory=40 * 2**30), V5E, images=1))
    assert much[0] == "40.00 of 15.75: too much"
    refused = tables.cells(tables.too_large(31.4 * 2**30, V5E))
    assert refused == ("31.40 of 15.75: too much", *["-"] * 7)
    assert tables.cells(tables.too_large(None, V5E))[0] == "more of 15.75: too much"


def test_the_parts_with_most_traffic_come_first():
    row = tables.figures(found(), V5E, images=1)
    assert tables.parts(row, 2) == [
        ("Transformer/encoderblock", "forward", "fusion mul", "24", "3", "2", "4"),
        (
            "Transformer/encoderblock",
            "backward",
            "cublas dot_general",
            "36",
            "6",
            "4",
            "8",
        ),
    ]
    assert len(tables.parts(row, 99)) == len(PARTS)


def test_the_picture_has_every_byte_once(tmp_path):
    row = tables.figures(found(), V5E, images=1)
    layers = plan_pictures.traffic(row)
    assert list(layers) == ["encoderblock", "step", "2 parts under 0.5% each"]
    assert layers["encoderblock"]["backward"] == 6.0
    total = sum(sum(phases.values()) for phases in layers.values())
    assert total == pytest.approx(row["traffic GB"])
    plan_pictures.draw_traffic(tmp_path / "traffic.png", row, "a step")
    with Image.open(tmp_path / "traffic.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), int)

    def width(colour):
        """Return the most pixels of a colour in one row of the picture."""
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return (abs(pixels - rgb).max(-1) <= 3).sum(1).max()

    forward, backward = (
        width(plan_pictures.COLOURS[p]) for p in ("forward", "backward")
    )
    # Bars of 3 and 6 GB side by side, against their edges' one or two pixels.
    assert backward == pytest.approx(2 * forward, abs=3)
