"""vitjax on the default device of JAX against the reference in float64 on the CPU.

A bound is four times the error of the reference itself, against the same float64: in
float32 in other orders of summation; for TF32 also with the operands of its products
rounded and cut to TF32; for bfloat16 with autocast, and in float32. The process needs
no jax_enable_x64, since torch computes all of float64.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from parity.rungs.comparison import Comparison, Errors, compared, relative_error
from parity.sides import ours, rounded, theirs
from parity.sides.cases import Case, Layout, Recipe, random_batch

# Sizes that tensor cores and cuDNN take: heads of 64, 24 tokens.
CASE = Case(
    width=128,
    depth=2,
    mlp_dim=384,
    num_heads=2,
    patch_size=(8, 8),
    image_size=(32, 48),
    rep_size=64,
    batch_size=16,
    data="patterns",
)
NUM_STEPS = 20
LR, WD = 1e-3, 1e-4


@dataclasses.dataclass(frozen=True)
class Precision:
    """A precision of vitjax: `dtype` of products, and JAX's precision of float32 ones."""

    dtype: str
    matmul: str | None


PRECISIONS = {
    "float32": Precision("float32", "highest"),
    "tf32": Precision("float32", "default"),
    "bfloat16": Precision("bfloat16", None),
}
Side = Callable[[Case, Any], Mapping[str, Any]]


def _float64(case: Case, side: Side) -> Mapping[str, Any]:
    return side(case.but(precision="float64"), None)


def _controls(
    case: Case, precision: str, side: Side, num_orders: int = 3
) -> Iterator[Mapping[str, Any]]:
    """Yield the reference's results in other orders, and for TF32 with its operands."""
    yield from theirs.controls(case, side, num_orders)
    if precision == "tf32":
        for rounding in (rounded.to_nearest, rounded.to_zero):
            with rounded.rounded_products(rounding):
                yield side(case, None)


def _compared(
    precision: str,
    case: Case,
    our_side: Callable[[Case], Mapping[str, Any]],
    side: Side,
    floor: Callable[[Mapping[str, Any]], Callable[[str], float]] = lambda b: _no_floor,
    num_orders: int = 3,
) -> Errors:
    """Return the errors of vitjax in a precision, and of its controls."""
    chosen = PRECISIONS[precision]
    case = case.but(precision=chosen.dtype)
    with jax.default_matmul_precision(chosen.matmul):
        a = our_side(case)
    b = _float64(case, side)
    controls = _controls(case, precision, side, num_orders)
    return compared(chosen.dtype, a, b, controls, floor(b))


def _no_floor(name: str) -> float:
    del name
    return 0.0


def forward(precision: str, case: Case = CASE) -> Iterator[Comparison]:
    """Compare every stage of the model; one line each for the blocks and the rest."""
    errors = _compared(
        precision, case, partial(ours.forward, jitted=True), theirs.forward
    )
    blocks = [name for name in errors.measured if name.startswith("block")]
    yield errors.line("blocks", blocks)
    yield errors.line(
        "the other stages", [n for n in errors.measured if n not in blocks]
    )


def loss(precision: str, case: Case = CASE) -> Iterator[Comparison]:
    """Compare the softmax loss of mixed labels, and its gradient by the logits."""
    rng = np.random.default_rng(3)
    logits = 5 * rng.standard_normal((case.batch_size, case.num_classes))
    _, onehot = random_batch(case)
    labels = 0.7 * onehot + 0.3 * np.roll(onehot, 1, axis=0)
    given = {"name": "softmax_xent", "logits": logits, "labels": labels}
    errors = _compared(
        precision,
        case,
        partial(ours.loss_and_gradient, **given, label_smoothing=0.0),
        partial(theirs.loss_and_gradient, **given, smoothing=0.0),
    )
    yield errors.line("loss and its gradient")


def _gradient_floor(b: Mapping[str, Any]) -> Callable[[str], float]:
    def floor(name: str) -> float:
        # The softmax ignores a key's bias, so its gradient is rounding noise; its error
        # is relative to the query's.
        query = name.replace("/key/bias", "/query/bias")
        return float(np.abs(b[query]).max()) if query != name else 0.0

    return floor


def gradients(precision: str, case: Case = CASE) -> Iterator[Comparison]:
    """Compare the gradient of every parameter; a line for kernels and one for the rest."""
    errors = _compared(
        precision, case, ours.gradients, theirs.gradients, _gradient_floor
    )
    if precision == "bfloat16":
        # XLA may round the partial sums of a bias's gradient to bfloat16, and torch
        # rounds only their total: other partial sums in vitjax show the effect.
        low = case.but(precision="bfloat16")
        a, b = ours.gradients(low, row_by_row=True), ours.gradients(low)
        floor = _gradient_floor(b)
        own = {k: relative_error(a[k], x, floor(k)) for k, x in b.items()}
        own = {k: x if k.endswith("/bias") else 0.0 for k, x in own.items()}
        errors = dataclasses.replace(errors, controls=[*errors.controls, own])
    kernels = [name for name in errors.measured if name.endswith("/kernel")]
    yield errors.line("gradients of kernels", kernels)
    rest = [name for name in errors.measured if name not in kernels]
    yield errors.line("gradients of biases and norms", rest)


def training(
    precision: str, case: Case = CASE, num_steps: int = NUM_STEPS, accum_freq: int = 1
) -> Iterator[Comparison]:
    """Compare a training of mixup, clipping and Adam: each metric, and the parameters.

    With `accum_freq` vitjax splits its batches, and the reference does not.
    """
    recipe = Recipe(LR, WD, num_steps, warmup_steps=num_steps // 5)
    layout = Layout(accum_freq=accum_freq)

    def flat(result: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
        curves, params = result
        by_step = {
            f"{name}, step {at + 1}": x
            for name, curve in curves.items()
            for at, x in enumerate(curve)
        }
        # Adam turns the rounding noise of key biases into steps.
        return by_step | {
            k: v for k, v in params.items() if not k.endswith("/key/bias")
        }

    def floor(b: Mapping[str, Any]) -> Callable[[str], float]:
        tops: dict[str, float] = {}
        for name, x in b.items():
            metric = name.split(", step ")[0]
            tops[metric] = max(tops.get(metric, 0.0), float(np.abs(x).max()))
        # The least denominator is the top of a curve, or how far Adam can move.
        far = recipe.lr * num_steps
        return lambda name: tops[name.split(", ")[0]] if ", step " in name else far

    errors = _compared(
        precision,
        case,
        lambda case: flat(ours.trajectory(case, recipe, layout)),
        lambda case, order: flat(theirs.trajectory(case, recipe, order)),
        floor,
        num_orders=4,
    )
    metrics: dict[str, list[str]] = {}
    for name in errors.measured:
        metric = name.split(", ")[0] if ", step " in name else "parameters"
        metrics.setdefault(metric, []).append(name)
    for metric, names in metrics.items():
        yield errors.line(f"{metric}, {num_steps} steps", names)
