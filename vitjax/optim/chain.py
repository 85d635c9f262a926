"""The optimizer, big_vision's chain of transforms, schedules and parameter groups.

    clip -> + l2 * params -> optimizer -> x lr -> x lr_mults
         -> + wd * params -> x schedule -> x -1

An update is -schedule * (lr * adam + wd * params): weight decay is multiplied by the
schedule but not by the learning rate, so torch's AdamW needs weight_decay = wd / lr.
`l2` is the coupled decay that torch's Adam calls weight_decay; big_vision has none.
This holds for every optimizer, also by its usual name: "adam" and "adamw" are the same.
LAMB's paper has the decay inside the trust ratio r, so there it is
-schedule * lr_mult * r * (lr * adam + wd * params).
Parameters with the schedule None are frozen: they get a zero update, have no optimizer
state and do not count in the norm that is clipped (big_vision optax.py:78-149).
"""

import contextlib
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import optax as ox
from absl import logging

from input_pipeline import parts
from vitjax import trees
from vitjax.config import arguments, names
from vitjax.config.durations import Section
from vitjax.optim import schedules
from vitjax.optim.schedules import Schedule, make_schedule
from vitjax.optim.transforms import NAMED, OURS

Pairs: TypeAlias = Sequence[tuple[str, Any]]
Mults: TypeAlias = Sequence[tuple[str, int | float]]


def make_optimizer(
    params: Any,
    *,
    total_steps: int,
    batch_size: int | None,
    data_size: int | None,
    lr: int | float,
    optax_name: str,
    optax: Section | None = None,
    schedule: Section | Pairs | None = None,
    wd: int | float | None = None,
    wd_mults: Mults = ((".*/kernel$", 1.0),),
    lr_mults: Mults | None = None,
    grad_clip_norm: int | float | None = None,
    l2: int | float | None = None,
    l2_mults: Mults = ((".*/kernel$", 1.0),),
    sam: Section | None = None,
) -> tuple[ox.GradientTransformation, list[Schedule]]:
    """Make the transform, and the rate lr * schedule of each group that is trained.

    `params` is a tree of arrays or of their shapes. `optax_name` names a transform of
    optax ("scale_by_adam", "contrib.scale_by_ademamix"), one of `transforms.OURS`, such
    as "adamw", or a person's own ("mine.opt.scale_by_x"); `optax` is its keyword arguments. `schedule` is the keyword
    arguments of `make_schedule` for all parameters, or a list of pairs (pattern, such a
    section or None to freeze) that covers all parameters; None means a constant rate.
    `lr_mults`, `wd_mults` and `l2_mults` are lists of pairs (pattern, factor); they do
    not apply to parameters without a match. In every list a pattern must match the
    whole name, and the first match counts. Gradients whose global norm is at least
    `grad_clip_norm` are scaled down to that norm.

    `sam` is the keyword arguments of `sharpness_aware`. The transform's update then
    needs `grad_fn(params, i)`, which `vitjax.step` passes.
    """
    run = dict(total_steps=total_steps, batch_size=batch_size, data_size=data_size)
    _warn_of_idle(params, _pairs(schedule), "schedule")
    _warn_of_idle(params, lr_mults or (), "lr_mults")
    _warn_of_idle(params, wd_mults if wd else (), "wd_mults")
    _warn_of_idle(params, l2_mults if l2 else (), "l2_mults")
    groups = _schedule_groups(params, schedule, run)
    frozen = frozen_mask(params, schedule)
    trained = jax.tree.map(operator.not_, frozen)

    chain = []
    if grad_clip_norm:
        if not grad_clip_norm > 0:
            raise ValueError(f"grad_clip_norm must be above 0, got {grad_clip_norm}")
        chain.append(ox.masked(ox.clip_by_global_norm(grad_clip_norm), trained))
    if l2:
        for mask, mult in _groups(params, l2_mults, "l2_mults"):
            chain.append(ox.add_decayed_weights(l2 * mult, mask))
    chain.append(_transform(optax_name, dict(optax or {}), params, trained))
    decay = [
        (mask, wd * mult)
        for mask, mult in (_groups(params, wd_mults, "wd_mults") if wd else ())
    ]
    if optax_name == "lamb":
        for mask, rate in decay if lr else ():
            chain.append(ox.add_decayed_weights(rate / lr, mask))
        chain.append(ox.masked(ox.scale_by_trust_ratio(), trained))
    chain.append(ox.scale(lr))
    for mask, mult in _groups(params, lr_mults or (), "lr_mults"):
        if not mult > 0:
            raise ValueError(
                f"lr_mults must be above 0, got {mult!r}; to freeze parameters, set "
                "their schedule to None"
            )
        chain.append(ox.masked(ox.scale(mult), mask))
    if optax_name != "lamb":
        for mask, rate in decay:
            chain.append(ox.add_decayed_weights(rate, mask))
    for mask, fn in groups:
        chain.append(ox.masked(ox.scale_by_schedule(fn), mask))
    # Weight decay applies to frozen parameters too, so zero their updates after it.
    chain.append(ox.masked(ox.set_to_zero(), frozen))
    chain.append(ox.scale(-1.0))
    tx = ox.chain(*chain)
    if sam is not None:
        arguments.check("sam", sharpness_aware, dict(sam), {"tx": tx})
        tx = sharpness_aware(tx, **dict(sam))
    return tx, [_rate(lr, fn) for _, fn in groups]


def check_section(section: Mapping[str, Any]) -> None:
    """Raise ValueError if an optimizer key is wrong, as far as that needs no data."""
    arguments.check_types("", arguments.annotations(make_optimizer), section)
    if not section["lr"] >= 0:
        raise ValueError(f"lr must be at least 0, got {section['lr']}")
    _factory(section["optax_name"])
    for _, schedule in _pairs(section.get("schedule")):
        if isinstance(schedule, Section):
            schedules.check_section(schedule)


