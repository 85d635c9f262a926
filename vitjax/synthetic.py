"""The flagship on synthetic images: its experiment, its batches and its program.

It is the step of configs/vit_s16_i1k.py (uint8 images, device_pp, mixup, accumulation,
metrics), on machines without TensorFlow and ml_collections too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitjax import program
from vitjax.config.experiment import Experiment
from vitjax.devices import sharding

# --precision: arguments of the model, and the config's matmul_precision. They are those
# of configs/vit_s16_i1k.py, which a machine without ml_collections cannot read.
PRECISIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "float32": ({}, None),
    "tf32": ({}, "high"),
    "bfloat16": ({"dtype_mm": "bfloat16"}, None),
    "bfloat16_all": (
        {"dtype_mm": "bfloat16", "residual_dtype": "bfloat16"},
        None,
    ),
}


def flagship(
    variant: str,
    *,
    accum_freq: int = 1,
    model: dict[str, Any] | None = None,
    matmul_precision: str | None = None,
    sharding_strategy: Sequence[tuple[str, str]] = ((".*", "replicate"),),
    compiler_options: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the experiment of configs/vit_s16_i1k.py, as far as its step needs it.

    A test compares the two programs.
    """
    return Experiment(
        input={},
        num_classes=1000,
        device_pp="value_range(-1, 1)|onehot(1000, key='label', key_result='labels')"
        "|keep('image', 'labels')",
        model={
            "variant": variant,
            "rep_size": True,
            "pool_type": "gap",
            "posemb": "sincos2d",
            **(model or {}),
        },
        loss="softmax_xent",
        mixup={"p": 0.2},
        accum_freq=accum_freq,
        matmul_precision=matmul_precision,
        sharding_strategy=sharding_strategy,
        compiler_options=compiler_options,
        optimizer={
            "optax_name": "scale_by_adam",
            "optax": {"mu_dtype": "bfloat16"},
            "grad_clip_norm": 1.0,
            "lr": 0.001,
            "wd": 0.0001,
            "schedule": {"warmup_steps": 10_000, "decay_type": "cosine"},
        },
    )


def batches(
    batch_size: int, image_size: int, num_classes: int, mesh: jax.sharding.Mesh, n: int
) -> list[dict[str, jax.Array]]:
    """Make `n` batches of random uint8 images and int32 labels, split over devices."""
    rng = np.random.default_rng(0)
    local = batch_size // jax.process_count()
    home = sharding.batch_sharding(mesh)
    shape = (local, image_size, image_size, 3)
    return [
        {
            name: jax.make_array_from_process_local_data(home, value)
            for name, value in {
                "image": rng.integers(0, 256, shape, np.uint8),
                "label": rng.integers(0, num_classes, local, np.int32),
            }.items()
        }
        for _ in range(n)
    ]


def build(
    e: Experiment, mesh: jax.sharding.Mesh, *, batch_size: int, image_size: int
) -> program.Program:
    """Build the program of `e` for `batches`, in a run as long as ImageNet's.

    The devices of `mesh` may be absent.
    """
    spec = {
        "image": ((image_size, image_size, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
    }
    return program.build(
        e,
        mesh,
        element_spec=spec,
        batch_size=batch_size,
        total_steps=112_603,
        data_size=1_281_167,
    )
