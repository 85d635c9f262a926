"""A small model's state and training step, without the input pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vitjax import step as step_lib
from vitjax.devices.sharding import batch_sharding, replicated
from vitjax.models import MODELS
from vitjax.optim import make_optimizer

NUM_CLASSES = 10
BATCH = 32
IMAGE = (8, 8, 3)
MIXUP = {"p": 0.2}
FSDP = "fsdp('data', min_size_to_shard_mb=0)"
VIT = {
    "width": 16,
    "depth": 1,
    "mlp_dim": 32,
    "num_heads": 2,
    "patch_size": (4, 4),
    "pool_type": "gap",
    "posemb": "sincos2d",
    "head_zeroinit": False,
}
OPTIMIZER = {
    "lr": 1e-3,
    "wd": 1e-4,
    "optax_name": "scale_by_adam",
    "grad_clip_norm": 1.0,
    "schedule": {"warmup_steps": 5, "decay_type": "cosine"},
}


class Linear(nn.Module):
    """logits = image @ kernel, whose gradients are known by hand."""

    @nn.compact
    def __call__(self, image, *, train=False):
        flat = image.reshape(len(image), -1)
        return nn.Dense(NUM_CLASSES, use_bias=False)(flat), {}


def device_pp(features):
    image = features["image"].astype(jnp.float32) / 127.5 - 1.0
    return {"image": image, "labels": jax.nn.one_hot(features["label"], NUM_CLASSES)}


def host_batch(seed=0, rows=BATCH):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, *IMAGE), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, rows, np.int32),
    }


def placed_batch(mesh, seed=0):
    return jax.device_put(host_batch(seed), batch_sharding(mesh))


def submesh(count):
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))


def make(
    mesh,
    *,
    strategy="replicate",
    model=None,
    optimizer=None,
    image=IMAGE,
    rules=None,
    loss_scale=None,
    **step_kwargs,
):
    """(state, step function, key) of a small ViT, or of another module."""
    if not isinstance(model, nn.Module):
        model = MODELS["vit"](num_classes=NUM_CLASSES, **{**VIT, **(model or {})})
    tx, _ = make_optimizer(
        step_lib.param_shapes(model, image),
        total_steps=100,
        batch_size=BATCH,
        data_size=1000,
        **{**OPTIMIZER, **(optimizer or {})},
    )
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    init, _, shardings = step_lib.init_state(
        model,
        tx,
        image,
        mesh=mesh,
        sharding_strategy=rules or [(".*", strategy)],
        ema=step_kwargs.get("ema") is not None,
        loss_scale=loss_scale,
    )
    defaults = {"loss": "softmax_xent", "mesh": mesh, "device_pp": device_pp}
    train_step = step_lib.make_train_step(
        model, tx, state_sharding=shardings, **{**defaults, **step_kwargs}
    )
    return init(key), train_step, key
