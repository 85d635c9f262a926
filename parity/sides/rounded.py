"""The reference with rounded operands of its products: TF32 on any processor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

TF32_BITS = 10  # of the mantissa, without the leading one

_ATEN = torch.ops.aten
# The operands of a product, among the arguments of torch's operations on matrices.
_OPERANDS = {
    _ATEN.mm.default: (0, 1),
    _ATEN.bmm.default: (0, 1),
    _ATEN.addmm.default: (1, 2),
    _ATEN.baddbmm.default: (1, 2),
    _ATEN.convolution.default: (0, 1),
    _ATEN.convolution_backward.default: (0, 1, 2),
}


def to_nearest(x: torch.Tensor) -> torch.Tensor:
    """Round numbers to the nearest that TF32 has; ties go to the even one."""
    mantissa, exponent = torch.frexp(x)  # 1/2 <= |mantissa| < 1
    scale = 2.0 ** (TF32_BITS + 1)
    return torch.ldexp((mantissa * scale).round() / scale, exponent).to(x.dtype)


def to_zero(x: torch.Tensor) -> torch.Tensor:
    """Drop the bits of numbers that TF32 does not have."""
    mantissa, exponent = torch.frexp(x)
    scale = 2.0 ** (TF32_BITS + 1)
    return torch.ldexp((mantissa * scale).trunc() / scale, exponent).to(x.dtype)


class _Rounding(TorchDispatchMode):
    """Rounds the operands of every product, those of the backward pass included."""

    def __init__(self, rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.rounding = rounding

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if func in _OPERANDS:
            places = _OPERANDS[func]
            args = [
                self.rounding(x) if at in places else x for at, x in enumerate(args)
            ]
        return func(*args, **(kwargs or {}))


@contextmanager
def rounded_products(
    rounding: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Round the operands of all products of torch by `rounding`, in this context.

    Sums keep their dtype, as those of tensor cores do. Attention is computed by two
    products, since torch's fused kernels show none.
    """
    with sdpa_kernel(SDPBackend.MATH), _Rounding(rounding):
        yield
