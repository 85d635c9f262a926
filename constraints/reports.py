"""What pip would install for this project: its report, read without installing anything."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class Unresolved(Exception):
    """No versions fit together; the message is pip's."""


def canonical(name: str) -> str:
    """The spelling of a package's name under which all its spellings are equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_versions(report: dict[str, Any]) -> dict[str, str]:
    """Version by name, as the packages spell themselves."""
    found = (item["metadata"] for item in report["install"])
    # A local build (2.13.0+cpu) is of the same version; an index need not have it.
    return {data["name"]: data["version"].split("+")[0] for data in found}


def parse_reason(errors: str) -> str:
    """What pip gives as its reason, in one line."""
    lines = [line.strip() for line in errors.strip().splitlines()]
    # Of a conflict, the lines after this one name the packages; the errors do not.
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
    """Versions that pip chooses for the project in this folder with these extras.

    Nothing is installed; what is installed already has no say.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        # Not --quiet, which withholds what a conflict is caused by.
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
    """The file of constraints of this Python; None where there is no such Python."""
    if shutil.which(python) is None:
        return None
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True)
    # A version manager has commands for Pythons that it has not installed.
    return (
        Path(f"constraints/python{ran.stdout.strip()}.txt")
        if ran.returncode == 0
        else None
    )
