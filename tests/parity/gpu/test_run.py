"""Jobs end when the time is up, and one that fails leaves the others alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jaxlib import xla_client

from parity.gpu import __main__ as gpu
from parity.gpu import jobs, kernels, run
from parity.gpu.jobs import RATE, Job


class Clock:
    """A clock that only jobs move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def ran(groups, seconds, costs, out, results=None):
    """Return the rows, and the seconds that each job was given."""
    clock, given = Clock(), {}

    def perform(job, seconds, out):
        given[job.name] = seconds
        clock.now += min(costs[job.name], seconds)
        return (results or {}).get(job.name, {})

    rows = list(run.run(groups, 100.0 + seconds, out, perform, clock))
    return rows, given


def job(name, **kw):
    return Job(name, kw.pop("kind", "speed"), ("x", "--json="), **kw)


def test_what_no_longer_fits_is_skipped_and_shorter_jobs_follow(tmp_path):
    groups = [[job("a")], [job("b", least=60)], [job("c", most=20)], [job("d")]]
    costs = {"a": 60, "c": 99, "d": 99}
    rows, given = ran(groups, 120, costs, tmp_path)
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert [row.get("skipped") for row in rows] == [None, "no time left", None, None]
    assert [row["seconds"] for row in rows] == [60, 0, 20, 35]
    assert given == {"a": 120 - run.MARGIN, "c": 20, "d": 40 - run.MARGIN}


def test_the_fastest_of_the_earlier_groups_is_traced(tmp_path, monkeypatch):
    names = ("vitjax S/16 x", "vitjax S/16 y", "vitjax B/16", "timm z", "later")
    groups = [[job(n)] for n in names[:4]]
    groups += [[jobs.TRACE], [job("later")]]
    rates = dict(zip(names, (5, 7, 9, 11, 99), strict=True))
    commands = []

    def perform(job, seconds, out):
        commands.append(job.command)
        return {"traced steps": 2} if job.kind == "trace" else {RATE: rates[job.name]}

    monkeypatch.setattr(kernels, "read", lambda folder: str(folder))
    summary = kernels.Summary(3.0, 0.5, (kernels.Row("k", "fusions", 1, 3.0, 1.0),))
    monkeypatch.setattr(kernels, "summarise", lambda events, steps: summary)
    rows = list(run.run(groups, 1000.0, tmp_path, perform, lambda: 0.0))
    assert rows[4]["of"] == "vitjax S/16 y"
    assert rows[4]["kernels"] == [vars(summary.rows[0])]
    assert commands[4] == ("x", f"--trace={tmp_path / 'trace'}", "--json=")
    [alone] = run.run([[jobs.TRACE]], 1000.0, tmp_path, perform, lambda: 0.0)
    assert alone["skipped"] == "nothing was timed before it"


@pytest.fixture
def module(own, monkeypatch):
    """Return write(text), which makes the module that a job runs."""
    monkeypatch.setenv("PYTHONPATH", ".")
    return lambda text: own("job.py", text)


def performed(seconds, tmp_path, kind="speed", **kw):
    return run.perform(Job("a job", kind, ("job", "--json="), **kw), seconds, tmp_path)


@pytest.mark.parametrize("given", [None, *run.FRACTION])
def test_a_timed_job_has_one_share_of_the_memory(monkeypatch, given):
    """JAX reads it for a GPU, and refuses both of its names beside each other."""
    for name in run.FRACTION:
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "0.5")
    found = run.environment(job("timed"))
    share = "0.5" if given else "0.92"
    for name in run.FRACTION:
        monkeypatch.delenv(name, raising=False)
        if name in found:
            monkeypatch.setenv(name, found[name])
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options["memory_fraction"] == float(share)


def test_a_job_is_a_process_whose_result_is_a_file(module, tmp_path):
    module(
        "import json, os, sys\n"
        "names = ('XLA_FLAGS', 'XLA_CLIENT_MEM_FRACTION')\n"
        "found = {'ms/step': 3, 'env': [os.environ.get(n) for n in names]}\n"
        "open(sys.argv[1].removeprefix('--json='), 'w').write(json.dumps(found))\n"
    )
    found = performed(60, tmp_path, xla_flags="--some=flag")
    assert found["ms/step"] == 3
    assert found["env"][0].split()[-1] == "--some=flag"
    assert found["env"][1] == "0.92"


