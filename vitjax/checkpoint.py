"""Checkpoints of a run, by orbax: atomic, asynchronous, one folder a step."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging


class Checkpointer:
    """The checkpoints under `workdir`/checkpoints.

    Each holds the train state (arrays) and a JSON item beside it (everything else).
    A step's folder appears only when it is complete.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        max_to_keep: int | None = 2,
        keep_steps: int | None = None,
    ):
        """Keep the newest `max_to_keep`, and every multiple of `keep_steps` for ever.

        `max_to_keep=None` keeps all.
        """
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(
                f"max_to_keep must be at least 1, or None for all, got {max_to_keep}"
            )
        self.path = Path(workdir).resolve() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep,
                keep_period=keep_steps,
                create=False,
            ),
            item_names=("state", "meta"),
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, None if there is none."""
        return self._manager.latest_step() if self.path.is_dir() else None

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Start writing; returns when the state has left the devices."""
        self.path.mkdir(parents=True, exist_ok=True)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=args, force=True)

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON item of a step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def restore(self, step: int, shapes: Any) -> Any:
        """The state of a step, placed as the shardings of `shapes` say.

        Raises ValueError if the tree or a shape does not fit.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        try:
            return self._manager.restore(step, args=args)["state"]
        except ValueError as error:
            raise ValueError(
                f"checkpoint {self.path / str(step)} does not fit the model and "
                f"optimizer of this config, or is damaged: {error}"
            ) from error

    def wait(self) -> None:
        """Until every started checkpoint is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then let go of orbax's threads."""
        self._manager.close()


def locate(path: str | Path) -> tuple[Path, int]:
    """(workdir, step) of a workdir (its newest checkpoint) or of one step's folder.

    Raises ValueError if no checkpoint is there.
    """
    path = Path(path).resolve()
    if path.parent.name == "checkpoints" and path.name.isdigit() and path.is_dir():
        return path.parent.parent, int(path.name)
    steps = [int(p.name) for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        raise ValueError(
            f"no checkpoint at {str(path)!r}: expected the workdir of a run, or "
            "workdir/checkpoints/STEP"
        )
    return path, max(steps)


def read_params(path: str | Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(parameters in numpy, config) of a checkpoint; `path` as `locate` takes it.

    The config is the run's, as plain values.
    """
    workdir, step = locate(path)
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # orbax misses a file of a level above
        stored = checkpointer.metadata(folder).item_metadata.tree["params"]
        logging.set_verbosity(verbosity)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)
        to_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
        )
        params = checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item={"params": target},
                restore_args={"params": to_numpy},
                partial_restore=True,
            ),
        )["params"]
    other = Checkpointer(workdir)
    try:
        return params, other.meta(step).get("config")
    finally:
        other.close()
