"""Ask pip which versions it would install for this project; install nothing."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Unresolved(Exception):
    """No versions fit together; the message is pip's."""


def canonical(name: str) -> str:
    """Return the canonical spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_versions(report: dict[str, Any]) -> dict[str, str]:
    """Return versions by name, in the packages' own spelling."""
    found = (item["metadata"] for item in report["install"])
    # A local build (2.13.0+cpu) has the same version; an index may lack it.
    return {data["name"]: data["version"].split("+")[0] for data in found}


def parse_reason(errors: str) -> str:
    """Return the reason for a failure from pip's output, in one line."""
    lines = [line.strip() for line in errors.strip().splitlines()]
    # The lines after this heading name the packages in conflict. ERROR lines do not.
    heading = "The conflict is caused by:"
    if heading in lines:
        after = lines[lines.index(heading) + 1 :]
        return "; ".join(after[: after.index("") if "" in after else None])
    marked = [
        line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")
    ]
    return (marked or lines)[-1] if errors.strip() else "pip gave no reason"


def resolve(
    python: str, extras: str, constraints: Path | None = None
) -> dict[str, str]:
    """Return the versions that pip chooses for the project in this folder.

    Nothing is installed, and installed packages are ignored. Raises Unresolved if no
    versions fit together.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # Not --quiet, which hides the cause of a conflict.
        command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report)]
        command += ["-c", str(constraints)] if constraints else []
        command += [f".[{extras}]" if extras else "."]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise Unresolved(parse_reason(ran.stdout + ran.stderr))
        return parse_versions(json.loads(report.read_text()))


def find_file(python: str) -> Path | None:
    """Return the file of constraints of a Python; None if it is not installed."""
    if shutil.which(python) is None:
        return None
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True)
    # A version manager has commands for Pythons that are not installed.
    return (
        Path(f"constraints/python{ran.stdout.strip()}.txt")
        if ran.returncode == 0
        else None
    )


def for_each(
    pythons: Iterable[str], work: Callable[[str, Path], int], missing: str = ""
) -> int:
    """Return the sum of `work(python, its file)`; 1 if no Python is found.

    A Python that is not found gets a line, with `missing` at its end.
    """
    failed, found = 0, False
    for python in pythons:
        path = find_file(python)
        if path is None:
            print(f"{python} is not installed{missing}")
        else:
            failed, found = failed + work(python, path), True
    return failed if found else 1
