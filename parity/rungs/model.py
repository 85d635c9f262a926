"""The rungs that compare the model: forward, loss, gradients.

`RUNGS` also has the rung of parity.rungs.initialisation. A rung is a function of a
`Case` that yields comparisons, in the case's precision.
"""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from parity.reference import train
from parity.rungs.comparison import (
    CONTROL_FACTOR,
    EPSILON,
    FLOAT64_BOUND,
    Comparison,
    Errors,
    compared,
    relative_error,
)
from parity.rungs.initialisation import initialisation
from parity.sides import ours, theirs
from parity.sides.cases import Case, random_batch


def forward(case: Case) -> Iterator[Comparison]:
    """Compare every stage of the model; for each choice of options, the worst stage.

    The choices have a depth of 2 at most, because they do not touch the blocks.
    """
    errors = _forward_errors(case)
    stages: dict[str, list[str]] = {}
    for stage in errors.measured:
        stages.setdefault(stage.split("/")[0], []).append(stage)
    for stage, members in stages.items():
        line = errors.line(stage, members)
        yield line if len(members) > 1 else dataclasses.replace(line, detail="")
    for choice in choices(case.shallow()):
        if choice != case:
            yield _forward_errors(choice).line(choice.label())


def choices(case: Case) -> list[Case]:
    """Return cases of all position embeddings, poolings and heads, registers, GELU."""
    options = product(
        ("sincos2d", "learn", "none"), ("gap", "tok", "map"), (case.rep_size, 0)
    )
    found = [
        case.but(posemb=posemb, pool_type=pool_type, rep_size=rep_size)
        for posemb, pool_type, rep_size in options
    ]
    found += [case.but(pool_type=p, registers=2) for p in ("gap", "tok", "map")]
    return [*found, case.but(gelu="exact")]


def _forward_errors(case: Case) -> Errors:
    controls = theirs.controls(case, theirs.forward)
    b = theirs.forward(case, None)
    return compared(case.precision, ours.forward(case), b, controls)


def loss(case: Case) -> Iterator[Comparison]:
    """Compare both losses with hard, mixed and smoothed labels, and mixup itself."""
    rng = np.random.default_rng(3)
    logits = 5 * rng.standard_normal((case.batch_size, case.num_classes))
    image, onehot = random_batch(case)
    lam = 0.7
    float64 = case.precision == "float64"
    # mixup is not a long sum: it rounds two products and their sum once each.
    bound = FLOAT64_BOUND if float64 else CONTROL_FACTOR * EPSILON
    for what, x in (("image", image), ("labels", onehot)):
        b = train.mix(theirs.tensor(case, x), lam).numpy()
        error = relative_error(ours.mixed(case, x, lam), b)
        yield Comparison(f"mixup {what}", error, bound)
    mixed = lam * onehot + (1 - lam) * np.roll(onehot, 1, axis=0)
    labels = {"hard": onehot, "mixed": mixed}
    for name, (kind, y), smoothing in product(train.LOSSES, labels.items(), (0.0, 0.1)):

        def side(
            case: Case,
            order: theirs.Order | None,
            name: str = name,
            y: np.ndarray = y,
            smoothing: float = smoothing,
        ) -> theirs.Arrays:
            given = {"name": name, "logits": logits, "labels": y}
            return theirs.loss_and_gradient(case, order, **given, smoothing=smoothing)

        a = ours.loss_and_gradient(case, name, logits, y, smoothing)
        controls = theirs.controls(case, side)
        errors = compared(case.precision, a, side(case, None), controls)
        yield errors.line(f"{name} {kind} labels{' smoothed' if smoothing else ''}")


def gradients(case: Case) -> Iterator[Comparison]:
    """Compare the gradient of every parameter; for other options, the worst.

    In float64 the options are all that `forward` compares, at a depth of 1. They run op
    by op, because compiling so many models takes longer, and in float64 the results are
    the same.
    """
    yield from _gradient_errors(case).grouped()
    float64 = case.precision == "float64"
    for other in choices(case.but(depth=1)) if float64 else low_gradient_cases(case):
        yield _gradient_errors(other, jitted=not float64).line(other.label())


def low_gradient_cases(case: Case) -> list[Case]:
    """Return the options to differentiate in float32 and bfloat16."""
    shallow = case.shallow()
    return [
        shallow.but(posemb="learn", pool_type="map", rep_size=0),
        shallow.but(posemb="none", pool_type="tok", registers=2),
        shallow.but(gelu="exact"),
    ]


def _gradient_errors(case: Case, jitted: bool = True) -> Errors:
    b = theirs.gradients(case, None)
    controls = theirs.controls(case, theirs.gradients)

    def floor(name: str) -> float:
        # A key's bias shifts all logits of a query alike, which the softmax ignores.
        # Its gradient is rounding noise, so its error is relative to the query's.
        query = name.replace("/key/bias", "/query/bias")
        return float(np.abs(b[query]).max()) if query != name else 0.0

    a = ours.gradients(case, jitted)
    errors = compared(case.precision, a, b, controls, floor)
    if not case.half:
        return errors
    # On the CPU, XLA rounds the partial sums of a bfloat16 bias's gradient to bfloat16,
    # and torch only their total. Other partial sums in vitjax show the effect.
    rows = ours.gradients(case, jitted, True)  # row by row
    own = {k: relative_error(rows[k], x, floor(k)) for k, x in a.items()}
    own = {k: x if k.endswith("/bias") else 0.0 for k, x in own.items()}
    return dataclasses.replace(errors, controls=[*errors.controls, own])


RUNGS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "initialisation": initialisation,
    "forward": forward,
    "loss": loss,
    "gradients": gradients,
}