def sharpness_aware(
    tx: ox.GradientTransformation, *, rho: int | float = 0.05
) -> ox.GradientTransformationExtraArgs:
    """Apply `tx` to the gradient at params + rho * gradient / |gradient|.

    Sharpness-aware minimization (https://arxiv.org/abs/2010.01412) prefers flat minima
    and computes two gradients per step. Raises ValueError unless rho is above 0.
    """
    if not rho > 0:
        raise ValueError(f"sam.rho must be above 0, got {rho}")
    uphill = ox.chain(ox.contrib.normalize(), ox.sgd(rho))
    return ox.contrib.sam(tx, uphill, opaque_mode=True)


def _warn_of_idle(params: Any, rules: Pairs, what: str) -> None:
    for pattern, _ in rules:
        (mask,) = trees.match_patterns(params, [pattern], what=what)
        if not any(jax.tree.leaves(mask)):
            logging.warning("%s: %r matches no parameter", what, pattern)


def frozen_mask(params: Any, schedule: Section | Pairs | None) -> Any:
    """Return a tree of bools: True where `schedule` freezes a parameter."""
    frozen = jax.tree.map(lambda _: False, params)
    for mask, section in _groups(params, _pairs(schedule), "schedule", strict=True):
        if section is None:
            frozen = jax.tree.map(operator.or_, frozen, mask)
    return frozen


def _pairs(schedule: Section | Pairs | None) -> Pairs:
    if schedule is None:
        schedule = {}
    return [(".*", schedule)] if isinstance(schedule, Section) else schedule


def _rate(lr: int | float, schedule: Schedule) -> Schedule:
    return lambda step: lr * schedule(step)


def _groups(
    params: Any, rules: Pairs, what: str, *, strict: bool = False
) -> list[tuple[Any, Any]]:
    """Return (mask, value) of each pattern."""
    patterns = [pattern for pattern, _ in rules]
    masks = trees.match_patterns(params, patterns, strict=strict, what=what)
    return [(mask, value) for mask, (_, value) in zip(masks, rules, strict=True)]


def _schedule_groups(
    params: Any, schedule: Section | Pairs | None, run: dict[str, Any]
) -> list[tuple[Any, Schedule]]:
    """Return (mask, schedule) of each group that is not frozen."""
    groups = []
    for mask, section in _groups(params, _pairs(schedule), "schedule", strict=True):
        if section is None:
            continue
        if not isinstance(section, Section):
            raise ValueError(
                f"schedule must be a section, or None to freeze, got {section!r}"
            )
        if clash := sorted(run.keys() & set(section.keys())):
            raise ValueError(f"schedule cannot set {clash[0]}: the run sets it")
        arguments.check("schedule", make_schedule, dict(section), run)
        groups.append((mask, make_schedule(**run, **dict(section))))
    return groups


def _transform(
    name: str, kwargs: dict[str, Any], params: Any, trained: Any
) -> ox.GradientTransformation:
    """Make the transform of this name and arguments, for the trained parameters."""
    factory = _factory(name)
    parameters = inspect.signature(factory).parameters
    if "learning_rate" in parameters:
        # Such a factory scales by -learning_rate; the chain's -1 would undo the sign.
        raise ValueError(
            f"optax_name={name!r} is a whole optimizer of optax with its own learning "
            'rate; name the transform within it, like "scale_by_rms" for "rmsprop", or '
            f"one of {', '.join(NAMED)}"
        )
    if all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
        for key in kwargs:
            if key not in parameters:
                raise arguments.unknown(
                    key, parameters, f"key of config.optax for {name}"
                )
    with _explained(name, kwargs):
        tx = factory(**kwargs)
    if not isinstance(tx, ox.GradientTransformation):
        raise ValueError(
            f"optax_name={name!r} must make a gradient transformation, but makes "
            f"a {type(tx).__name__}"
        )
    tx = ox.masked(tx, trained)
    # optax uses most arguments only in an update: trace one to find errors now.
    with _explained(name, kwargs):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
    return tx


@contextlib.contextmanager
def _explained(name: str, kwargs: dict[str, Any]) -> Iterator[None]:
    """Turn any error of a transform into a ValueError with one sentence."""
    try:
        yield
    except Exception as error:
        first = str(error).strip().split("\n")[0] or type(error).__name__
        why = parts.in_own_code(error) or first
        raise ValueError(f"optax_name={name!r} with {kwargs} fails: {why}") from error


def _factory(name: str) -> Callable[..., Any]:
    """Return a transform's function: ours, optax's, or a person's own of a dotted name."""
    if name in OURS:
        return OURS[name]
    try:
        factory = operator.attrgetter(name)(ox)
    except AttributeError:
        factory = None
    top = name.split(".")[0]
    in_optax = hasattr(ox, top) or top in names.NOT_OWN_OPTIMIZERS
    if parts.is_dotted(name) and not in_optax:
        return parts.find(name, "optimizers")
    if not callable(factory):
        usual = name.removeprefix("scale_by_")
        if usual in NAMED:
            raise ValueError(f"unknown optax_name {name!r}; did you mean {usual!r}?")
        modules = {"": ox, "contrib.": ox.contrib}
        scalers = [
            prefix + key
            for prefix, module in modules.items()
            for key in dir(module)
            if key.startswith("scale_by_")
        ]
        known = [*OURS, *scalers, "ema", "identity", "trace"]
        raise arguments.unknown(name, known, "optax_name")
    return factory
