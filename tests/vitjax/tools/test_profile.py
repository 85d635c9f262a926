"""python -m vitjax.tools.profile: where the time of a step goes."""

import contextlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.runs import SMALL
from vitjax import benchmark, loop
from vitjax.tools import profile
from vitjax.tools.profile import Timing

pytestmark = pytest.mark.slow


def test_figures_and_a_trace(tmp_path, capsys):
    out = tmp_path / "trace"
    flags = ["--config.total_steps=9", "--steps=4", f"--out={out}", "--json"]
    assert profile.main([*SMALL, *flags]) == 0
    done = capsys.readouterr()
    found = json.loads(done.out)
    assert found.keys() == {
        "data",
        "transfer",
        "compute",
        "loop",
        "wait",
        "bound",
        "reached",
    }
    assert all(found[key] > 0 for key in found.keys() - {"bound"})
    assert found["wait"] < found["loop"]
    assert "timing: compute alone" in done.err
    assert f"written: {out}" in done.err
    [trace] = out.rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()


def test_without_json_it_is_a_table(tmp_path, capsys, monkeypatch):
    timing = Timing(data=0.1, transfer=0.2, compute=0.5, loop=0.52, wait=0.01)
    monkeypatch.setattr(profile, "profile", lambda *_: (timing, 64))
    assert profile.main([*SMALL, f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    # 64 images in half a second.
    assert "| compute alone | 500 | 128 |" in printed
    assert (
        "alone it takes 500 ms, 2.5 times the next part; the loop takes 520 ms"
        in printed
    )
    assert f"written: {tmp_path}" in printed


def test_the_benchmark_times_a_config_too(tmp_path, capsys, monkeypatch):
    seen, file = [], tmp_path / "figures.json"

    def timed(e, steps, out):
        seen.append((e.accum_freq, steps, out))
        return Timing(data=0.5, transfer=0.1, compute=0.4, loop=0.5, wait=0.1), 64

    monkeypatch.setattr(profile, "profile", timed)
    config, *overrides = SMALL
    data = config.replace("--config=", "--data=")
    argv = [data, *overrides, "--steps=7", "--config.accum_freq=2"]
    assert benchmark.main([*argv, f"--trace={tmp_path}"]) == 0
    assert benchmark.main([*argv, f"--json={file}"]) == 0
    assert seen == [(2, 7, tmp_path), (2, 7, None)]
    assert json.loads(file.read_text())["reached"] == 1
    assert "data bounds this run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main([*argv, "--batch_size=8"])
    assert "--data takes --steps, --trace, --json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["--config.accum_freq=2"])
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("bound", ["data", "transfer", "compute"])
def test_the_longest_part_bounds_the_run(bound):
    parts = {"data": 0.1, "transfer": 0.1, "compute": 0.1} | {bound: 0.25}
    sentence = Timing(**parts, loop=0.26, wait=0.0).sentence()
    assert sentence.startswith(
        f"{bound} bounds this run: alone it takes 250 ms, 2.5 times the next part; the "
        "loop takes 260 ms a step, which is 0.96 of that speed; "
    )
    assert profile.ADVICE[bound] in sentence
    # Where nothing overlaps, a step takes the sum of its parts.
    sentence = Timing(**parts, loop=sum(parts.values()), wait=0.0).sentence()
    assert "0.56 of that speed, and the other parts do not hide" in sentence


def test_it_runs_the_trainers_loop_which_waits_for_slow_batches(mesh, monkeypatch):
    def slow():
        while True:
            time.sleep(0.02)
            yield {}

    seen, ran = [], loop.run
    monkeypatch.setattr(
        loop, "run", lambda *_, **given: seen.append(given) or ran(*_, **given)
    )

    def train_step(state, batch, key):
        return SimpleNamespace(step=state.step + 1), {"training_loss": np.zeros(())}

    program = SimpleNamespace(train_step=train_step, key=None, mesh=mesh)
    sizes = {"batch_size": 8, "data_size": 80, "total_steps": 3}
    state = SimpleNamespace(step=7)
    with contextlib.closing(slow()) as batches:
        state, seconds, wait = profile._loop(state, program, batches, 5, sizes)
    assert len(seen) == 1
    assert state.step == 7 + 1 + 5
    assert seconds >= wait >= 0.02
    assert wait > 0.8 * seconds  # nothing else takes time here
