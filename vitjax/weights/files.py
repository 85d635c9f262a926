"""Files of named arrays: .npz, .safetensors, .pth."""

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.weights import safetensors
from vitjax.weights.libraries import importing

Arrays = dict[str, np.ndarray]
# Where a file of PyTorch keeps the weights if it keeps more than these.
STATE_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
BFLOAT16 = np.dtype(jnp.bfloat16)
# What wrappers of a module put before each of its keys.
PREFIXES = ("module.", "_orig_mod.", "model.")


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """(arrays by name, words about them) of a file, by its suffix.

    Raises ValueError if there is no such file, or it is none of these.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    reader, _ = lookup(SUFFIXES, path.suffix, f"kind of weights ({path.name}):")
    return reader(path)


def write(
    path: Path, arrays: Mapping[str, np.ndarray], words: Mapping[str, str]
) -> None:
    """Write arrays as the suffix says; on the disk when this returns.

    Only .safetensors has a place for the words.
    """
    _, writer = lookup(SUFFIXES, path.suffix, f"kind of weights ({path.name}):")
    writer(path, arrays, words)


def _read_npz(path: Path) -> tuple[Arrays, dict[str, str]]:
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no .npz file, or is damaged: {error}") from None
    # numpy has no bfloat16 and stores it as two bytes of no type.
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


def _torch() -> Any:
    with importing("torch", instead="use .safetensors"):
        import torch
    return torch


def _read_pth(path: Path) -> tuple[Arrays, dict[str, str]]:
    torch = _torch()
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is no file of tensors alone, or is damaged: {reason}"
        ) from None
    for key in STATE_KEYS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    if not isinstance(stored, Mapping):
        raise ValueError(f"{path} holds no state dict, but {type(stored).__name__}")
    other = [k for k, x in stored.items() if not isinstance(x, torch.Tensor)]
    if other:
        raise ValueError(
            f"{path} holds no state dict: {', '.join(map(str, other[:5]))} are no "
            f"tensors (looked for {', '.join(STATE_KEYS)})"
        )
    return {k: _numpy(torch, x) for k, x in _unwrapped(stored).items()}, {}


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the prefixes that data parallelism and torch.compile add to every key."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _unwrapped({k.removeprefix(prefix): x for k, x in state.items()})
    return state


def _numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def _write_pth(path: Path, arrays: Mapping[str, np.ndarray], _: Any) -> None:
    torch = _torch()

    def tensor(x: np.ndarray) -> Any:
        if x.dtype == BFLOAT16:
            return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
        return torch.tensor(x)

    with path.open("wb") as file:
        torch.save({name: tensor(x) for name, x in arrays.items()}, file)
        file.flush()
        os.fsync(file.fileno())


SUFFIXES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    ".npz": (_read_npz, _write_npz),
    ".safetensors": (safetensors.read, safetensors.write),
    ".pth": (_read_pth, _write_pth),
    ".pt": (_read_pth, _write_pth),
    ".bin": (_read_pth, _write_pth),
}