def test_a_job_runs_where_only_its_own_packages_are(monkeypatch):
    """Real annotations and the functions that have them; jaxtyping is a stand-in."""
    missing = (
        "beartype", "hypothesis", "matplotlib", "ml_collections", "sklearn", "tensorflow",
        "tensorflow_datasets", "typeguard", "wandb",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "jaxtyping", None)  # as if it were not installed
    env = run.environment(job("a job"))
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
        "import importlib, jaxtyping\n"
        "assert 'stand_ins' in jaxtyping.__file__, jaxtyping.__file__\n"
        "for name in ('accuracy', 'memory', 'repeat', 'timm_speed'):\n"
        "    importlib.import_module(f'parity.gpu.{name}')\n"
        "from vitjax.benchmark import main\n"
        "sys.exit(main(['--model=mu/16', '--batch_size=4', '--image_size=32',"
        " '--steps=1']))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True
    )
    assert "img/s per device" in done.stdout, done.stderr


def test_a_stand_in_never_hides_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert run.environment(job("a job"))["PYTHONPATH"] == "mine"
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    found = run.environment(job("a job"))["PYTHONPATH"]
    assert found == f"mine{os.pathsep}{run.STAND_INS}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print('once')\nraise SystemExit('it broke')", "status 1: it broke"),
        ("import os\nos.abort()", "status -6: it printed nothing"),
        ("pass", "No such file"),
    ],
)
def test_why_a_job_failed(module, tmp_path, text, reason):
    module(text)
    assert reason in performed(60, tmp_path)["failed"]


def test_a_job_ends_with_all_that_it_started(module, tmp_path):
    """The child would write a file after the job's time."""
    late = tmp_path / "late"
    code = "import sys, time; time.sleep(2); open(sys.argv[1], 'w')"
    module(
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {code!r}, {str(late)!r}])\n"
        "time.sleep(60)\n"
    )
    assert "its time was up" in performed(1.0, tmp_path)["failed"]
    time.sleep(2)
    assert not late.exists()


def test_a_report_of_pytest_is_read(tmp_path):
    text = (
        "def test_good(record_property):\n"
        "    record_property('blocks', '1 <= 2')\n"
        "def test_bad():\n"
        "    assert 1 == 2, 'one is not two'\n"
        "def test_not_here():\n"
        "    import pytest\n"
        "    pytest.skip('needs a GPU')\n"
    )
    (tmp_path / "test_some.py").write_text(text)
    options = ("-c/dev/null", f"--rootdir={tmp_path}", "-p", "no:cacheprovider")
    command = ("pytest", *options, str(tmp_path / "test_some.py"), "--junitxml=")
    found = run.perform(Job("some", "tests", command), 60, tmp_path)
    rows = {row["name"]: row for row in found["tests"]}
    assert {k: r["verdict"] for k, r in rows.items()} == {
        "test_good": "passed", "test_bad": "FAILED", "test_not_here": "skipped",
    }  # fmt: skip
    assert rows["test_good"]["measured"] == {"blocks": "1 <= 2"}
    assert "one is not two" in rows["test_bad"]["message"]
    assert rows["test_not_here"]["message"] == "needs a GPU"


def test_every_job_names_a_program_and_flags_that_exist():
    """Modules that are not pytest are in this project, with these flags."""
    root = Path(__file__).resolve().parents[3]
    groups = [
        *jobs.full("h100", 85e9),
        *jobs.full(None, None),
        *jobs.tiny(),
        [jobs.PROBE],
    ]
    for job in (job for group in groups for job in group if job.command):
        program, *words = job.command
        if program == "pytest":
            assert any((root / word).is_file() for word in words)
            continue
        source = root.joinpath(*program.split(".")).with_suffix(".py").read_text()
        for word in words:
            assert f'"{word.partition("=")[0]}"' in source, (program, word)


