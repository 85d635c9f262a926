"""The ladder: each rung compares one thing on both sides, in float64.

A rung is a function of a `Case` that yields comparisons. The bound of what is computed
is 1e-9, relative: float64 rounding reaches 1e-12 at most here, and each fault that
parity.self_test plants exceeds 1e-6.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch

from parity import ours, weights
from parity.cases import (
    Case,
    Recipe,
    digit_batches,
    random_batch,
    random_gradients,
    random_params,
)
from parity.comparison import Comparison, grouped, relative_error, worst
from parity.reference import train, vit
from vitjax.trees import flatten_with_names

FLOAT64_BOUND = 1e-9
# In standard errors. With 8 seeds a side or more, the hundreds of statistics of a run
# stay below 5; the seeds are fixed, so a run's verdict does not change by luck.
INIT_BOUND = 7.0


def make_reference(case: Case, seed: int = 0) -> vit.ViT:
    """The reference model of a case as it is initialised, in float32."""
    return vit.ViT(image_size=case.image_size, seed=seed, **case.model_kwargs())


def reference_with(case: Case, params: Any) -> vit.ViT:
    """The reference model in float64 with vitjax's parameters."""
    model = make_reference(case).double()
    weights.load(model, params)
    return model


def from_torch(tensors: Mapping[str, Any], case: Case) -> dict[str, np.ndarray]:
    """Parameters, gradients or updates by vitjax's names."""
    arrays = {k: v.detach().numpy() for k, v in tensors.items()}
    tree = weights.from_state_dict(arrays, ours.shapes(case))
    return dict(flatten_with_names(tree))


def initialisation(case: Case) -> Iterator[Comparison]:
    """Mean, deviation, least and greatest value of every parameter, over seeds.

    Measured in standard errors of the difference between both sides' averages.
    """
    base = case.but(head_zeroinit=True)
    others = [
        base.but(depth=1, posemb="learn", pool_type="map", rep_size=0),
        base.but(depth=1, posemb="none", pool_type="tok", registers=3),
        base.but(depth=1, head_zeroinit=False),
    ]
    yield from grouped(_init_errors(base), INIT_BOUND)
    for other in others:
        zero = "" if other.head_zeroinit else " head_zeroinit=False"
        yield worst(other.label() + zero, _init_errors(other), INIT_BOUND)


