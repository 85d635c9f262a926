"""Curves of several runs: the picture, and smoothing by hand."""

import json

import pytest
from PIL import Image

from vitjax.tools import plot


def workdir(path, slope=1.0):
    path.mkdir()
    rows = [
        {"step": s, "training_loss": slope / s, "lr": 0.1, "val/prec@1": s / 10}
        for s in range(1, 9)
    ]
    rows.append({"step": 9, "training_loss": "nan"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "metrics.jsonl").write_text(text)
    return path


def test_runs_are_drawn_over_each_other(tmp_path, capsys):
    a, b = workdir(tmp_path / "a"), workdir(tmp_path / "b", 2.0)
    sizes = []
    for i, flags in enumerate(([a], [a, b], [a, b, "--metrics", "training_loss"])):
        out = tmp_path / f"{i}.png"
        assert plot.main([*map(str, flags), "--out", str(out), "--smooth", "2"]) == 0
        with Image.open(out) as picture:
            sizes.append(picture.size)
            assert len(picture.convert("RGB").getcolors(10**6)) > 50
    assert sizes[0] == sizes[1]
    assert sizes[2][0] < sizes[0][0], "one panel"
    assert "written" in capsys.readouterr().out


def test_smoothing_by_hand():
    """The half-life is 2 steps: after 2 steps the weight is a half."""
    found = plot.smoothed([0, 2, 4], [4.0, 1.0, 1.0], 2.0)
    assert found == pytest.approx([4, (0.5 * 4 + 1) / 1.5, (0.25 * 4 + 0.5 + 1) / 1.75])


def test_names_by_beginning_or_end():
    names = ["lr", "lr1", "val/loss", "v2/loss", "training_loss"]
    assert plot.matching(names, "lr*") == ["lr", "lr1"]
    assert plot.matching(names, "*/loss") == ["val/loss", "v2/loss"]
    assert plot.matching(names, "training_loss") == ["training_loss"]
