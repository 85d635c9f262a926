"""The rungs that compare training: trajectory, devices, evaluation.

`RUNGS` also has the rung of parity.rungs.update. A rung is a function of a `Case` that
yields comparisons, in the case's precision.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from parity.reference import train
from parity.rungs.comparison import CONTROL_FACTOR, Comparison, Errors, compared
from parity.rungs.update import SCHEDULE_BOUND, undecayed_cases, update
from parity.sides import ours, theirs
from parity.sides.cases import Case, Layout, Recipe


def trajectory(case: Case) -> Iterator[Comparison]:
    """Compare a short training from the same weights on the same real digits."""
    recipe = training_recipe(case)
    side = partial(_trained, recipe=recipe)
    curves, a = ours.trajectory(case, recipe)
    their_curves, b = side(case, None)
    controls = list(theirs.controls(case, side, num_orders=1))
    for name in their_curves:
        others = [other[name] for other, _ in controls]
        yield _curve_line(case, name, curves[name], their_curves[name], others)
    errors = _param_errors(case, recipe, a, b, [other for _, other in controls])
    yield from _param_lines(errors, f", {_steps(case)}")
    if case.precision == "float64":
        yield _own_schedule(case, recipe, _flat((curves, a)))
    if case.half:
        # After so few steps some biases are mostly rounding: a bound would be near 1.
        return
    for other in undecayed_cases(case):
        yield _short_trajectory(other.but(num_steps=min(20, case.num_steps)))


def _own_schedule(case: Case, recipe: Recipe, a: theirs.Arrays) -> Comparison:
    """Compare with the reference's own schedule, which is not rounded to float32.

    The bound is four times the change of the reference when every multiplier is moved
    up or down, at random, by the schedule's own bound.
    """
    own = train.warmup_cosine(recipe.total_steps, recipe.warmup_steps)
    signs = np.random.default_rng(5).choice([-1, 1], recipe.total_steps + 1)

    def moved(step: int) -> float:
        # A multiplier of 0 is exact.
        return own(step) + (SCHEDULE_BOUND * signs[step] if own(step) else 0.0)

    b, other = (
        _flat(theirs.trajectory(case, recipe, None, multiplier=multiplier))
        for multiplier in (own, moved)
    )
    errors = _param_errors(case, recipe, a, b, [other])
    moves = max(errors.controls[0].values())
    line = errors.line("known: float32 schedule")
    return dataclasses.replace(line, bound=CONTROL_FACTOR * moves)


def _short_trajectory(case: Case) -> Comparison:
    """Compare metrics and parameters of a short training in one line."""
    recipe = training_recipe(case)

    def side(case: Case, order: theirs.Order | None) -> theirs.Arrays:
        return _flat(theirs.trajectory(case, recipe, order))

    a, b = _flat(ours.trajectory(case, recipe)), side(case, None)
    controls = list(theirs.controls(case, side, num_orders=1))
    errors = _param_errors(case, recipe, a, b, controls)
    return errors.line(f"{case.label()}, {_steps(case)}")


def _curve_line(
    case: Case, name: str, a: np.ndarray, b: np.ndarray, controls: list[np.ndarray]
) -> Comparison:
    """Return the worst step of a curve.

    Errors are relative to the largest value of the curve, because the last updates are
    almost 0.
    """
    top = float(np.abs(b).max())
    others = [_by_step(curve) for curve in controls]
    errors = compared(
        case.precision, _by_step(a), _by_step(b), others, floor=lambda at: top
    )
    line = errors.line(f"{name}, {_steps(case)}")
    return dataclasses.replace(line, curves=(a, b, *controls[:1]))


def training_recipe(case: Case) -> Recipe:
    """Return the trajectory's recipe: a sixth of it is warm-up."""
    return Recipe(total_steps=case.num_steps, warmup_steps=case.num_steps // 6)


def _trained(case: Case, order: theirs.Order | None, recipe: Recipe, **kw: Any) -> Any:
    return theirs.trajectory(case, recipe, order, **kw)


def _steps(case: Case) -> str:
    return f"{case.num_steps} steps"


def _by_step(curve: np.ndarray) -> dict[str, float]:
    return {f"step {at + 1}": value for at, value in enumerate(curve)}


def _param_errors(
    case: Case, recipe: Recipe, a: Any, b: Any, controls: list[Any]
) -> Errors:
    # The least denominator is how far Adam can move: some parameters hardly move.
    far = recipe.lr * recipe.total_steps
    return compared(case.precision, a, b, controls, floor=lambda name: far)


def _param_lines(errors: Errors, when: str = "") -> Iterator[Comparison]:
    """Yield the parameters' errors, with the key biases in a line of their own.

    The softmax ignores key biases, which add the same to all logits of a query. Adam
    therefore turns their rounding noise into steps.
    """
    free = [name for name in errors.measured if name.endswith("/key/bias")]
    yield errors.line(f"params{when}", [n for n in errors.measured if n not in free])
    yield errors.line(f"params without effect{when}", free)


LAYOUTS = {
    "1 device": Layout(),
    "1 device, accum_freq 4": Layout(accum_freq=4),
    "8 devices": Layout(8),
    "8 devices, accum_freq 2": Layout(8, 2),
    "8 devices, fsdp, accum_freq 2": Layout(8, 2, "fsdp(min_size_to_shard_mb=0)"),
}


def devices(case: Case) -> Iterator[Comparison]:
    """Compare microbatches and devices with torch's whole batch, in a few steps.

    The batch has 16 rows. One device is also compared with torch's own accumulation.
    One block is enough for this.
    """
    case = case.but(depth=1, batch_size=16)
    recipe = Recipe(total_steps=4, warmup_steps=1)

    def side(
        case: Case, order: theirs.Order | None, accum_freq: int = 1
    ) -> theirs.Arrays:
        return _flat(theirs.trajectory(case, recipe, order, accum_freq=accum_freq))

    whole = side(case, None)
    controls = list(theirs.controls(case, side, num_orders=1))
    for name, layout in LAYOUTS.items():
        a = _flat(ours.trajectory(case, recipe, layout))
        yield _param_errors(case, recipe, a, whole, controls).line(name)
    a = _flat(ours.trajectory(case, recipe, LAYOUTS["1 device"]))
    b = side(case, None, accum_freq=4)
    yield _param_errors(case, recipe, a, b, controls).line("torch's accum_freq 4")


def _flat(result: tuple[theirs.Arrays, theirs.Arrays]) -> theirs.Arrays:
    """Merge metrics and parameters of a training, without the key biases.

    `_param_lines` says why.
    """
    curves, params = result
    return curves | {k: v for k, v in params.items() if not k.endswith("/key/bias")}


def evaluation(case: Case) -> Iterator[Comparison]:
    """Compare both evaluations of the trained weights, by example and on average.

    One example in a thousand is a difference of 1e-3 of prec.
    """
    recipe = training_recipe(case)
    side = partial(_evaluated, params=ours.trained_params(case, recipe))
    b, their_hits = side(case, None)
    controls = list(theirs.controls(case, side, num_orders=1))
    right = f"{float(b['prec@1']):.4f} of {case.num_examples}"
    for num_devices in (1, 8):
        a, hits = ours.evaluate(case, recipe, num_devices)
        errors = compared(case.precision, a, b, [means for means, _ in controls])
        for name in b:
            line = errors.line(f"{name}, {num_devices} device(s)", [name])
            detail = right if name == "prec@1" else ""
            yield dataclasses.replace(line, detail=detail)
        for name, hit in their_hits.items():
            others = [other[name] for _, other in controls]
            line = hits_by_example(name, hits[name], hit, others)
            yield dataclasses.replace(
                line, name=f"{line.name}, {num_devices} device(s)"
            )


def hits_by_example(
    name: str, a: np.ndarray, b: np.ndarray, controls: list[np.ndarray]
) -> Comparison:
    """Count the examples that vitjax hits and the reference does not, or vice versa.

    float64 allows none. Lower precisions allow as many as the reference in another
    order differs by: where two logits are almost equal, rounding decides which is the
    larger.
    """
    differ = np.flatnonzero(a != b)
    bound = max([0, *(int(np.sum(other != b)) for other in controls)])
    where = f"example {differ[0]}" if len(differ) else f"{np.sum(b)} hits"
    return Comparison(f"{name} by example", float(len(differ)), float(bound), where)


def _evaluated(case: Case, order: theirs.Order | None, params: Any) -> Any:
    return theirs.evaluate(case, params, order)


RUNGS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "update": update,
    "trajectory": trajectory,
    "devices": devices,
    "evaluation": evaluation,
}