def _init_errors(case: Case) -> dict[str, float]:
    a = ours.init_statistics(case)
    rows: dict[str, list[Any]] = {name: [] for name in a}
    for seed in range(case.num_seeds):
        params = from_torch(make_reference(case, seed).state_dict(), case)
        for name, x in params.items():
            rows[name].append([x.mean(), x.std(), x.min(), x.max()])
    errors = {}
    for name in a:
        b = np.array(rows[name])
        difference = np.abs(a[name].mean(axis=0) - b.mean(axis=0))
        variance = a[name].var(axis=0, ddof=1) + b.var(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = difference / np.sqrt(variance / case.num_seeds)
        # What does not vary (zeros, ones) must be equal.
        errors[name] = float(np.where(difference == 0, 0.0, z).max())
    return errors


def forward(case: Case) -> Iterator[Comparison]:
    """Every stage of the model, and the worst stage for every choice of options.

    The choices are compared at a depth of 2 at most: they do not touch the blocks.
    """
    errors = _forward_errors(case)
    stages: dict[str, dict[str, float]] = {}
    for stage, error in errors.items():
        stages.setdefault(stage.split("/")[0], {})[stage] = error
    for stage, members in stages.items():
        line = worst(stage, members, FLOAT64_BOUND)
        is_block = len(members) > 1
        yield line if is_block else dataclasses.replace(line, detail="")
    shallow = case.but(depth=min(case.depth, 2))
    choices = [
        shallow.but(posemb=posemb, pool_type=pool_type, rep_size=rep_size)
        for posemb, pool_type, rep_size in product(
            ("sincos2d", "learn", "none"),
            ("gap", "tok", "map"),
            (case.rep_size, 0),
        )
    ]
    choices += [shallow.but(pool_type=p, registers=2) for p in ("gap", "tok", "map")]
    choices += [shallow.but(gelu="exact")]
    for choice in choices:
        if choice == case:
            continue
        yield worst(choice.label(), _forward_errors(choice), FLOAT64_BOUND)


@torch.no_grad()
def _forward_errors(case: Case) -> dict[str, float]:
    a = ours.forward(case)
    image, _ = random_batch(case)
    model = reference_with(case, random_params(ours.shapes(case)))
    _, b = model(torch.tensor(image))
    if a.keys() != b.keys():
        raise ValueError(f"the stages differ: {sorted(a.keys() ^ b.keys())}")
    return {stage: relative_error(a[stage], b[stage].numpy()) for stage in b}


def loss(case: Case) -> Iterator[Comparison]:
    """Both losses with hard, mixed and smoothed labels, and mixup itself."""
    rng = np.random.default_rng(3)
    logits = 5 * rng.standard_normal((case.batch_size, case.num_classes))
    image, onehot = random_batch(case)
    lam = 0.7
    for what, x in (("image", image), ("labels", onehot)):
        theirs = train.mix(torch.tensor(x), lam).numpy()
        error = relative_error(ours.mixed(x, lam), theirs)
        yield Comparison(f"mixup {what}", error, FLOAT64_BOUND)
    mixed = lam * onehot + (1 - lam) * np.roll(onehot, 1, axis=0)
    labels = {"hard": onehot, "mixed": mixed}
    for name, (kind, y), smoothing in product(train.LOSSES, labels.items(), (0.0, 0.1)):
        value, grad = ours.loss_and_gradient(name, logits, y, smoothing)
        x = torch.tensor(logits, requires_grad=True)
        other = train.LOSSES[name](x, torch.tensor(y), smoothing)
        other.backward()
        assert x.grad is not None
        errors = {
            "value": relative_error(value, other.item()),
            "gradient": relative_error(grad, x.grad.numpy()),
        }
        smooth = " smoothed" if smoothing else ""
        yield worst(f"{name} {kind} labels{smooth}", errors, FLOAT64_BOUND)


def gradients(case: Case) -> Iterator[Comparison]:
    """The gradient of every parameter; for other options, the worst."""
    yield from grouped(_gradient_errors(case), FLOAT64_BOUND)
    shallow = case.but(depth=min(case.depth, 2))
    for other in (
        shallow.but(posemb="learn", pool_type="map", rep_size=0),
        shallow.but(posemb="none", pool_type="tok", registers=2),
        shallow.but(gelu="exact"),
    ):
        yield worst(other.label(), _gradient_errors(other), FLOAT64_BOUND)


def _gradient_errors(case: Case) -> dict[str, float]:
    a = ours.gradients(case)
    image, labels = map(torch.tensor, random_batch(case))
    model = reference_with(case, random_params(ours.shapes(case)))
    logits, _ = model(image)
    train.softmax_xent(logits, train.mix(labels, 0.7)).backward()
    b = from_torch({k: p.grad for k, p in model.named_parameters()}, case)
    errors = {}
    for name in b:
        # A key's bias shifts all logits of a query alike and the softmax ignores it:
        # its gradient is rounding noise, which is measured by the query's.
        query = name.replace("/key/bias", "/query/bias")
        floor = float(np.abs(b[query]).max()) if query != name else 0.0
        errors[name] = relative_error(a[name], b[name], floor)
    return errors


def make_trainer(model: vit.ViT, recipe: Recipe, **kw: Any) -> train.Trainer:
    """The reference trainer of a recipe, on vitjax's own schedule.

    vitjax computes the schedule in float32 whatever the parameters are. That is compared
    on its own, so that here the rest can be held to float64's bound.
    """
    mu_dtype = getattr(torch, recipe.mu_dtype) if recipe.mu_dtype else None
    kwargs = {
        "lr": recipe.lr,
        "wd": recipe.wd,
        "multiplier": [*ours.multipliers(recipe).tolist(), 0.0].__getitem__,
        "grad_clip_norm": recipe.grad_clip_norm,
        "mu_dtype": mu_dtype,
        "mu_decay_dtype": mu_dtype,
    }
    return train.Trainer(model, **{**kwargs, **kw})


def update(case: Case) -> Iterator[Comparison]:
    """Single updates on made-up gradients: clip, Adam, decay mask, schedule."""
    clip = Recipe()
    last = clip.total_steps - 1
    moments = {
        0: "step 0",
        1: "step 1",
        clip.warmup_steps: "warm-up end",
        (clip.warmup_steps + last) // 2: "middle",
        last: "last step",
    }
    multipliers = ours.multipliers(clip)
    # The cosine rounds its progress, the angle, itself and the sum; all are at most pi.
    eps = float(np.finfo(multipliers.dtype).eps)
    bound = max(FLOAT64_BOUND, 4 * eps)
    theirs = train.warmup_cosine(clip.total_steps, clip.warmup_steps)
    for at, moment in moments.items():
        difference = abs(float(multipliers[at]) - theirs(at))
        yield Comparison(f"schedule {moment}", difference, bound)

    for kind, recipe in {
        "adam": Recipe(grad_clip_norm=0.0),
        "adam clip": clip,
        "adam clip mu=float32": Recipe(mu_dtype="float32"),
        "adam clip mu=bfloat16": Recipe(mu_dtype="bfloat16"),
    }.items():
        for at, errors in _update_errors(case, recipe).items():
            if at in moments:
                yield worst(f"{kind} {moments[at]}", errors, FLOAT64_BOUND)
    yield from _known_update_differences(case)


def _known_update_differences(case: Case) -> Iterator[Comparison]:
    """What a plain torch trainer does otherwise: measured, and bounded from above."""
    # torch divides by norm + 1e-6. Clipping acts at norms above 1, so gradients change
    # by less than 1e-6, and so do both of Adam's moments (the second by its root).
    known = _update_errors(case, Recipe(), clip_eps=train.TORCH_CLIP_EPS)
    yield _worst_step("known: torch's 1e-6 in the clip", known, 2e-6)
    # optax multiplies a bfloat16 moment by 0.9 in bfloat16: two roundings of 2^-9 at
    # most, remembered for b1 / (1 - b1) = 9 steps.
    recipe = Recipe(mu_dtype="bfloat16")
    known = _update_errors(case, recipe, mu_decay_dtype=None)
    yield _worst_step("known: exact b1 on a bfloat16 mu", known, 9 * 2 * 2**-9)


def _worst_step(
    name: str, errors: Mapping[int, Mapping[str, float]], bound: float
) -> Comparison:
    flat = {f"step {at} {k}": e for at, row in errors.items() for k, e in row.items()}
    return worst(name, flat, bound)


def _update_errors(
    case: Case, recipe: Recipe, **kw: Any
) -> dict[int, dict[str, float]]:
    """By step: the relative error of each parameter's update."""
    pairs = zip(
        ours.updates(case, recipe), _reference_updates(case, recipe, **kw), strict=True
    )
    return {
        at: {name: relative_error(a[name], b[name]) for name in b}
        for at, (a, b) in enumerate(pairs)
    }


def _reference_updates(
    case: Case, recipe: Recipe, **kw: Any
) -> Iterator[dict[str, np.ndarray]]:
    shapes = ours.shapes(case)
    model = reference_with(case, random_params(shapes))
    trainer = make_trainer(model, recipe, **kw)
    for at in range(recipe.total_steps):
        grads = weights.to_state_dict(random_gradients(shapes, at))
        before = {}
        for name, p in model.named_parameters():
            before[name] = p.detach().clone()
            p.grad = torch.tensor(grads[name])
        trainer.update()
        change = {k: p.detach() - before[k] for k, p in model.named_parameters()}
        yield from_torch(change, case)


def trajectory(case: Case) -> Iterator[Comparison]:
    """30 steps from one set of weights on the same batches of real digits."""
    recipe = Recipe(total_steps=30, warmup_steps=5)
    curves, a = ours.trajectory(case, recipe)
    model = reference_with(case, ours.initial_params(case))
    trainer = make_trainer(model, recipe)
    rows = []
    batches = digit_batches(case, recipe.total_steps)
    lambdas = ours.lambdas(recipe.total_steps)
    for (image, labels), lam in zip(batches, lambdas, strict=True):
        rows.append(trainer.step(torch.tensor(image), torch.tensor(labels), lam))
    for name in rows[0]:
        errors = {
            f"step {at + 1}": relative_error(value, row[name])
            for at, (value, row) in enumerate(zip(curves[name], rows, strict=True))
        }
        yield worst(f"{recipe.total_steps} steps {name}", errors, FLOAT64_BOUND)
    b = from_torch(dict(model.named_parameters()), case)
    # Relative to a full step at least: key biases move by rounding noise alone.
    errors = {k: relative_error(a[k], b[k], floor=recipe.lr) for k in b}
    yield worst(f"{recipe.total_steps} steps params", errors, FLOAT64_BOUND)


RUNGS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "initialisation": initialisation,
    "forward": forward,
    "loss": loss,
    "gradients": gradients,
    "update": update,
    "trajectory": trajectory,
}
