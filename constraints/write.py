"""Write constraints/pythonX.Y.txt with the newest versions, and print what changed.

    python -m constraints.write python3.12 python3.13

Run it on Linux on x86-64: torch's triton and tensorflow-cpu are found only there.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from constraints.reports import Unresolved, canonical, for_each, resolve

# Everything but the accelerators: jax names the exact packages of each of those itself.
EXTRAS = "dev,parity,transformers,huggingface"


def choose_pins(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions to pin, by name."""
    # torch and jax each name the CUDA libraries that they need, which may differ.
    ours = ("vitjax", "nvidia-", "cuda-")
    pins = {n: v for n, v in versions.items() if not canonical(n).startswith(ours)}
    for name, version in versions.items():
        # The same release has this name on other machines.
        if canonical(name) == "tensorflow-cpu":
            pins["tensorflow"] = version
    return pins


def parse_pins(text: str) -> dict[str, str]:
    """Return the versions in a file of constraints, by name."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: version for name, version in (line.split("==") for line in lines)}


def format_pins(pins: Mapping[str, str], python: str) -> str:
    """Return the text of a file of constraints."""
    lines = sorted(
        (f"{name}=={version}" for name, version in pins.items()), key=str.upper
    )
    return f"# Written by `make constraints` for {python}.\n" + "\n".join(lines) + "\n"


def format_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return a line for each package that is added, removed or of another version."""
    before = {canonical(name): version for name, version in old.items()}
    after = {canonical(name): version for name, version in new.items()}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"{name} {after[name]} added")
        elif name not in after:
            lines.append(f"{name} {before[name]} removed")
        elif before[name] != after[name]:
            lines.append(f"{name} {before[name]} -> {after[name]}")
    return lines


def write(python: str, path: Path) -> int:
    """Resolve for one Python, write its file and print the changes; 1 if pip fails."""
    try:
        new = choose_pins(resolve(python, EXTRAS))
    except Unresolved as reason:
        print(f"{path}: unchanged, because pip finds no versions: {reason}")
        return 1
    old = parse_pins(path.read_text()) if path.exists() else {}
    changes = format_changes(old, new)
    if changes:  # else the first line would change too
        path.write_text(format_pins(new, path.stem))
    print(f"{path}: {len(changes)} changes")
    for line in changes:
        print(f"  {line}")
    return 0


def main(pythons: list[str]) -> int:
    """Write the file of each Python that is found; return the number of failures."""
    return for_each(pythons, write, missing=": its file is unchanged")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
