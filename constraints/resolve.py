"""Asks pip whether everything resolves together, for each Python and accelerator.

    python -m constraints.resolve python3.11 python3.13

It needs the network, takes a minute for each line, and installs nothing.
"""

import sys
from collections.abc import Mapping

from constraints.reports import Unresolved, find_file, resolve

# What quickstart installs, what the tests install, and the tests beside each accelerator.
EXTRAS = ("", "dev,parity", "dev,parity,cuda12", "dev,parity,cuda13", "dev,parity,tpu")
SHOWN = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "torch")


def format_versions(versions: Mapping[str, str]) -> str:
    """The packages that an accelerator depends on."""
    return ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)


def main(pythons: list[str]) -> int:
    """Print one line for each Python and extra; the number of those that do not resolve."""
    failed, found = 0, False
    for python in pythons:
        path = find_file(python)
        if path is None:
            print(f"{python} is not on this machine")
            continue
        found = True
        for extras in EXTRAS:
            try:
                answer = format_versions(resolve(python, extras, path)) + ": ok"
            except Unresolved as reason:
                answer = f"FAILED: {reason}"
                failed += 1
            print(f"{python} [{extras}] {answer}", flush=True)
    return failed if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
