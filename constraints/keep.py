"""Print a file of constraints, with the installed torch in place of the pinned one.

    python -m constraints.keep constraints/python3.13.txt > .venv/constraints.txt

A torch for CUDA is large, and one for the CPU is enough for the tests, so an installed
torch stays.
"""

import importlib.metadata
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

# Packages whose versions must match torch's, and torch.
FAMILY = ("torch", "torchvision", "triton")


def find_family() -> dict[str, str]:
    """Return the installed versions of torch and its family, by name."""
    found = importlib.metadata.distributions()
    versions = {dist.metadata["Name"]: dist.version for dist in found}
    return {name: versions[name] for name in FAMILY if name in versions}


def keep(lines: Collection[str], installed: Mapping[str, str]) -> list[str]:
    """Return the constraints, with an installed torch and its family as they are."""
    if "torch" not in installed:
        return list(lines)
    # The pinned torchvision fits the pinned torch only; pip finds the one for another.
    # A torch for CUDA has installed its triton; one for the CPU needs none.
    replaced = set(installed)
    if f"torch=={installed['torch'].split('+')[0]}" not in lines:
        replaced.add("torchvision")
    others = [line for line in lines if line.split("==")[0] not in replaced]
    return others + [f"{name}=={version}" for name, version in installed.items()]


if __name__ == "__main__":
    print("\n".join(keep(Path(sys.argv[1]).read_text().splitlines(), find_family())))
