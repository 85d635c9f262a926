"""Read and write PyTorch files (.pth, .pt, .bin, .ckpt, .pth.tar); run no code in them.

torch's restricted unpickler builds tensors and plain containers. Other objects that
trainers save (arguments, metrics, paths) are allowed by name and become empty
placeholders.
"""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.weights.libraries import importing

Arrays = dict[str, np.ndarray]
BFLOAT16 = np.dtype(jnp.bfloat16)
DEPTH = 4  # nested containers are searched to here; one may contain itself


class _StandIn:
    """A placeholder for any object; accepts any arguments and state, and drops them."""

    def __new__(cls, *_: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _dict(*_: Any) -> dict[Any, Any]:
    """Return a plain dict for the unpickler to fill; torch refuses dict subclasses."""
    return {}


def _list(*_: Any) -> list[Any]:
    return []


# Module -> names in it that become a `_StandIn`.
LET_IN = {
    "argparse": ("Namespace",),
    "builtins": (
        *("bool", "bytes", "float", "frozenset", "int", "range", "slice"),
        *("str", "tuple"),
    ),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "types": ("SimpleNamespace",),
    "uuid": ("UUID",),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),  # Python 3.13's pickles have the second
        (
            *("Path", "PosixPath", "WindowsPath"),
            *("PurePath", "PurePosixPath", "PureWindowsPath"),
        ),
    ),
    "numpy": ("dtype", "ndarray"),
    **dict.fromkeys(
        ("numpy.core.multiarray", "numpy._core.multiarray"),  # before and since 2.0
        ("scalar", "_reconstruct"),
    ),
    "torch.torch_version": ("TorchVersion",),
}
SAFE = [
    *((_dict, name) for name in ("builtins.dict", "collections.defaultdict")),
    *((_list, name) for name in ("builtins.list", "collections.deque")),
    *((_StandIn, f"{module}.{name}") for module in LET_IN for name in LET_IN[module]),
]
# Older versions could be made to run code with weights_only=True (CVE-2025-32434), and
# allowed only names of real objects.
SAFE_SINCE = "2.6"
INSTEAD = "save it with torch.save(model.state_dict(), PATH) where it was made"


def read(path: Path) -> Arrays:
    """Read the tensors by name; those in a nested container are "CONTAINER/NAME".

    Raises ValueError if the file is damaged, or holds objects that only code can make.
    """
    torch = _torch()
    if torch.__version__ < SAFE_SINCE:
        raise ValueError(
            f"torch {torch.__version__} is too old to read {path} without running code "
            f"from it: install torch {SAFE_SINCE} or newer, or use .safetensors"
        )
    if _is_program(path):
        raise ValueError(
            f"{path} is a TorchScript program, which vitjax does not run: {INSTEAD}"
        )
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(_refusal(path, error)) from None
    if not isinstance(stored, Mapping):
        raise ValueError(
            f"{path} must hold a state dict, got a {type(stored).__name__}"
        )
    found = {
        name: _numpy(torch, x, f"{name} of {path}")
        for name, x in _tensors(torch, stored)
    }
    if not found:
        other = ", ".join(map(str, list(stored)[:5])) or "an empty dict"
        raise ValueError(f"{path} holds no state dict: no tensors, only {other}")
    return found


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a plain state dict, synced to disk on return."""
    torch = _torch()

    def tensor(x: np.ndarray) -> Any:
        if x.dtype == BFLOAT16:
            return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
        return torch.tensor(x)

    with path.open("wb") as file:
        torch.save({name: tensor(x) for name, x in arrays.items()}, file)
        file.flush()
        os.fsync(file.fileno())


def _torch() -> Any:
    with importing("torch", instead="use .safetensors"):
        import torch
    return torch


def _tensors(
    torch: Any, stored: Mapping[Any, Any], at: str = "", depth: int = DEPTH
) -> Iterator[tuple[str, Any]]:
    for key, value in stored.items():
        if not isinstance(key, str):  # an optimizer numbers its parameters
            continue
        if isinstance(value, torch.Tensor):
            yield at + key, value
        elif isinstance(value, Mapping) and depth:
            yield from _tensors(torch, value, f"{at}{key}/", depth - 1)


def _numpy(torch: Any, tensor: Any, name: str) -> np.ndarray:
    try:
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(BFLOAT16)
        return tensor.numpy()
    except (TypeError, RuntimeError):
        kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
        raise ValueError(f"{name} cannot be converted to numpy ({kind})") from None


def _refusal(path: Path, error: Exception) -> str:
    """Summarise torch's refusal in one sentence; torch's is a page long, in colour."""
    name = isinstance(error, pickle.UnpicklingError) and re.search(
        r"GLOBAL (\S{1,200})", str(error)
    )
    if not name and (protocol := _protocol(path)) > 2:
        return (
            f"{path} was saved with pickle_protocol={protocol}, but only torch's default, "
            "2, can be read: save it without that argument"
        )
    if not name:
        return f"{path} is not a torch.save file, or is damaged"
    if re.search(rb"ctorch\.nn\.modules\.[\w.]+\n", _pickled(path)):
        return (
            f"{path} holds a whole module ({name[1]!r}), and vitjax does not run its "
            f"code: {INSTEAD}"
        )
    return (
        f"{path} holds {name[1]!r}, which is neither a tensor nor one of the plain objects "
        f"that vitjax accepts: {INSTEAD}"
    )


def _protocol(path: Path) -> int:
    """Return the protocol of the file's pickle, 0 if there is none."""
    try:
        start = _pickled(path)[:2]
    except Exception:  # a damaged archive
        return 0
    return start[1] if len(start) == 2 and start[0] == 0x80 else 0


def _pickled(path: Path) -> bytes:
    """Read the start of the file's pickle, without the tensors' bytes."""
    if not zipfile.is_zipfile(path):  # torch's file format before 1.6
        with path.open("rb") as file:
            return file.read(1 << 24)
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        with archive.open(name) as file:
            return file.read(1 << 24)


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
