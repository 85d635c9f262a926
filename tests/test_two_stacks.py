"""Faults planted in what `tests.two_stacks` compares."""

import json

import numpy as np
import pytest

from tests import two_stacks


def _side(*arrays):
    return {
        "arrays": {
            f"3 params/{i} {x.dtype} {x.shape}": np.frombuffer(x.tobytes(), np.uint8)
            for i, x in enumerate(arrays)
        }
    }


X = np.array([1.0, -4.0, 2.0], np.float32)


@pytest.mark.parametrize("must", [True, False])
def test_one_bit_is_seen_and_its_size_told(must, capsys):
    y = X.copy()
    y.view(np.uint32)[0] ^= 1
    passed = two_stacks._equal("what", _side(X, X), _side(X, y), 3, must=must)
    line = capsys.readouterr().out
    assert passed is not must
    assert line.startswith("FAIL" if must else "note")
    # The last bit of 1.0 is 2^-23, and 4 is the largest value.
    assert "1 of 2 arrays differ, by at most 3.0e-08 of the largest value" in line
    assert "(params/1)" in line
    assert two_stacks._equal("what", _side(X), _side(X), 3, must=must)


def test_bfloat16_is_read_as_such():
    one = np.array([0x3F80, 0x4080], np.uint16)  # 1 and 4
    two = np.array([0x3F81, 0x4080], np.uint16)  # 1 + 2^-7
    name = "3 opt_state/mu bfloat16 (2,)"
    apart = two_stacks._apart(one.view(np.uint8), two.view(np.uint8), name)
    assert apart == 2**-7 / 4


@pytest.mark.parametrize(("factor", "passed"), [(1 + 9e-6, True), (1 + 1.1e-5, False)])
def test_a_loss_beyond_the_bound_fails(factor, passed, tmp_path, capsys):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run, loss in zip(runs, [2.0 * factor, 2.0], strict=True):
        run.mkdir()
        row = {"step": 3, "training_loss": loss}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert two_stacks._losses("loss", runs, 3) is passed
    assert capsys.readouterr().out.startswith("pass" if passed else "FAIL")
