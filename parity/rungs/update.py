"""The rung that compares single updates: clip, Adam, decay mask, schedule."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from parity.reference import train
from parity.rungs.comparison import EPSILON, Comparison, Errors, compared, worst
from parity.sides import ours, theirs
from parity.sides.cases import Case, Recipe

SCHEDULE_BOUND = 4 * EPSILON  # computed in float32 in every precision; see `_schedule`


def update(case: Case) -> Iterator[Comparison]:
    """Compare single updates on synthetic gradients: clip, Adam, decay mask, schedule.

    In float32 the parameters after the step are compared, whose difference holds only
    the leading digits of the update. Updates of parameters that are 0 are therefore
    compared too.
    """
    clip = Recipe()
    last = clip.total_steps - 1
    moments = {
        0: "step 0",
        1: "step 1",
        clip.warmup_steps: "warm-up end",
        (clip.warmup_steps + last) // 2: "middle",
        last: "last step",
    }
    yield from _schedule(clip, moments)
    for kind, recipe in {
        "adam": Recipe(grad_clip_norm=0.0),
        "adam clip": clip,
        "adam clip mu=float32": Recipe(mu_dtype="float32"),
        "adam clip mu=bfloat16": Recipe(mu_dtype="bfloat16"),
    }.items():
        steps = list(_update_errors(case, recipe))
        bounds = [errors.bound(errors.measured) for errors in steps]
        for at, moment in moments.items():
            line = steps[at].line(f"{kind} {moment}")
            if recipe.mu_dtype == "bfloat16":
                # Chance decides which moments are rounded up and which down. The
                # control may differ from the reference in this at one step and not
                # at an early one.
                line = dataclasses.replace(line, bound=max(bounds))
            yield line
    for other in undecayed_cases(case):
        steps = _update_errors(other, clip)
        yield _worst_of_steps(f"adam clip, {other.label()}", steps)
    if case.precision == "float64":
        yield from _known_update_differences(case)
    else:
        yield from _updates_from_zero(case)


def undecayed_cases(case: Case) -> list[Case]:
    """Return models with parts that the default lacks: positions, tokens, a probe.

    No weight decay acts on these; the mask must exclude each of them.
    """
    case = case.but(depth=1)
    return [
        case.but(posemb="learn", pool_type="map", rep_size=0),
        case.but(posemb="learn", pool_type="tok", registers=2),
    ]


def _schedule(recipe: Recipe, moments: Mapping[int, str]) -> Iterator[Comparison]:
    multipliers = ours.multipliers(recipe)
    # Four values are rounded, all at most pi: progress, angle, cosine and sum.
    expected = train.warmup_cosine(recipe.total_steps, recipe.warmup_steps)
    for at, moment in moments.items():
        difference = abs(float(multipliers[at]) - expected(at))
        yield Comparison(f"schedule {moment}", difference, SCHEDULE_BOUND)


def _known_update_differences(case: Case) -> Iterator[Comparison]:
    """Yield what a plain torch trainer does otherwise, with derived bounds."""
    # torch divides by norm + 1e-6. Clipping acts at norms above 1, so gradients change
    # by less than 1e-6, and so do both of Adam's moments (the second by its root).
    known = _update_errors(case, Recipe(), clip_eps=train.TORCH_CLIP_EPS)
    yield _worst_of_steps("known: torch's 1e-6 in the clip", known, 2e-6)
    # optax multiplies a bfloat16 moment by 0.9 in bfloat16: two roundings of 2^-9 at
    # most, which last for b1 / (1 - b1) = 9 steps.
    recipe = Recipe(mu_dtype="bfloat16")
    known = _update_errors(case, recipe, mu_decay_dtype=None)
    yield _worst_of_steps("known: exact b1 on a bfloat16 mu", known, 9 * 2 * 2**-9)


# The largest relative error of an update by bias corrections in float32. 0.999 is
# rounded by at most 2^-25, which its power t multiplies by t. The power and the
# difference are rounded by as much once each. 1 - 0.999^t is 0.001 t, so the relative
# error is (t + 2) / t * 2^-25 / 0.001: largest at t = 1, and halved by the root.
# 1 - 0.9^t adds 3 * 2^-25 / 0.1; all other roundings are a few units of 2^-24.
BIAS_CORRECTION_BOUND = 1.5 * 2**-25 / 0.001 + 30 * 2**-25 + 8 * 2**-24


def _updates_from_zero(case: Case) -> Iterator[Comparison]:
    """Compare updates alone, with optax's bias corrections and with torch's."""
    adam = Recipe(grad_clip_norm=0.0)
    errors = _update_errors(case, adam, from_zero=True)
    yield _worst_of_steps("adam from 0", errors)
    errors = _update_errors(case, adam, from_zero=True, bias_correction_dtype=None)
    name = "known: bias corrections in float32"
    yield _worst_of_steps(name, errors, BIAS_CORRECTION_BOUND)


def _worst_of_steps(
    name: str, steps: Iterator[Errors], bound: float | None = None
) -> Comparison:
    """Return the largest error of all steps; the default bound is the largest too."""
    flat, bounds = {}, []
    for at, errors in enumerate(steps):
        flat |= {f"step {at} {k}": e for k, e in errors.measured.items()}
        bounds.append(errors.bound(errors.measured))
    return worst(name, flat, max(bounds) if bound is None else bound)


def _update_errors(
    case: Case, recipe: Recipe, from_zero: bool = False, **kw: Any
) -> Iterator[Errors]:
    """Yield by step the error of each parameter's update, or of the parameter."""

    def side(case: Case, order: theirs.Order | None) -> Iterator[theirs.Arrays]:
        return theirs.updates(case, recipe, order, from_zero, **kw)

    others = list(theirs.controls(case, side, num_orders=1))
    for a, b, *controls in zip(
        ours.updates(case, recipe, from_zero), side(case, None), *others, strict=True
    ):
        yield compared(case.precision, a, b, controls)
