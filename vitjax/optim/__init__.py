"""Optimizers that turn gradients into updates, under big_vision's names.

Start with `make_optimizer` in `chain`. `schedules` has the learning rates, `shampoo` an
optimizer that optax lacks. This package may import config and trees.
"""

from vitjax.optim.chain import check_section, frozen_mask, make_optimizer

__all__ = ["check_section", "frozen_mask", "make_optimizer"]
