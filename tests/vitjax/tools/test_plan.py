"""python -m vitjax.tools.plan: the cost of a run, without running it."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import pytest
from PIL import Image

from tests.helpers.runs import ROOT, SMALL
from vitjax import trees
from vitjax.config import experiment
from vitjax.config.files import load
from vitjax.devices import chips
from vitjax.tools import command, plan, plan_cost, plan_steps
from vitjax.tools.trained import open_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Figures of the small quickstart, and the tables' text.

    It is a process, because the number of devices is set before JAX starts.
    """
    folder = tmp_path_factory.mktemp("plan")
    command = [
        sys.executable, "-m", "vitjax.tools.plan", *SMALL, "--config.model.depth=3",
        "--devices=2", "--accum_freq", "1", "2", "3", "--remat_policy", "none",
        "nothing_saveable", "--img_per_sec=5000", "--memory_gib=100", "--eval",
        f"--out={folder}", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "lr.png") as picture:
        assert picture.width > 700
    return json.loads(done.stdout), done.stderr


def test_steps_and_parameters_are_those_of_the_run(figures, digits_run):
    found, text = figures
    assert found["examples"] == 1438
    assert found["total_steps"] == round(100 * 1438 / 64)
    assert found["epochs"] == pytest.approx(100, abs=0.05)
    params = open_trained(digits_run).params  # of depth 1
    block = trees.count(params["Transformer"]["encoderblock_0"])
    assert found["parameters"] == trees.count(params) + 2 * block
    assert found["trainable parameters"] == found["parameters"]
    assert found["lr"]["most"] == pytest.approx(0.003, rel=1e-3)
    assert 0 < found["lr"]["last"] < 1e-6
    assert "| total_steps | 2,247 |" in text


