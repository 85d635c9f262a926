"""Print a file of constraints, with the installed torch in place of the pinned one.

    python -m constraints.keep constraints/python3.13.txt > .venv/constraints.txt

A torch for CUDA is large, and one for the CPU serves the tests: whoever has installed
theirs keeps it.
"""

import importlib.metadata
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

# Packages whose versions must match torch's, and torch.
FAMILY = ("torch", "torchvision", "triton")


def find_family() -> dict[str, str]:
    """The installed versions of torch and of what belongs to it, by name."""
    found = importlib.metadata.distributions()
    versions = {dist.metadata["Name"]: dist.version for dist in found}
    return {name: versions[name] for name in FAMILY if name in versions}


def keep(lines: Collection[str], installed: Mapping[str, str]) -> list[str]:
    """The constraints, with an installed torch and what belongs to it as they are."""
    if "torch" not in installed:
        return list(lines)
    # The pinned torchvision is made for the pinned torch: beside another, pip finds the one
    # that fits. A torch for CUDA has brought its triton; one for the CPU asks for none.
    replaced = set(installed)
    if f"torch=={installed['torch'].split('+')[0]}" not in lines:
        replaced.add("torchvision")
    others = [line for line in lines if line.split("==")[0] not in replaced]
    return others + [f"{name}=={version}" for name, version in installed.items()]


if __name__ == "__main__":
    print("\n".join(keep(Path(sys.argv[1]).read_text().splitlines(), find_family())))
