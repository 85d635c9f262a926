"""The training state, and the compiled functions that advance or evaluate it.

Start with `make_train_step` in `train_step`; `losses`, `mixup`, `ema` and `loss_scale`
are its parts. This package may import config, devices.sharding and trees; models and
optimizers are passed in.
"""

from vitjax.step.accumulate import check_batch_size
from vitjax.step.precision import PRECISIONS, at_precision
from vitjax.step.state import TrainState, copied, init_state, param_shapes
from vitjax.step.train_step import (
    check_scaled,
    make_eval_step,
    make_prepare,
    make_preview,
    make_train_step,
    step_keys,
)

__all__ = [
    "PRECISIONS",
    "TrainState",
    "at_precision",
    "check_batch_size",
    "check_scaled",
    "copied",
    "init_state",
    "make_eval_step",
    "make_prepare",
    "make_preview",
    "make_train_step",
    "param_shapes",
    "step_keys",
]
