"""The checkpoints of a workdir and their markers, locally and in a bucket."""

import dataclasses
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

BEST = "best/checkpoints"
PLACES = ("checkpoints", BEST)  # folders of steps, in a workdir
_MARKER = ".whole.json"
_REMOVAL = 0.2  # seconds, many times what the removal of a step takes


@dataclasses.dataclass(frozen=True, order=True)
class Step:
    """One checkpoint: the folder of its steps, and its number."""

    place: str
    number: int

    @property
    def folder(self) -> str:
        """The folder of its files, such as checkpoints/500."""
        return f"{self.place}/{self.number}"

    @property
    def marker(self) -> str:
        """The object that says that all its files are there."""
        return f"{self.place}/{self.number}{_MARKER}"


def step_of(name: str) -> Step | None:
    """Return the step to which a file or marker of a workdir belongs, or None."""
    for place in PLACES:
        if name.startswith(f"{place}/"):
            first = name.removeprefix(f"{place}/").partition("/")[0]
            number = first.removesuffix(_MARKER)
            if number.isdigit():
                return Step(place, int(number))
    return None


def is_marker(name: str) -> bool:
    """Return whether an object is a step's marker."""
    return name.endswith(_MARKER)


def marked(names: Iterable[str]) -> list[Step]:
    """Return the steps whose marker is among names, in order."""
    steps = {step_of(name) for name in names if is_marker(name)}
    return sorted(step for step in steps if step is not None)


def whole(workdir: Path) -> list[Step]:
    """Return the steps of a local workdir; a step's folder appears when it is whole."""
    return sorted(
        Step(place, int(path.name))
        for place in PLACES
        for path in (workdir / place).glob("*")
        if path.name.isdigit() and path.is_dir()
    )


def link(workdir: Path, step: Step, to: Path) -> list[str] | None:
    """Link a step's files into a folder, and return their names in the workdir.

    The links keep the files while they are uploaded. None if the run is removing the
    step, of which some files are gone.
    """
    names = files(workdir, step.folder)
    try:
        for name in names:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(workdir / name, to / name)
        # Orbax removes file by file, within milliseconds.
        time.sleep(_REMOVAL)
        if names and files(workdir, step.folder) == names:
            return names
    except FileNotFoundError:
        pass
    except OSError:  # such as a full disk: the next try must not find half of it
        shutil.rmtree(to / step.folder, ignore_errors=True)
        raise
    shutil.rmtree(to / step.folder, ignore_errors=True)
    return None


def files(root: Path, folder: str = "") -> list[str]:
    """Return the names in `root` of the files below one of its folders, in order.

    Folders that are removed meanwhile count as empty, as `Path.rglob` does not do.
    """
    found = (
        Path(above, name).relative_to(root)
        for above, _, names in os.walk(root / folder)
        for name in names
    )
    return sorted(map(str, found))


def crc32(path: Path) -> int:
    """Return the checksum of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            found = zlib.crc32(block, found)
    return found


def write_marker(root: Path, names: Iterable[str]) -> bytes:
    """Return a marker: size and checksum of each file, below `root`."""
    files = {n: [(root / n).stat().st_size, crc32(root / n)] for n in names}
    return json.dumps({"files": files}, indent=1).encode()


def read_marker(content: bytes) -> Mapping[str, tuple[int, int]]:
    """Return (size, checksum) of each file of a marker. ValueError if it is none."""
    try:
        files = json.loads(content)["files"]
        return {name: (int(size), int(check)) for name, (size, check) in files.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"it is no marker ({type(error).__name__})") from None
