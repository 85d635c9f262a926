"""From gradients to updates: optimizer chains under big_vision's names.

Begin with `make_optimizer` in `chain`; `schedules` has the learning rates and `shampoo` an
optimizer that optax lacks. May import config and trees.
"""

from vitjax.optim.chain import check_section, frozen_mask, make_optimizer

__all__ = ["check_section", "frozen_mask", "make_optimizer"]
