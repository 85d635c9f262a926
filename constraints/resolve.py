"""Ask pip whether all dependencies resolve, for each Python and accelerator.

    python -m constraints.resolve python3.11 python3.13

It needs the network, takes a minute for each line, and installs nothing.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from constraints.reports import Unresolved, for_each, resolve

# For quickstart, for the tests, and for the tests with each accelerator.
EXTRAS = (
    "", "dev,parity", "dev,parity,cuda12", "dev,parity,cuda13", "dev,parity,tpu",
    "dev,parity,aot_cuda,aot_tpu",
)  # fmt: skip
SHOWN = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "torch")


def format_versions(versions: Mapping[str, str]) -> str:
    """Return the versions of the packages that depend on the accelerator."""
    return ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)


def try_all(python: str, path: Path) -> int:
    """Print a line for each choice of extras; return the number of failures."""
    failed = 0
    for extras in EXTRAS:
        try:
            answer = format_versions(resolve(python, extras, path)) + ": ok"
        except Unresolved as reason:
            answer = f"FAILED: {reason}"
            failed += 1
        print(f"{python} [{extras}] {answer}", flush=True)
    return failed


def main(pythons: list[str]) -> int:
    """Try each Python that is found; return the number of failures."""
    return for_each(pythons, try_all)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