def test_json_stands_alone_on_stdout(capsys, monkeypatch):
    def planned(*_):
        plan.say("a table")
        return {"hours": math.nan, "steps": 3}

    monkeypatch.setattr(plan, "plan", planned)
    assert plan.main(SMALL) == 0
    assert capsys.readouterr().out == "a table\n"
    assert plan.main([*SMALL, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"hours": None, "steps": 3}
    assert printed.err.endswith("a table\n")


def test_operations_and_hours_by_hand(figures):
    found, _ = figures
    n, d, f, k = 16, 16, 32, 10  # patches of 2 x 2 pixels, width, mlp_dim, classes
    block = 4 * n * d * d + 2 * n * d * f + 2 * n * n * d
    products = n * 4 * d + 3 * block + d * k
    assert found["FLOPs per image"] == 3 * 2 * products
    images = found["total_steps"] * 64
    assert found["FLOPs per run"] == found["FLOPs per image"] * images
    seconds = images / 5000
    assert found["hours"] * 3600 == pytest.approx(seconds)
    # An image of 8 x 8 bytes, and a label of 8.
    bytes_per_second = images / seconds * (64 + 8)
    assert found["MB/s to the devices"] == pytest.approx(bytes_per_second / 1e6)
    assert found["MB/s from the disk"] == 0


def test_memory_falls_with_accumulation_and_remat(figures):
    found, text = figures
    rows = {(r["accum_freq"], r["remat_policy"]): r for r in found["steps"]}
    # 3 does not divide 64 rows on two devices.
    assert rows.keys() == {(a, r) for a in (1, 2) for r in ("none", "nothing_saveable")}
    # Parameters and two moments, in float32.
    state = 3 * 4 * found["parameters"] / 2**30
    for row in rows.values():
        assert row["state GiB"] == pytest.approx(state, rel=0.01)
        assert row["memory GiB"] > row["state GiB"]
    once, twice = rows[1, "none"], rows[2, "none"]
    assert state < twice["memory GiB"] < once["memory GiB"]
    assert rows[1, "nothing_saveable"]["memory GiB"] < once["memory GiB"]
    assert found["upper bound"]
    assert 0 < found["evaluation"]["memory GiB"] < once["memory GiB"]
    assert found["suggested accum_freq"] == 1
    assert "accum_freq=1 with remat_policy='none' fits 100.0 GiB" in text


def outline(config, data_dir, *overrides, examples=None):
    overrides = [f"input.data.data_dir={data_dir}", *overrides]
    loaded = load(str(ROOT / "configs" / config), overrides)
    e = experiment.from_config(loaded.to_dict())
    return e, plan.outline(e, examples, None)


def test_the_flagship_is_outlined_without_imagenet(tmp_path):
    e, found = outline("vit_s16_i1k.py:preset=fixed", tmp_path)
    assert found.examples == 1_281_167
    assert {k: (s, str(d)) for k, (s, d) in found.element_spec.items()} == {
        "image": ((224, 224, 3), "uint8"),
        "label": ((), "int64"),
    }
    assert outline("vit_s16_i1k.py", tmp_path, examples=77)[1].examples == 77
    total, parts = plan_cost.host_bytes(e, found, 1024 * 224 * 224 * 3)
    # 8 bytes a place, and 2 + 2 batches made ahead.
    assert parts["places of examples"] == 8 * found.examples
    assert parts["4 batches ahead"] == 4 * 1024 * 150_528
    assert total == sum(parts.values())


def test_the_first_plan_that_fits_is_suggested():
    sizes = [(1, "none", 40.0), (2, "none", 21.0), (1, "dots", 20.0), (2, "dots", 10.0)]
    keys = ("accum_freq", "remat_policy", "memory GiB")
    rows = [dict(zip(keys, values, strict=True)) for values in sizes]
    for limit, best in ((40.0, 0), (30.0, 1), (20.0, 2)):
        assert plan_steps.suggestion(rows, limit, "")[1] is rows[best]
    text, best = plan_steps.suggestion(rows, 9.0, "use less")
    assert best is None
    assert "fits 9.0 GiB" in text
    assert text.endswith("(the smallest takes 10.0): use less")


def test_the_advice_leaves_out_what_is_done():
    e = experiment.from_config(load(str(ROOT / "configs" / "vit_s16_i1k.py")).to_dict())
    said = plan_steps.advice(e)
    for way in ("more chips", "fsdp", "nothing_saveable", "bfloat16", "smaller model"):
        assert way in said
    done = dataclasses.replace(
        e,
        model={**e.model, "remat_policy": "nothing_saveable", "dtype_mm": "bfloat16"},
        sharding_strategy=[(".*", "fsdp('data')")],
    )
    assert plan_steps.advice(done) == "use more chips, or a smaller model"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        # 64 images a step, on three and on sixteen devices.
        (["--devices=3"], "a batch of 64 does not divide over 3 devices"),
        (["--devices=2", "--accum_freq", "5"], "no accum_freq of 5 divides a batch"),
        (["--chip=h100x16"], "expected 1 to 8 GPUs, those of one host"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(argv, told, capsys, monkeypatch):
    place = plan_cost.Place([jax.devices()[0]] * int(argv[0][-1]), None, None, "CPUs")
    monkeypatch.setattr(plan_cost, "place", lambda target: place)
    flags, overrides = plan.parse_flags([*SMALL, *argv])
    flags.devices = None  # this process has its devices
    assert command.run(lambda: plan._work(flags, overrides)) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_the_chip_is_named_and_its_extra_too(capsys, monkeypatch):
    """Without the extra, the CPU's plan is shown, as the upper bound that it is."""
    assert plan.main([*SMALL, "--chip=h101"]) == 1
    error = capsys.readouterr().err
    assert "unknown chip 'h101'; did you mean 'h100'?" in error
    assert len(error.splitlines()) == 1
    monkeypatch.setattr(chips, "missing", lambda target: f"install it for {target}")
    assert plan.main([*SMALL, "--chip=v5e:2x4", "--config.model.depth=1"]) == 0
    printed = capsys.readouterr()
    assert "install it for v5e:2x4" in printed.err
    assert "fits 15.8 GiB" in printed.out


@pytest.mark.aot
def test_a_step_is_planned_for_absent_gpus(absent, capsys):
    """Memory, traffic and collectives of two H100s, and of accumulation there."""
    absent("h100x2")
    wanted = ["--chip=h100x2", "--accum_freq", "1", "2", "--kernels=3", "--json"]
    assert plan.main([*SMALL, *wanted, "--eval"]) == 0
    found = json.loads(capsys.readouterr().out)
    forward = found["evaluation"]
    assert forward["fits"]
    assert not forward["collectives"]
    assert 0 < forward["TFLOP"] < found["steps"][0]["TFLOP"]
    for row in found["steps"]:
        assert row["fits"]
        assert row["collectives"]["all-reduce"]["number"] >= 1
        # The sum of the parameters' gradients, once a step, and a loss.
        sent = row["collectives"]["all-reduce"]["MB"] * 1e6
        assert sent == pytest.approx(4 * (found["parameters"] + 1), rel=0.01)
        assert sum(p["bytes"] for p in row["parts"]) == pytest.approx(
            row["traffic GB"] * 1e9
        )


@pytest.mark.aot
@pytest.mark.parametrize("config", ["fmnist_vit.py", "nanovit.py", "towervit.py"])
def test_models_of_other_authors_are_planned_too(config, absent, capsys):
    absent("h100")
    assert (
        plan.main([f"--config={ROOT}/configs/{config}", "--chip=h100", "--json"]) == 0
    )
    [row] = json.loads(capsys.readouterr().out)["steps"]
    assert row["fits"]
    assert row["TFLOP"] > 0


@pytest.mark.aot
def test_a_model_that_is_too_large_is_one_sentence(absent, capsys):
    """Its table and figures say so of the memory that was asked for."""
    absent("h100")
    argv = [*SMALL, "--chip=h100", "--config.model.depth=1", "--memory_gib=1e-4"]
    assert plan.main(argv) == 1
    printed = capsys.readouterr()
    assert "too much" in printed.out
    [error] = printed.err.splitlines()
    assert "no plan fits 0.0 GiB" in error
    assert plan.main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["suggested accum_freq"] is None
    assert not any(row["fits"] for row in found["steps"])


@pytest.mark.aot
def test_fsdp_is_planned_for_absent_gpus(absent, capsys):
    """Each of two GPUs keeps half of the state and gathers the parameters."""
    absent("h100x2")
    fsdp = "--config.sharding_strategy=[('.*','fsdp(\"data\",0)')]"
    found = []
    for argv in ([], [fsdp]):
        assert plan.main([*SMALL, "--chip=h100x2", "--json", *argv]) == 0
        [row] = json.loads(capsys.readouterr().out)["steps"]
        found.append(row)
    whole, split = found
    assert split["state GiB"] == pytest.approx(whole["state GiB"] / 2, rel=0.05)
    assert "all-gather" not in whole["collectives"]
    assert split["collectives"]["all-gather"]["number"] >= 1


@pytest.mark.aot
def test_a_cpus_plan_is_an_upper_bound(absent, capsys, monkeypatch):
    """Without the extra, the CPU's plan takes its place; it needs more memory.

    So it is where activations decide. cuBLAS takes 32 MB of a GPU besides.
    """
    absent("h100x8")
    flagship = [
        f"--config={ROOT}/configs/vit_s16_i1k.py:variant=Ti/16,batch=512",
        "--chip=h100x8", "--accum_freq=1", "--config.model.depth=2", "--json",
    ]  # fmt: skip
    assert plan.main(flagship) == 0
    compiled = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(chips, "missing", lambda target: "install it")
    assert plan.main(flagship) == 0
    bound = json.loads(capsys.readouterr().out)
    assert not compiled["upper bound"]
    assert bound["upper bound"]
    [at_most], [planned] = bound["steps"], compiled["steps"]
    assert at_most["state GiB"] == pytest.approx(planned["state GiB"])
    assert at_most["memory GiB"] > planned["memory GiB"]


def test_a_folder_is_counted_as_training_reads_it(tmp_path):
    for path in ("ant/1.jpg", "ant/day 1/2.PNG", "bee/3.tif", "__MACOSX/x/4.jpg"):
        file = tmp_path / "train" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    (tmp_path / "test" / "unknown").mkdir(parents=True)
    _, found = outline("transfer.py", tmp_path, "input.batch_size=2")
    assert found.examples == 3
    assert found.bytes_per_example == 5
