"""Learning-rate schedules: a factor for each step, with warm-up, decay and cooldown.

Shapes: *n any shape of step counts.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from vitjax.config import arguments, durations

# Maps the number of completed updates (0 for the first) to a factor or a rate.
Schedule: TypeAlias = Callable[[Any], Array]


def _progress(step: Array, warmup: int, total: int) -> Array:
    # The warm-up of a run of 0 or 1 steps may be as long as the run.
    return jnp.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)


def _polynomial(
    base: int | float,
    step: Array,
    warmup: int,
    total: int,
    *,
    end: int | float = 0.0,
    power: int | float = 1.0,
) -> Array:
    return end + (base - end) * (1.0 - _progress(step, warmup, total)) ** power


def _cosine(
    base: int | float,
    step: Array,
    warmup: int,
    total: int,
    *,
    end: int | float = 0.0,
) -> Array:
    to_0 = base * 0.5 * (1.0 + jnp.cos(jnp.pi * _progress(step, warmup, total)))
    return end * base + (1.0 - end) * to_0


def _odd_cosine(
    base: int | float,
    step: Array,
    warmup: int,
    total: int,
    *,
    end: int | float = 0.1,
) -> Array:
    # The schedule of nanoViT's steps 4 to 6, which was meant to be _cosine. It does not
    # subtract the warm-up from the step, and adds a wrong constant.
    cosine = jnp.cos(jnp.pi * step / max(1, total - warmup))
    return base * jnp.where(step < warmup, 1.0, (1.0 - end) * (0.5 * cosine + 1.0))


def _rsqrt(
    base: int | float,
    step: Array,
    warmup: int,
    total: int,
    *,
    timescale: int | float = 10_000,
    shift: int | float = 0,
) -> Array:
    del total
    return base / jnp.sqrt(1 + (jnp.maximum(step - warmup, 0) + shift) / timescale)


def _stair(
    base: int | float,
    step: Array,
    warmup: int,
    total: int,
    *,
    steps: Sequence[int] = (),
    percent: Sequence[int | float] = (),
    mults: Sequence[int | float] = (),
) -> Array:
    del warmup
    if steps and percent:
        raise ValueError("a stair schedule has steps or percent, got both")
    if percent and not 0 <= min(percent) <= max(percent) < 1:
        raise ValueError(
            "the percent of a stair schedule are fractions of the run, at least 0 and "
            f"below 1, got {list(percent)}"
        )
    steps = steps or [round(share * total) for share in percent]
    if len(steps) != len(mults) or list(steps) != sorted(steps):
        raise ValueError(
            "a stair schedule needs ascending steps (or percent) and one mult for each, "
            f"got {list(steps)} and mults={list(mults)}"
        )
    # Runs of 0 or 1 steps are for evaluation and debugging.
    if steps and not percent and steps[-1] >= total > 1:
        raise ValueError(
            f"a stair schedule falls at steps {list(steps)}, but the run ends after step "
            f"{total}: give percent=..., fractions of the run, in place of steps"
        )
    stair = jnp.searchsorted(jnp.asarray(steps), step, side="right")
    return base * jnp.asarray([1.0, *mults])[stair]


DECAYS: Final[Mapping[str, Callable[..., Array]]] = {
    "cosine": _cosine,
    "odd_cosine": _odd_cosine,
    "linear": _polynomial,
    "polynomial": _polynomial,
    "rsqrt": _rsqrt,
    "stair": _stair,
}


def _check_settings(
    decay: Callable[..., Array], decay_type: str, settings: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Check the keys and types; return the decay's arguments and its durations."""
    parameters = inspect.signature(decay).parameters.values()
    own = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    timed = [name for name in own if name in ("timescale", "shift")]
    keys = [k for n in ("warmup", "cooldown", *timed) for k in durations.keys(n)]
    always = ("mult", "decay_type", "scale_with_batchsize", "warmup_offset")
    known = [*always, *own, *keys]
    for key in settings:
        if key not in known:
            raise arguments.unknown(key, known, f"key of a {decay_type} schedule")
    arguments.check_types("schedule", arguments.annotations(decay), settings)
    return own, timed


