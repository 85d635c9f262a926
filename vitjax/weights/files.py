"""Read and write named arrays: .npz, .safetensors, PyTorch files, indexed shards."""

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from input_pipeline import places
from vitjax.config.arguments import lookup
from vitjax.mirror import copy
from vitjax.weights import torch_files
from vitjax.weights.torch_files import BFLOAT16

Arrays = dict[str, np.ndarray]
# The suffix of an index, which maps each tensor to the shard that holds it.
INDEX = ".index.json"
# The names of the weight files in a Hugging Face model's folder.
FOLDERS = tuple(
    name + end
    for end in ("", INDEX)
    for name in ("model.safetensors", "pytorch_model.bin")
)
# Files next to weights that tell of them.
_BESIDE = ("config.json", "preprocessor_config.json")


def split(path: str | Path) -> tuple[Path, str]:
    """Split "x.npz:img" into the file x.npz and its part "img"; "" means all of it.

    The file of a path in a bucket is its copy, see `local`.
    """
    file, part = _split(path)
    return local(file), part


def _split(path: str | Path) -> tuple[str, str]:
    suffixes = "|".join(map(re.escape, SUFFIXES))
    match = re.fullmatch(rf"(.+?(?:{suffixes})):(.*)", str(path), re.DOTALL)
    return (match[1], match[2]) if match else (str(path), "")


def local(path: str | Path) -> Path:
    """Return a run, a file of weights or a model's folder as a path of this machine.

    One in a bucket is copied: of a run its checkpoint, of a file those next to it that
    tell of it as well. A part, as in x.npz:img, is kept. Raises ValueError for a path
    that is in neither place.
    """
    places.check(path, "the weights", places.BUCKETS)
    if places.scheme(path) is None:
        return Path(path)
    url, part = _split(path)
    if Path(url).suffix in SUFFIXES or url.endswith(INDEX):
        found = copy.file(url, _BESIDE)
        folder = url.rpartition("/")[0]
    else:
        found, folder = copy.checkpoint(url, FOLDERS, _BESIDE), url
    if found.name.endswith(INDEX):
        for shard in sorted(set(_shard_of(found).values())):
            copy.file(f"{folder}/{shard}")
    return Path(f"{found}:{part}") if part else found


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Read (arrays by name, metadata) from a file; its suffix selects the reader.

    Names in a PyTorch file that holds several state dicts are "STATE_DICT/NAME". Raises
    ValueError if the file does not exist or its suffix is unknown.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    reader, _ = lookup(SUFFIXES, path.suffix, f"kind of weights ({path.name}):")
    return reader(path)


def write(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays in the format of the suffix, synced to disk on return.

    Only .safetensors stores `metadata`.
    """
    _, writer = lookup(SUFFIXES, path.suffix, f"kind of weights ({path.name}):")
    writer(path, arrays, metadata)


def _read_npz(path: Path) -> tuple[Arrays, dict[str, str]]:
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not an .npz file, or is damaged: {error}"
        ) from None
    # numpy has no bfloat16 and stores it as untyped two-byte values.
    return {
        name: x.view(BFLOAT16) if x.dtype == np.dtype("V2") else x
        for name, x in arrays.items()
    }, {}


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray], _: Any) -> None:
    void = {k: x.view("V2") if x.dtype == BFLOAT16 else x for k, x in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **void)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _opened_safetensors(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        with safetensors.safe_open(path, "np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a .safetensors file, or is damaged: {error}"
        ) from None


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a .safetensors file; ValueError if it is none."""
    with _opened_safetensors(path) as file:
        return file.metadata() or {}


def _read_safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    with _opened_safetensors(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.offset_keys()}
        return arrays, file.metadata() or {}


def _write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    # The library writes the memory of an array as it is, without its strides.
    dense = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    try:
        data = safetensors_numpy.save(dense, dict(metadata))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} cannot be written: {error}") from None
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_torch(path: Path) -> tuple[Arrays, dict[str, str]]:
    return torch_files.read(path), {}


def _write_torch(path: Path, arrays: Mapping[str, np.ndarray], _: Any) -> None:
    torch_files.write(path, arrays)


def _read_shards(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Read all shards named by a transformers index; they are in the index's folder."""
    shard_of = _shard_of(path)
    shards = {path.with_name(name) for name in shard_of.values()}
    if path in shards:
        raise ValueError(f"{path} is damaged: it names itself as a shard")
    if missing := sorted(shard.name for shard in shards if not shard.is_file()):
        raise ValueError(
            f"{path} names {len(shards)} shards, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing in its folder"
        )
    found: Arrays = {}
    for shard in sorted(shards):
        found |= read(shard)[0]
    if lost := sorted(shard_of.keys() - found.keys()):
        raise ValueError(f"{path} is damaged: its shards lack {lost[0]}")
    return found, {}


def _shard_of(index: Path) -> dict[str, str]:
    """Return the shard of each tensor; ValueError if the file is no index."""
    try:
        shard_of = dict(json.loads(index.read_text())["weight_map"])
        for name in shard_of.values():
            index.with_name(name)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index} is not an index of shards, or is damaged") from None
    return shard_of


SUFFIXES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    ".npz": (_read_npz, _write_npz),
    ".safetensors": (_read_safetensors, _write_safetensors),
    **dict.fromkeys(
        (".pth", ".pt", ".bin", ".ckpt", ".tar"),  # .tar is the suffix of .pth.tar
        (_read_torch, _write_torch),
    ),
}
