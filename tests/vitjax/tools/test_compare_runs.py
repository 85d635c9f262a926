"""Reading the runs of several programs, and the verdicts on their differences."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from vitjax.tools import run_pictures
from vitjax.tools.compare_runs import compare, holm, main, numbers, table, welch
from vitjax.tools.run_files import Curve, Run, curve, read, recipe_of


def write_run(folder, rows):
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    return str(folder)


def training(last_loss, seed, steps=100, accuracy=0.7):
    """Rows as vitjax writes them: a loss each step, an accuracy at the end."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "step": step,
            "training_loss": last_loss + 3 * (1 - step / steps) + 0.01 * rng.normal(),
            "l2_grads": 1 + 0.1 * rng.random(),
            "time/data": 0.1,
        }
        for step in range(1, steps + 1)
    ]
    noise = 0.001 * rng.normal()
    return [*rows, {"step": steps, "val/prec@1": accuracy + noise, "val/loss": 1.0}]


def one(metric, steps, values, recipe="a", name="a_s0"):
    steps, values = np.array(steps), np.array(values, float)
    return Run(recipe, name, {metric: Curve(steps, values)})


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("fixed_s0", "fixed"),
        ("fixed-s12", "fixed"),
        ("fixed_seed1", "fixed"),
        ("fixed-seed=1", "fixed"),
        ("quickstart-preset=fixed,seed=3", "quickstart-preset=fixed"),
        ("vit_s16", "vit_s16"),
        ("vit_s16_s1", "vit_s16"),
        ("bus0", "bus0"),
        ("runs2", "runs2"),
        ("_s1", "_s1"),
    ],
)
def test_a_seed_is_cut_off_the_name(name, recipe):
    assert recipe_of(name) == recipe