def check_section(section: durations.Section) -> None:
    """Raise ValueError for an unknown decay, and keys or types that it does not take."""
    takes, _ = arguments.parameters(make_schedule)
    given = dict(section)
    decay_type = given.get("decay_type", takes["decay_type"].default)
    decay = arguments.lookup(DECAYS, decay_type, "decay_type")
    settings = {key: value for key, value in given.items() if key not in takes}
    _check_settings(decay, decay_type, settings)


def make_schedule(
    *,
    total_steps: int,
    batch_size: int | None,
    data_size: int | None,
    mult: int | float = 1.0,
    decay_type: str = "stair",
    scale_with_batchsize: bool = False,
    warmup_offset: int = 0,
    **settings: Any,
) -> Schedule:
    """Make the factor on the learning rate, a function of the completed updates.

    The factor starts at `mult` (times batch_size / 256 with `scale_with_batchsize`) and
    decays over the steps after the warm-up. Defaults are in parentheses:

    - "stair": mults[i] from step steps[i] on, or from the fraction percent[i] of the
      run on; constant without `mults`
    - "cosine": half a cosine down to `end` (0), a fraction of the start
    - "odd_cosine": nanoViT's schedule, for comparison: (1 - `end` (0.1)) *
      (1 + cos(pi * step / (total - warmup)) / 2) after the warm-up. It jumps to up to
      1.35 there and ends near 0.45
    - "linear", "polynomial": down to `end` (0), as (1 - progress) ** `power` (1)
    - "rsqrt": 1 / sqrt(1 + (step - warmup + `shift` (0)) / `timescale` (10,000))

    `settings` are these keywords and the durations `warmup` and `cooldown` (for rsqrt
    also `timescale` and `shift`) in any unit, as in "warmup_steps". Warm-up multiplies
    by step / warmup, so the first update is zero. Cooldown multiplies by (total - step)
    / cooldown (big_vision utils.py:1070-1143). With `warmup_offset=1`, warm-up
    multiplies by (step + 1) / warmup.
    """
    decay = arguments.lookup(DECAYS, decay_type, "decay_type")
    own, timed = _check_settings(decay, decay_type, settings)

    def span(name: str, default: Any) -> Any:
        return durations.steps(
            name,
            settings,
            data_size=data_size,
            batch_size=batch_size,
            total_steps=total_steps,
            default=default,
        )

    if warmup_offset not in (0, 1):
        raise ValueError(f"warmup_offset must be 0 or 1, got {warmup_offset}")
    warmup, cooldown = span("warmup", 0), span("cooldown", 0)
    decay_kw = {key: value for key, value in settings.items() if key in own}
    for name in timed:
        if (steps := span(name, None)) is None:
            continue
        if name in decay_kw:
            raise ValueError(f"{name} is given twice: keep one of its keys")
        decay_kw[name] = steps
    # Runs of 0 or 1 steps, for evaluation and debugging, may have a longer warm-up.
    if warmup >= total_steps > 1:
        raise ValueError(
            f"the warm-up of {warmup} steps must be shorter than the run of "
            f"{total_steps}: shorten the schedule's warm-up (warmup_steps or the like) or "
            "lengthen the run"
        )
    if scale_with_batchsize:
        if batch_size is None:
            raise ValueError(
                "scale_with_batchsize needs batch_size, which is not known"
            )
        mult = mult * batch_size / 256  # arXiv 1706.02677

    def schedule(step: Int[ArrayLike, " *n"]) -> Float[Array, " *n"]:
        step = jnp.asarray(step)  # an int must give the values of a traced step
        factor = decay(mult, step, warmup, total_steps, **decay_kw)
        if warmup:
            factor = factor * jnp.minimum(1.0, (step + warmup_offset) / warmup)
        if cooldown:
            factor = factor * jnp.minimum(1.0, (total_steps - step) / cooldown)
        return jnp.asarray(factor, jnp.float32)

    _check_traced(schedule, f"a {decay_type} schedule with {settings}")
    return schedule


def _check_traced(schedule: Schedule, what: str) -> None:
    """Raise ValueError for settings that would make the first step fail."""
    try:
        jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    except (TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{what} fails: {error}") from error