@pytest.mark.parametrize(
    ("memory", "large", "small"),
    [(84_942_979_072, 1024, 256), (47_697_362_944, 256, 64), (None, 256, 64)],
)
def test_the_jobs_are_what_is_asked_for(memory, large, small):
    """Each precision, each attention that takes it, both batch sizes, timm beside."""
    groups = jobs.full("h100", memory)
    names = [job.name for group in groups for job in group]
    assert len(set(names)) == len(names)
    for batch_size in (large, small):
        for precision in ("float32", "tf32", "bfloat16"):
            for impl in ("flax", "xla"):
                assert f"vitjax S/16 {precision} {impl}, batch {batch_size}" in names
        assert f"vitjax S/16 bfloat16 cudnn, batch {batch_size}" in names
    for model in ("small", "base"):
        assert any(f"timm vit_{model}" in n and "torch.compile" in n for n in names)
    for job in (job for group in groups for job in group):
        for word in job.command:
            if word.startswith("--batch_size="):
                assert int(word.partition("=")[2]) <= large


def test_the_most_wanted_jobs_come_first():
    """What makes the README's table: each speed beside timm's, and the tests."""
    groups = jobs.full("h100", 85e9)
    wanted = [
        "S/16 bfloat16 cudnn, batch 1024", "S/16 bfloat16_all cudnn, batch 1024",
        "small_patch16_224 bfloat16 torch.compile default, batch 1024", "accuracy of",
        "pallas", "trace", "S/16 tf32", "B/16", "base_patch16_224", "S/16 float32",
        "S/16 bfloat16 cudnn, batch 256", "small_patch16_224 bfloat16 torch.compile",
        "triton", "randaug",
    ]  # fmt: skip
    for text, group in zip(wanted, groups, strict=False):
        assert any(text in job.name for job in group), text


def test_the_plan_is_of_the_first_timed_step():
    """The two figures are of one model, batch and attention."""
    [[timed], *groups] = jobs.full("h100", 85e9)
    [plan] = [job for group in groups for job in group if job.kind == "memory"]
    assert plan.name == f"memory of {timed.name}"
    same = [w for w in plan.command if w.startswith("--batch_size")]
    assert same == [w for w in timed.command if w.startswith("--batch_size")]


def test_jobs_are_chosen_by_a_part_of_their_names():
    found = gpu.chosen(jobs.full(None, None), "S/16 tf32")
    assert len(found) == 4
    assert all("S/16 tf32" in job.name for group in found for job in group)
    assert gpu.chosen(jobs.full(None, None), "no such") == []


def test_without_a_gpu_only_tiny_runs(tmp_path, capsys, monkeypatch):
    about = {"platform": "cpu", "device": "a cpu", "chip": None, "memory": None}

    def rows(groups, end, out):
        for group in groups:
            for job in group:
                row = {"name": job.name, "kind": job.kind, "seconds": 1.0}
                if job.kind == "probe":
                    row |= about
                if job.kind == "tests":
                    row["tests"] = [
                        {
                            "name": "t",
                            "verdict": "FAILED",
                            "message": "",
                            "measured": {},
                        }
                    ]
                yield row

    monkeypatch.setattr(run, "run", rows)
    assert gpu.main([f"--out={tmp_path}"]) == 2
    assert "JAX sees no GPU, only cpu" in capsys.readouterr().err
    assert gpu.main([f"--out={tmp_path}", "--tiny", "--only=accuracy"]) == 1
    out = capsys.readouterr().out
    assert "No GPU: JAX sees only cpu" in out
    assert "2 FAILED" in out
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["about"]["device"] == "a cpu"
    assert len(report["rows"]) == 2
    assert "| t | FAILED |" in (tmp_path / "gpu.md").read_text()
    assert gpu.main([f"--out={tmp_path}", "--tiny", "--only=nothing"]) == 2
    assert "no job has 'nothing'" in capsys.readouterr().err


def test_the_parent_starts_no_library():
    """Its memory and its devices belong to the jobs."""
    code = "import sys, parity.gpu.__main__\nassert not {'jax', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
