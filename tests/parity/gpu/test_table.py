"""The page of given results."""

import pytest

from parity.gpu import table
from parity.gpu.jobs import RATE

ROWS = [
    {"name": "vitjax S/16", "kind": "speed", "seconds": 30.0, RATE: 12_345.6,
     "ms/step": 82.94, "MFU": 0.3456, "peak memory GiB per device": 38.0,
     "planned memory GiB per device": 40.0, "memory from": "allocator's peak",
     "compile and warm-up s": 21.2},
    {"name": "timm S/16", "kind": "speed", "seconds": 50.0, RATE: 8_000.0, "MFU": None},
    {"name": "timm B/16", "kind": "speed", "seconds": 0.0, "skipped": "no time left"},
    {"name": "accuracy", "kind": "tests", "seconds": 9.0, "tests": [
        {"name": "test_a", "verdict": "passed", "message": "",
         "measured": {"blocks": "1e-06 <= 4e-06", "loss": "1e-07 <= 5e-07"}},
        {"name": "test_b", "verdict": "skipped", "message": "a | b\nc", "measured": {}},
    ]},
    {"name": "more", "kind": "tests", "seconds": 1.0, "failed": "status 2: no pytest"},
    {"name": "trace", "kind": "trace", "seconds": 8.0, "of": "vitjax S/16",
     "kernels ms/step": 80.0, "busy": 0.97, "by kind": {"fusions": 60.0, "copies": 20.0},
     "kernels": [{"name": "add", "kind": "fusions", "calls": 24.0, "ms": 60.0,
                  "share": 0.75}]},
    {"name": "plan", "kind": "memory", "seconds": 8.0, "chip": "h100", "GiB": 39.2},
    {"name": "two runs", "kind": "repeat", "seconds": 8.0, "failed": "status 1: oh"},
]  # fmt: skip
REPORT = {
    "about": {"device": "NVIDIA H100 80GB HBM3", "torch sees": "NVIDIA H100",
              "versions": {"jax": "0.11.2"}},
    "note": "", "rows": ROWS, "seconds": 99.4,
}  # fmt: skip


def test_the_page_has_every_figure():
    lines = table.page(REPORT).splitlines()
    assert lines[0] == "# vitjax on NVIDIA H100 80GB HBM3"
    assert "99 s; torch sees NVIDIA H100; jax 0.11.2" in lines
    assert (
        "| vitjax S/16 | 12,346 | 82.94 | 34.6 | 38.00 | 40.00 | 21 | 1.54 |" in lines
    )
    assert "| timm S/16 | 8,000 | - | - | - | - | - | 1.00 |" in lines
    assert "- timm B/16: skipped: no time left" in lines
    both = "blocks: 1e-06 <= 4e-06; loss: 1e-07 <= 5e-07"
    assert f"| test_a | passed | {both} |" in lines
    assert "| test_b | skipped | a / b c |" in lines
    assert "- more: failed: status 2: no pytest" in lines
    assert "| fusions | 60.000 | 75.0 |" in lines
    assert "| add | fusions | 24 | 60.000 | 75.0 |" in lines
    assert "- plan: chip h100, GiB 39.2" in lines
    assert "- two runs: failed: status 1: oh" in lines
    assert "- vitjax S/16: the allocator's peak is 0.95 of XLA's plan" in lines


@pytest.mark.parametrize(
    ("planned", "ratio", "fails"),
    [(38.0, "1.00", 0), (47.4, "1.25", 0), (47.6, "1.25", 1), (30.3, "0.80", 1)],
)
def test_the_plan_for_an_absent_chip_is_held_against_the_peak(planned, ratio, fails):
    """The peak of the step of the same name; 25 % are let pass."""
    plan = {"name": "memory of vitjax S/16", "kind": "memory", "seconds": 8.0,
            "planned GiB on an absent chip": planned}  # fmt: skip
    [line] = [x for x in table.others([*ROWS, plan]) if x.startswith("- memory of")]
    assert f"{ratio} of the allocator's peak of 38.00 GiB" in line
    assert ("FAILED: not within a factor of 1.25" in line) == bool(fails)
    found = table.counts([*ROWS, plan])
    assert (found["passed"], found["FAILED"]) == (2 - fails, fails)


def test_a_plan_without_a_peak_is_no_test():
    plan = {"name": "memory of vitjax B/16", "kind": "memory", "seconds": 8.0,
            "planned GiB on an absent chip": 3.0}  # fmt: skip
    assert table.counts([*ROWS, plan]) == table.counts(ROWS)


def test_every_table_has_as_many_cells_as_its_head():
    for text in table.page(REPORT).split("\n\n"):
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_a_page_without_results_is_a_page():
    text = table.page({"about": {}, "note": "No GPU.", "rows": [], "seconds": 1.0})
    assert "No GPU." in text


def test_what_failed_is_counted():
    assert table.counts(ROWS) == {
        "passed": 1, "FAILED": 0, "skipped": 1, "failed jobs": 2,
    }  # fmt: skip
