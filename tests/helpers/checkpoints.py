"""Checkpoints as numpy, for tests that compare all of their arrays."""

import jax
import numpy as np
import orbax.checkpoint as ocp


def state_of(workdir, step):
    """All arrays of a checkpoint, whatever devices wrote it."""
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        stored = reader.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored
        )
        return reader.restore(
            folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
        )
