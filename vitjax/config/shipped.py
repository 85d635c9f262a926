"""Find the config files and the package parity, which a wheel keeps inside vitjax."""

import os
import re
from pathlib import Path

from vitjax.config import arguments


def root() -> Path:
    """Return the folder with `configs` and `parity`: the checkout, or vitjax/shipped.

    setup.py puts them into vitjax/shipped, because other projects have packages of
    these names too.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


def configs() -> dict[str, Path]:
    """Return the shipped config files by name, in alphabetical order."""
    files = sorted((root() / "configs").glob("*.py"))
    # The other modules are helpers of config files.
    return {f.stem: f for f in files if "\ndef get_config(" in f.read_text("utf-8")}


def find(path: Path) -> Path:
    """Return the config file that a command line names.

    "vit_s16_i1k", "vit_s16_i1k.py" and "configs/vit_s16_i1k.py" name one file: that of
    the current folder, or of its folder `configs`, or else the shipped one. Raises
    ValueError if there is none.
    """
    file = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    nearby = (path, file, *([] if path.parent.name else [Path("configs") / file]))
    for place in nearby:
        if os.path.isfile(place):  # False for a name that is too long
            return place
    known = configs()
    if str(path.parent) in (".", "configs") and file.stem in known:
        return known[file.stem]
    if path.is_dir():
        raise ValueError(
            f"config file {str(path)!r} is a folder; give a file, or one of "
            f"{', '.join(known)}"
        )
    hint = arguments.did_you_mean(file.stem, known)
    raise ValueError(
        f"config file {str(path)!r} does not exist{hint}; give a file, or one of "
        f"{', '.join(known)}"
    )


def first_sentence(path: Path) -> str:
    """Return the first line of a Python file's docstring; "" without one."""
    with path.open(encoding="utf-8") as file:
        found = re.match(r'"""(.+?)(?:"""|\n|$)', file.readline())
    return found[1].strip() if found else ""
