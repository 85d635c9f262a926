"""Small states for checkpoints, and checkpoints as numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from vitjax.step import TrainState


def make_state(seed=0, rows=16):
    rng = np.random.default_rng(seed)
    params = {
        "embedding": {"kernel": rng.normal(size=(rows, 8)).astype(np.float32)},
        "head": {"kernel": rng.normal(size=(8, 4)).astype(np.float32)},
    }
    params = jax.tree.map(jnp.asarray, params)
    tx = optax.scale_by_adam(mu_dtype=jnp.bfloat16)
    return TrainState(step=jnp.int32(7), params=params, opt_state=tx.init(params))


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
