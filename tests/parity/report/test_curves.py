"""The figure of a training: a pair of axes per curve."""

import numpy as np

from parity.report.curves import figures
from parity.rungs.comparison import Comparison


def test_curves_and_differences_are_drawn():
    theirs = np.array([4.0, 2.0, 1.0])
    ours = np.array([4.0, 2.2, 1.0])
    lines = [
        ("forward float64", Comparison("stem", 0.0, 1.0)),
        ("trajectory float64", Comparison("loss", 0.05, 1e-9, curves=(ours, theirs))),
        (
            "trajectory float32",
            Comparison("loss", 0.05, 1.0, curves=(ours, theirs, ours)),
        ),
        (
            "trajectory float32",
            Comparison("norm", 0.05, 1.0, curves=(ours, theirs, ours)),
        ),
    ]
    made = figures(lines)
    assert list(made) == ["trajectory float64", "trajectory float32"]
    assert len(made["trajectory float32"].axes) == 4
    above, below = made["trajectory float64"].axes
    drawn = {line.get_label(): line.get_ydata() for line in above.lines}
    np.testing.assert_array_equal(drawn["vitjax"], ours)
    np.testing.assert_array_equal(drawn["torch"], theirs)
    difference = below.lines[0].get_ydata()
    np.testing.assert_allclose(difference, [np.nan, 0.05, np.nan])
    made["trajectory float32"].canvas.draw()
