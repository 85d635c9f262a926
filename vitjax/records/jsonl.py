"""Write measurements to metrics.jsonl and other sinks, and read them."""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vitjax.files import write_whole

JSONL = "metrics.jsonl"


@runtime_checkable
class Sink(Protocol):
    """A destination of rows."""

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Write one row."""
        ...

    def close(self) -> None:
        """Flush and release resources."""
        ...


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Return the rows of a workdir's metrics.jsonl, without an incomplete last line."""
    path = Path(workdir) / JSONL
    rows = []
    if not path.exists():
        return rows
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            # A killed process may leave an incomplete row only at the end.
            if number < len(lines):
                raise ValueError(
                    f"{path}, line {number} is not JSON: {line!r}"
                ) from None
    return rows


def cut_after(workdir: Path, step: int) -> None:
    """Drop the rows after `step` from metrics.jsonl; they will be written again."""
    path = Path(workdir) / JSONL
    if not path.exists():
        return
    rows = [row for row in read_rows(workdir) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(path, text)


def names_at(workdir: Path, step: int) -> set[str]:
    """Return the names of the metrics that metrics.jsonl has for a step."""
    return {name for row in read_rows(workdir) if row["step"] == step for name in row}


class JsonlSink:
    """The sink metrics.jsonl: one object per row, {"step": int, name: value, ...}."""

    def __init__(self, workdir: Path):
        self._file = (Path(workdir) / JSONL).open("ab", buffering=0)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Append one line, which is on disk when this returns.

        Raises OSError, and leaves the file unchanged, if there is no room for the line.
        """
        # NaN and Infinity are not JSON; as strings, any JSON reader can read the row.
        values = {k: v if math.isfinite(v) else str(v) for k, v in row.items()}
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MetricWriter:
    """A writer of rows to all sinks. It has sinks only on the first process."""

    def __init__(self, sinks: list[Sink]):
        self.sinks = sinks

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Write one row of scalars to every sink."""
        numbers = {name: float(value) for name, value in row.items()}
        for sink in self.sinks:
            sink.write(step, numbers)

    def close(self) -> None:
        """Close every sink."""
        for sink in self.sinks:
            sink.close()


def series(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps and the finite values of one metric."""
    points = [
        (row["step"], row[name])
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    return [step for step, _ in points], [value for _, value in points]