def test_vitjaxs_own_rows_are_read(tmp_path):
    folder = write_run(
        tmp_path / "a_s0",
        [
            {"step": 2, "training_loss": 1.5},
            {"step": 1, "training_loss": "nan", "kind": "text"},
            {"step": 2, "val/prec@1": 0.5},
            {"step": 2, "training_loss": 1.25},
        ],
    )
    with (tmp_path / "a_s0/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train')
    for argument in (folder, folder + "/metrics.jsonl"):
        [run] = read([argument])
        assert (run.recipe, run.name) == ("a", "a_s0")
        assert set(run.curves) == {"training_loss", "val/prec@1"}
        assert run.curves["training_loss"].steps.tolist() == [1, 2]
        np.testing.assert_array_equal(
            run.curves["training_loss"].values, [np.nan, 1.25]
        )
    [run] = read([f"mine={folder}"])
    assert (run.recipe, run.name) == ("mine", "a_s0")


def test_wandbs_charts_are_read_and_joined_by_run(tmp_path):
    (tmp_path / "loss.csv").write_text(
        '"Step","run_s0 - train/loss","run_s0 - train/loss__MIN",'
        '"run_s0 - train/loss__MAX","run_s0 - _step","odd - one_s1 - train/loss"\n'
        '"1","3.5","3","4","1",""\n"2","2.5","2","3","2","2.25"\n'
    )
    (tmp_path / "accuracy.csv").write_text("Step,run_s0 - val/acc@1\n2,0.5\n")
    first, second = read([str(tmp_path / n) for n in ("loss.csv", "accuracy.csv")])
    assert (first.recipe, first.name) == ("run", "run_s0")
    assert (second.recipe, second.name) == ("odd - one", "odd - one_s1")
    assert set(first.curves) == {"train/loss", "val/acc@1"}
    assert curve(first, "training_loss").values.tolist() == [3.5, 2.5]
    assert curve(second, "training_loss").steps.tolist() == [2]
    assert curve(first, "val/prec@1").values.tolist() == [0.5]
    assert curve(second, "val/prec@1") is None


def test_tensorboards_and_plain_exports_are_read(tmp_path):
    (tmp_path / "run-a_s1-tag-val_prec_1.csv").write_text(
        "Wall time,Step,Value\n1700000000.5,10,0.25\n1700000001.5,20,0.5\n"
    )
    folder = tmp_path / "b_seed2"
    folder.mkdir()
    (folder / "val_loss.csv").write_text("Wall time,Step,Value\n1.0,5,2.5\n")
    (folder / "metrics.csv").write_text("step,training_loss,lr\n1,2.0,0.1\n2,nan,\n")
    paths = [tmp_path / "run-a_s1-tag-val_prec_1.csv"]
    paths += [folder / "val_loss.csv", folder / "metrics.csv"]
    a, b = read(map(str, paths))
    assert (a.recipe, b.recipe, b.name) == ("a", "b", "b_seed2")
    assert curve(a, "val/prec@1").steps.tolist() == [10, 20]
    assert set(b.curves) == {"val_loss", "training_loss", "lr"}
    assert b.curves["lr"].steps.tolist() == [1]


def test_a_path_that_cannot_be_read_is_named_in_a_sentence(tmp_path):
    write_run(tmp_path / "runs" / "a_s0", training(1, 0))
    (tmp_path / "x.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"loss": 1}\n{"step": 2}\n')
    again = write_run(tmp_path / "else" / "a_s0", training(1, 0))
    for arguments, words in (
        ([tmp_path / "runs"], "no metrics.jsonl; it has the workdirs a_s0"),
        ([tmp_path / "none"], "does not exist; expected a workdir"),
        ([tmp_path / "x.csv"], r"no column 'step', only \['epoch', 'loss'\]"),
        ([tmp_path / "empty.jsonl"], "has no values"),
        ([tmp_path / "bad.jsonl"], "line 1 is not a row"),
        (
            [tmp_path / "runs/a_s0", again],
            "second file with training_loss of a run 'a_s0'",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            read(map(str, arguments))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (8, 4)])
def test_welch_is_scipys(n, m):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), 1 + 3 * rng.normal(size=m)
    found = welch(a, b, 0.1)
    want = stats.ttest_ind(b, a, equal_var=False)
    low, high = want.confidence_interval(0.9)
    assert found.p == pytest.approx(want.pvalue, rel=1e-10)
    assert found.difference == pytest.approx((low + high) / 2)
    assert found.half == pytest.approx((high - low) / 2)


def test_one_run_beside_several_is_a_prediction():
    """It is Student's test with equal variances; scipy's takes a single run too."""
    a, b = [0.3], [1.0, 1.5, 2.25, 1.25]
    want = stats.ttest_ind(b, a, equal_var=True)
    found = welch(a, b, 0.05)
    assert found.p == pytest.approx(want.pvalue, rel=1e-10)
    assert welch(b, a, 0.05).p == pytest.approx(want.pvalue, rel=1e-10)
    assert found.why == "1 run"


def test_without_noise_there_is_no_verdict():
    assert "one run each" in welch([1.0], [2.0], 0.05).why
    assert welch([1.0], [2.0], 0.05).p is None
    assert "all equal" in welch([1.0, 1.0], [2.0, 2.0], 0.05).why
    assert "all equal" in welch([1.0], [2.0, 2.0], 0.05).why
    assert welch([1.0, 1.0], [2.0, 2.5], 0.05).p is not None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_numbers_at_the_last_step_that_all_have():
    a = Curve(np.arange(1, 101), np.arange(1.0, 101))
    b = Curve(np.arange(2, 81, 2), np.arange(2.0, 81, 2) ** 2)
    found, end = numbers([a, b])
    assert end == 80
    assert found["final"].tolist() == [80, 6400]
    steps = np.arange(72, 81)
    assert found["last 10 %"][0] == pytest.approx(76)
    even = steps[::2]
    assert found["last 10 %"][1] == pytest.approx(np.trapezoid(even**2.0, even) / 8)
    few = Curve(np.array([10, 80]), np.array([0.5, 0.75]))
    found, _ = numbers([few, few])
    assert set(found) == {"final"}
    odd = Curve(np.array([1, 7]), np.array([0.5, 0.75]))
    even = Curve(np.array([2, 6]), np.array([1.0, 2.0]))
    assert numbers([odd, even])[0]["final"].tolist() == [0.5, 2.0]


def test_recipes_that_differ_and_recipes_that_do_not(tmp_path):
    runs = []
    for name, loss in (("a", 1.0), ("b", 1.0), ("c", 1.2)):
        for seed in range(3):
            folder = tmp_path / f"{name}_s{seed}"
            rows = training(loss, seed + 10 * ord(name))
            runs.append(write_run(folder, rows))
    lines, notes = compare(read(runs), ["training_loss", "val/prec@1"], 0.05)
    assert notes == []
    _, rows = table(lines, 0.1)  # one p is 0.09, but 0.45 after Holm's correction
    verdicts = {(r[0], r[1][0], r[2][0]): r[-1] for r in rows}
    assert len(verdicts) == 9
    for (what, a, b), verdict in verdicts.items():
        expected = "loss" in what and "c" in (a, b)
        assert verdict == ("differ" if expected else "no difference shown")
    for what, _, b, difference, p, corrected, _ in rows:
        if what == "training loss, last 10 %" and b[0] == "c":
            assert float(difference.split(" ± ")[0]) == pytest.approx(0.2, abs=0.02)
        assert float(p) <= float(corrected) <= 1


def test_a_note_names_everything_that_is_left_out():
    runs = [
        one("training_loss", [1, 2, 3], [1, 2, 3]),
        one("training_loss", [1, 2, 3], [1, np.nan, 3], name="a_s1"),
        one("training_loss", [1, 2], [1, 2], "b", "b_s0"),
        one("training_loss", [1, 2, 3], [1, 2, np.inf], "b", "b_s1"),
        one("l2_grads", [1, 2], [1, 2], "b", "b_s2"),
    ]
    lines, notes = compare(runs, ["training_loss", "val/prec@1"], 0.05)
    assert notes == [
        "training loss: 1 value(s) of a_s1 are not finite",
        "training loss: b_s1 is not finite at its end (step 3); it diverged and is not "
        "among the seeds",
        "training loss: not in b_s2",
        "training loss: runs differ in length (b_s0 ends at step 2, a_s1 at 3); compared "
        "at step 1",
        "validation accuracy: no run has it, so it is not compared",
    ]
    [line] = lines
    assert (line.a, line.b) == ("a", "b")
    assert line.a_values.tolist() == [1, 1]
    late = [one("x", [1, 2], [1, 2]), one("x", [5, 6], [1, 2], "b", "b")]
    lines, notes = compare(late, ["x"], 0.05)
    assert lines == []
    assert any("x: a run begins after step 2" in note for note in notes)


def test_pictures_average_long_curves_and_join_short_ones():
    steps = np.arange(2000)
    noisy = Curve(steps, steps + np.where(steps % 2, 50.0, -50.0))
    sparse = Curve(steps[::100], steps[::100].astype(float))
    grid, values = run_pictures.on_grid([noisy, sparse])
    assert len(grid) <= 2 * run_pictures.BINS
    np.testing.assert_allclose(values[0], grid, atol=6)
    inside = np.isfinite(values[1])
    assert inside.mean() > 0.9
    half = 2000 / run_pictures.BINS / 2  # a lone point moves to the middle of its part
    np.testing.assert_allclose(values[1][inside], grid[inside], atol=half)
    short = [Curve(np.array([1, 3]), np.array([1.0, 3.0]))]
    short.append(Curve(np.array([2, 4]), np.array([0.0, 1.0])))
    grid, values = run_pictures.on_grid(short)
    np.testing.assert_array_equal(grid, [1, 2, 3, 4])
    np.testing.assert_array_equal(values, [[1, 2, 3, np.nan], [np.nan, 0, 0.5, 1]])


def test_the_command_writes_a_page_and_a_picture(tmp_path, capsys):
    runs = [
        write_run(tmp_path / f"{name}_s{seed}", training(loss, seed + shift, steps=450))
        for name, loss, shift in (("a", 1.0, 0), ("b", 1.5, 5))
        for seed in (0, 1)
    ]
    lone = write_run(tmp_path / "lone", training(1.0, 99, steps=300))
    out = tmp_path / "out"
    assert main([*runs, f"other={lone}", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "  a: a_s0, a_s1\n  b: b_s0, b_s1\n  other: lone\n" in printed
    assert re.search(
        r"training loss, last 10 % +a: .* ± .* \(2\) +b: .*differ", printed
    )
    assert "differ (1 run)" in printed
    assert "as noisy as the other recipe's runs" in printed
    assert (
        "note: training loss: runs differ in length (lone ends at step 300" in printed
    )
    page = (out / "runs.md").read_text()
    assert page.count("](runs.png)") == 1
    assert page.count("\n|") == 2 + 12  # 3 pairs of 2 metrics' 2 numbers
    assert "Holm" in page
    assert (out / "runs.png").stat().st_size > 10_000


def test_one_run_each_gives_no_verdict(tmp_path, capsys):
    paths = [write_run(tmp_path / n, training(1.0, 1)) for n in ("a", "b")]
    assert main(paths) == 0
    printed = capsys.readouterr().out
    assert "one run each shows no seed noise; give 2 or more of each" in printed
    assert main(paths[:1]) == 0
    assert "one recipe only; give another" in capsys.readouterr().out
