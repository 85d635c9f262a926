"""TF32 on a CPU: the reference with the operands of its products cut to TF32's bits."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from parity.rungs.comparison import relative_error
from parity.sides import theirs
from parity.sides.cases import Case

ATEN = torch.ops.aten
MATRICES = {  # product -> positions of its operands
    ATEN.mm.default: (0, 1),
    ATEN.bmm.default: (0, 1),
    ATEN.addmm.default: (1, 2),
    ATEN.baddbmm.default: (1, 2),
    ATEN.convolution.default: (0, 1),
    ATEN.convolution_backward.default: (0, 1, 2),
}


def rounded(x, bits):
    """A float32 tensor to the nearest with so many bits of mantissa, of 23."""
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        return x
    drop = 23 - bits
    whole = x.contiguous().view(torch.int32)
    odd = (whole >> drop) & 1
    whole = whole + (1 << (drop - 1)) - 1 + odd
    return ((whole >> drop) << drop).view(torch.float32)


class Operands(TorchDispatchMode):
    """Round the operands of every product, forward and backward; sums are in float32."""

    def __init__(self, bits):
        super().__init__()
        self.bits, self.count = bits, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        at = MATRICES.get(function, ())
        self.count += bool(at)
        args = [
            tree_map(lambda x: rounded(x, self.bits), x) if i in at else x
            for i, x in enumerate(args)
        ]
        return function(*args, **(kwargs or {}))


def test_rounding_to_seven_bits_is_bfloat16s():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rounded(x, 7), x.bfloat16().float(), rtol=0, atol=0)
    assert (rounded(x, 10) - x).abs().max() <= 2**-11 * x.abs().max()


def errors(side, bits):
    """Relative error of what `side` gives, against itself in float32."""
    case = Case(precision="float32")
    exact = side(case, None)
    with Operands(bits) as mode, sdpa_kernel(SDPBackend.MATH):
        found = side(case, None)
    assert mode.count > 10
    return {name: relative_error(found[name], x) for name, x in exact.items()}


@pytest.mark.parametrize("side", [theirs.forward, theirs.gradients])
def test_tf32_rounds_eight_times_finer_than_bfloat16(side):
    """The error of products is proportional to that of their operands."""
    tf32, bfloat16 = errors(side, 10), errors(side, 7)
    tf32 = {k: x for k, x in tf32.items() if not k.endswith("key/bias")}
    ratios = [bfloat16[name] / x for name, x in tf32.items() if x]
    assert 6 < np.median(ratios) < 10
    assert 1e-4 < max(tf32.values()) < 1e-2
