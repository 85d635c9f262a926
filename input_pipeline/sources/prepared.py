"""The record that `input_pipeline.prepare` leaves with a data set, and what a run says.

The file prepared.json is in the folder of a data set's version (tfds), or in the folder
of the splits (folders). A source reads it: the facts are its attribute `prepared`.
"""

import json
from collections.abc import Mapping
from typing import Any

FILE = "prepared.json"
BY = "input_pipeline.prepare"


def read(folder: Any) -> dict[str, Any] | None:
    """Return the whole record in a folder, a pathlib or epath Path; None without one.

    A file of that name that another program wrote counts as none.

    Raises ValueError for a damaged record.
    """
    path = folder / FILE
    return parsed(path.read_text(), folder) if path.exists() else None


def parsed(text: str, folder: Any) -> dict[str, Any] | None:
    """Return the record of a folder, as `read`, from the text of its file."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("by") != BY:
            return None
        facts(record, folder)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}/{FILE}, the record of {BY}, is damaged ({error}): prepare the data set again"
        ) from None
    return record


def facts(record: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    """Return the part of a record that a run keeps in its config.json."""
    keys = ("short_side", "filter", "quality")
    return {"folder": str(folder), **{key: record[key] for key in keys}}


def told(
    record: Mapping[str, Any] | None, folder: Any
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return (the facts of a data set, or None; the sentence on them, or none)."""
    if record is None:
        return None, ()
    return facts(record, folder), (
        f"{folder}: images were resized to {record['short_side']} before (the shorter "
        f"side of larger ones; {record['filter']}, JPEG quality {record['quality']})",
    )
