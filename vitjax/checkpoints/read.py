"""Read a checkpoint without a run: its location, its JSON item, its parameters."""

import json
import textwrap
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from input_pipeline import places
from vitjax.checkpoints.checksums import changed
from vitjax.mirror import copy


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without the spec that tensorstore adds."""
    text = str(error).strip().split("\n")[0].split(" [tensorstore_spec")[0]
    return textwrap.shorten(text, 400)


def crc32(meta: dict[str, Any]) -> int:
    """Return the checksum of a JSON item."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def locate(path: str | Path) -> tuple[Path, int]:
    """Return (workdir, step) for a workdir (its newest checkpoint) or a step's folder.

    Both may be in a bucket; the workdir is then a copy on this machine. Raises ValueError
    if there is no checkpoint, or the path is in neither place.
    """
    places.check(path, "the checkpoint", places.BUCKETS)
    path = copy.checkpoint(path).resolve()
    if path.parent.name == "checkpoints" and path.name.isdigit() and path.is_dir():
        return path.parent.parent, int(path.name)
    steps = [int(p.name) for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        raise ValueError(
            f"no checkpoint at {str(path)!r}: expected the workdir of a run, or "
            "workdir/checkpoints/STEP"
        )
    return path, max(steps)


def run_folder(workdir: Path) -> Path:
    """Return the folder of the whole run, given its workdir or its folder `best`."""
    return workdir.parent if workdir.name == "best" else workdir


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the JSON item of a checkpoint; see `locate` for `path`.

    Raises ValueError if there is none, or it is damaged.
    """
    workdir, step = locate(path)
    return meta_of(workdir / "checkpoints" / str(step))


def meta_of(folder: Path) -> dict[str, Any]:
    """Return the JSON item of a step's folder. Raises ValueError if it is damaged.

    Uses no device, since config files call it.
    """
    try:
        item: Any = folder / "meta"  # orbax takes any kind of path
        meta = dict(ocp.JsonCheckpointHandler().restore(item))
        whole = meta.pop("crc32") == crc32(meta)
    # Corrupt files raise many different exceptions in orbax and its readers.
    except Exception as error:
        raise damaged(folder, f"{type(error).__name__} in meta") from error
    if not whole:
        raise damaged(folder, "the bytes of meta have changed")
    return meta


def read_params(
    path: str | Path, source: str = "params"
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return (parameters in numpy, config) of a checkpoint; see `locate` for `path`.

    The config is the run's, as plain values. `source` is the field of the state: "ema"
    for averaged parameters. Raises ValueError if it is missing or damaged.
    """
    workdir, step = locate(path)
    meta, start = meta_of(workdir / "checkpoints" / str(step)), f"{source}/"
    stored = {k: v for k, v in meta["checksums"].items() if k.startswith(start)}
    if not stored:
        raise ValueError(
            f"the checkpoint of step {step} in {workdir} has no {source!r}: only runs "
            "with a config section of that name store it"
        )
    try:
        folder = workdir / "checkpoints" / str(step) / "state"
        params = _params_in_numpy(folder, source)
    except Exception as error:  # corrupt files raise many types
        raise damaged(path, first_line(error)) from error
    wrong = changed({source: params}, stored)
    if wrong:
        raise damaged(path, f"the bits of {wrong[0]} have changed")
    return params, meta.get("config")


def _params_in_numpy(folder: Path, source: str) -> dict[str, Any]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        verbosity = logging.get_verbosity()
        try:
            # Orbax would warn of a missing file one level up.
            logging.set_verbosity(logging.ERROR)
            stored = checkpointer.metadata(folder).item_metadata.tree[source]
        finally:
            logging.set_verbosity(verbosity)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)
        to_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
        )
        return checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item={source: target},
                restore_args={source: to_numpy},
                partial_restore=True,
            ),
        )[source]


def damaged(path: Any, what: str) -> ValueError:
    """Return the error for a checkpoint whose bytes have changed or are missing."""
    return ValueError(f"checkpoint {path} is damaged: {what}")
