"""Write tables for pandas: .csv, or .parquet with pyarrow."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitjax.files import write_whole
from vitjax.tools import command

SUFFIXES = (".csv", ".parquet")


def check(flag: str, path: Path | None, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise ValueError unless a flag's path, if given, can be written by `write`."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise ValueError(
            f"{flag} must be a {' or '.join(suffixes)} file, got {str(path)!r}"
        )
    command.check_parent(path)
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{flag} {path} needs pyarrow ({error}): pip install pyarrow, or give "
                "another kind of file"
            ) from None


def write(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length; an existing file is replaced.

    A column is a list of plain values or a numpy array; of a matrix, which only .parquet
    takes, every row is a list.
    """
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_whole(path, text.getvalue())
        return
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {name: _arrow(pa, column) for name, column in columns.items()}
    content = io.BytesIO()
    parquet.write_table(pa.table(arrays), content)
    write_whole(path, content.getvalue())


def _arrow(pa: Any, column: Any) -> Any:
    if getattr(column, "ndim", 1) == 2:
        flat = pa.array(column.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    return pa.array(column)
