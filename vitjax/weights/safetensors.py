"""Read and write safetensors files with numpy alone.

A file is the length of a header (8 bytes, little-endian), the header (JSON: dtype,
shape and offsets of each tensor, and the file's metadata) and the tensors' bytes
(github.com/huggingface/safetensors, "Format").
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
WORDS = "__metadata__"


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read (tensors, metadata); ValueError if the file is cut or has another dtype."""
    with path.open("rb") as file:
        header = _header(file, path)
        start = file.tell()
        words = header.pop(WORDS, None) or {}
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise ValueError(
                    f"{name} of {path} has the unsupported dtype {entry['dtype']}"
                )
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            count = math.prod(shape)
            file.seek(start + begin)
            data = file.read(end - begin)
            if not len(data) == end - begin == count * dtype.itemsize:
                raise ValueError(f"{path} is damaged: {name} is incomplete")
            tensors[name] = np.frombuffer(data, dtype).reshape(shape)
    return tensors, words


def words(path: Path) -> dict[str, str]:
    """Read only the metadata; ValueError if this is not a safetensors file."""
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    with path.open("rb") as file:
        return _header(file, path).pop(WORDS, None) or {}


def write(
    path: Path, tensors: Mapping[str, np.ndarray], words: Mapping[str, str]
) -> None:
    """Write tensors and `words`, the metadata, synced to disk on return."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {WORDS: dict(words)} if words else {}
    at = 0
    for name, x in tensors.items():
        if x.dtype not in codes:
            raise ValueError(
                f"{name} has dtype {x.dtype}, which safetensors does not support"
            )
        place = [at, at + x.nbytes]
        header[name] = {
            "dtype": codes[x.dtype],
            "shape": list(x.shape),
            "data_offsets": place,
        }
        at = place[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            file.write(np.ascontiguousarray(x).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _header(file: Any, path: Path) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    # 100 MB is the format's limit; a larger number means another kind of file.
    text = file.read(length) if length <= 100_000_000 else b""
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{path} is not a safetensors file, or is damaged") from None
