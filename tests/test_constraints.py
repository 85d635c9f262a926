"""Versions: read from pip's reports, kept for an installed torch, asked for by make."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from constraints import keep, reports, resolve, write

ROOT = Path(__file__).resolve().parent.parent
REPORT = {
    "pip_version": "24.2",
    "install": [
        {"metadata": {"name": "vitjax", "version": "0.1.0"}, "is_direct": True},
        {"metadata": {"name": "torch", "version": "2.14.1+cpu"}, "is_direct": False},
        {"metadata": {"name": "nvidia-cublas", "version": "13.1.1.3"}},
        {"metadata": {"name": "cuda-toolkit", "version": "13.0.3.0"}},
        {"metadata": {"name": "tensorflow_cpu", "version": "2.21.0"}},
        {"metadata": {"name": "ImageIO", "version": "2.38.1"}},
    ],
}
CONFLICT = """\
Collecting torch (from vitjax==0.1.0)
ERROR: Cannot install torch and vitjax[dev,parity]==0.1.0 because these conflict.

The conflict is caused by:
    vitjax[dev,parity] 0.1.0 depends on torch
    The user requested (constraint) torch==2.0

To fix this you could try to:
ERROR: ResolutionImpossible: for help visit a page
"""


def test_the_pins_of_a_report():
    pins = write.choose_pins(reports.parse_versions(REPORT))
    text = write.format_pins(pins, "python3.13")
    assert text.splitlines()[1:] == [
        "ImageIO==2.38.1",
        "tensorflow==2.21.0",  # for the platforms without tensorflow-cpu
        "tensorflow_cpu==2.21.0",
        "torch==2.14.1",
    ]
    assert write.parse_pins(text) == pins


def test_the_changes_name_what_is_added_removed_and_of_another_version():
    old = {"a": "1", "B_b": "1", "c": "1"}
    new = {"a": "1", "b-b": "2", "d": "3"}
    assert write.format_changes(old, new) == ["b-b 1 -> 2", "c 1 removed", "d 3 added"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a folder with an empty constraints/ the current one."""
    (tmp_path / "constraints").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_of_the_pythons_that_are_found_are_written(
    place, monkeypatch, capsys
):
    path = place / "constraints" / "python{}.{}.txt".format(*sys.version_info[:2])
    path.write_text("# Old.\ntorch==2.13.0\nsix==1\n")
    versions = {"torch": "2.14.1", "nvidia-cublas": "13"}
    monkeypatch.setattr(write, "resolve", lambda python, extras: versions)
    assert write.main([sys.executable, "no-such-python"]) == 0
    assert write.parse_pins(path.read_text()) == {"torch": "2.14.1"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert capsys.readouterr().out.splitlines() == [
        f"constraints/{path.name}: 2 changes",
        "  six 1 removed",
        "  torch 2.13.0 -> 2.14.1",
        "no-such-python is not installed: its file is unchanged",
    ]
    before = path.read_text().replace("# Written", "# Tested, written")
    path.write_text(before)
    write.main([sys.executable])
    assert path.read_text() == before  # nothing changed, so not even the first line


def test_a_file_stays_where_pip_finds_no_versions(place, monkeypatch, capsys):
    def fail(python, extras):
        raise reports.Unresolved("no torch")

    monkeypatch.setattr(write, "resolve", fail)
    assert write.main([sys.executable]) == 1
    assert not any((place / "constraints").iterdir())
    reason = "unchanged, because pip finds no versions: no torch"
    assert reason in capsys.readouterr().out


def test_the_reason_of_a_conflict_names_the_packages():
    assert reports.parse_reason(CONFLICT) == (
        "vitjax[dev,parity] 0.1.0 depends on torch; "
        "The user requested (constraint) torch==2.0"
    )
    one = "WARNING: old\nERROR: Package 'vitjax' requires a different Python\nnotice\n"
    assert reports.parse_reason(one) == "Package 'vitjax' requires a different Python"
    assert (
        reports.parse_reason("Traceback\nNo module named pip\n")
        == "No module named pip"
    )
    assert reports.parse_reason("") == "pip gave no reason"


def test_what_does_not_resolve_is_counted_and_named(monkeypatch, capsys):
    def answer(python, extras, path):
        if "cuda12" in extras:
            raise reports.Unresolved("a clash")
        return {"jax": "1", "six": "2", "torch": "3"}

    monkeypatch.setattr(resolve, "resolve", answer)
    assert resolve.main([sys.executable]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(resolve.EXTRAS)
    assert f"{sys.executable} [dev,parity,cuda12] FAILED: a clash" in lines
    assert f"{sys.executable} [dev,parity,tpu] jax 1, torch 3: ok" in lines


LINES = ["# Pins", "jax==1", "torch==2.13.0", "torchvision==0.28.0", "triton==3.7.1"]


def test_without_a_torch_the_pins_stand():
    assert keep.keep(LINES, {}) == LINES
    assert keep.keep(LINES, {"triton": "3.0"}) == LINES


def test_a_torch_that_is_installed_stays():
    cpu = {"torch": "2.12.0+cpu", "torchvision": "0.27.0+cpu"}
    rest = ["# Pins", "jax==1"]
    assert keep.keep(LINES, cpu) == [
        *rest,
        "triton==3.7.1",
        "torch==2.12.0+cpu",
        "torchvision==0.27.0+cpu",
    ]
    # The pinned torchvision needs the pinned torch, so it is not a constraint.
    cuda = {"torch": "2.12.0", "triton": "3.7.0"}
    assert keep.keep(LINES, cuda) == [*rest, "torch==2.12.0", "triton==3.7.0"]
    pinned = {"torch": "2.13.0+cpu"}
    fits = [*rest, "torchvision==0.28.0", "triton==3.7.1", "torch==2.13.0+cpu"]
    assert keep.keep(LINES, pinned) == fits


def test_the_installed_torch_is_found(tmp_path, monkeypatch):
    for name, version in [("torch", "2.12.0+cpu"), ("six", "1")]:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert keep.find_family() == {"torch": "2.12.0+cpu"}


def test_the_scripts_need_nothing_installed():
    for path in (ROOT / "constraints").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += (
                [a.name for a in node.names] if isinstance(node, ast.Import) else []
            )
            tops = {name.split(".")[0] for name in names}
            assert tops <= sys.stdlib_module_names | {"constraints"}, path


@pytest.fixture
def checkout(tmp_path):
    """The files that make needs for installing."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    return tmp_path


def _make(checkout, *arguments):
    # Without the settings of a make around this one.
    told = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS")
    told += ("PYTHON", "PYTHONS", "EXTRAS", "VENV", "OS")
    environment = {k: v for k, v in os.environ.items() if k not in told}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True
    )


def _stand_in(folder, version):
    """Make a Python that only prints its version; anything else leaves a folder behind."""
    path = folder / f"python-{version}"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then echo {version}; else mkdir made; exit 1; fi\n'
    )
    path.chmod(0o755)
    return path


def _refusal(checkout, *arguments):
    """Return the one line that make prints; it must make nothing."""
    before = sorted(checkout.rglob("*"))
    ran = _make(checkout, *arguments)
    assert ran.returncode != 0
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert sorted(checkout.rglob("*")) == before
    return line


TARGETS = ["quickstart", "test", "soak", "lint", "format", "bench"]


@pytest.mark.parametrize(
    ("version", "target"), [("3.14", "test"), *(("3.10", name) for name in TARGETS)]
)
def test_an_unsupported_python_is_refused_with_what_to_do(checkout, version, target):
    python = _stand_in(checkout, version)
    line = _refusal(checkout, target, f"PYTHON={python}")
    assert (
        f"needs Python 3.11, 3.12 or 3.13 and got {python} of version {version}" in line
    )
    assert f"`make {target} PYTHON=python3.13`" in line


def test_a_missing_python_and_windows_are_refused(checkout):
    line = _refusal(checkout, "test", "PYTHON=no-such-python")
    assert "got no-such-python, which does not run" in line
    line = _refusal(checkout, "bench", "OS=Windows_NT")
    assert "got Windows: run `make bench` in WSL" in line


def test_a_venv_of_another_python_is_not_overwritten(checkout):
    (checkout / ".venv" / "lib" / "python3.12").mkdir(parents=True)
    line = _refusal(checkout, "test", f"PYTHON={_stand_in(checkout, '3.13')}")
    assert ".venv holds Python 3.12" in line
    assert "`make clean VENV=.venv`" in line


def test_a_supported_python_installs_with_its_constraints(checkout):
    version = "3.12"
    python = _stand_in(checkout, version)
    ran = _make(checkout, "-n", "test", f"PYTHON={python}", "EXTRAS=tpu")
    said, venv, kept, pip, *_ = ran.stdout.splitlines()
    assert said.startswith("echo ")
    assert "about 3 GB" in said
    assert "a torch that is already in .venv stays" in said
    assert f"{python} -m venv .venv" in venv
    assert kept.endswith(
        f"keep constraints/python{version}.txt > .venv/constraints.txt"
    )
    assert pip.endswith('-c .venv/constraints.txt -e ".[dev,parity,tpu]"')
    quick = _make(checkout, "-n", "quickstart", f"PYTHON={python}").stdout
    assert "3 GB" not in quick
    assert '-e "."' in quick


def test_the_python_of_a_venv_is_taken_again(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "lib" / "python3.13").mkdir(parents=True)
    _stand_in(checkout, "3.13").rename(checkout / ".venv" / "bin" / "python")
    ran = _make(checkout, "-n", "test")
    assert "constraints/python3.13.txt" in ran.stdout
