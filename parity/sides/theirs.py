"""The torch side of every comparison: numpy arrays in, numpy arrays out.

With an `Order`, a function computes the same in another summation order and returns the
results in the usual one. These are the controls of comparisons in float32 or bfloat16.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from parity.reference import train, vit
from parity.sides import ours, weights
from parity.sides.cases import (
    Case,
    Recipe,
    padded_batches,
    random_batch,
    random_gradients,
    random_params,
    train_batches,
)
from parity.sides.orders import Order, make_order
from vitjax.trees import flatten_with_names

Arrays = dict[str, np.ndarray]
Result = TypeVar("Result")


def controls(
    case: Case,
    theirs: Callable[[Case, Order | None], Result],
    num_orders: int = 3,
) -> Iterator[Result]:
    """Yield `theirs(case, order)` in other orders; for bfloat16 also in float32.

    There are several orders because a single one may change little by chance. bfloat16
    products are summed in float32 and only the sum is rounded, so most sums do not
    change with the order. The effect of bfloat16 on the reference itself is therefore a
    control as well. float64 has no controls.
    """
    if case.precision == "float64":
        return
    for seed in range(num_orders):
        yield theirs(case, make_order(case, seed))
    if case.half:
        yield theirs(case.but(precision="float32"), None)


def make_reference(case: Case, seed: int = 0) -> vit.ViT:
    """Build a case's reference model with its own initialisation, in float32."""
    kwargs = {"image_size": case.image_size, "bfloat16": case.half, "seed": seed}
    kwargs["bfloat16_stream"] = case.precision == "bfloat16_all"
    return vit.ViT(**kwargs, **case.model_kwargs())


def reference_with(case: Case, params: Any, order: Order | None = None) -> vit.ViT:
    """Build the reference model with vitjax's parameters, in the case's dtype."""
    model = make_reference(case).to(getattr(torch, case.dtype))
    weights.load(model, params)
    if order is not None:
        order.permute(model)
    return model


def tensor(case: Case, x: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor of the case's dtype."""
    return torch.tensor(x, dtype=getattr(torch, case.dtype))


def by_our_names(
    tensors: Mapping[str, Any], case: Case, order: Order | None = None
) -> Arrays:
    """Return parameters, gradients or updates by vitjax's names."""
    # Copy, because training changes its parameters in place.
    arrays = {k: v.detach().numpy().copy() for k, v in tensors.items()}
    if order is not None:
        arrays = order.undo_state(arrays)
    return dict(flatten_with_names(weights.from_state_dict(arrays, ours.shapes(case))))


def _batch(
    case: Case, image: np.ndarray, labels: np.ndarray, order: Order | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if order is not None:
        image, labels = order.image(image), order.labels(labels)
    return tensor(case, image), tensor(case, labels)


def init_statistics(case: Case, first_seed: int) -> Arrays:
    """Return by parameter (seed, 4), as `ours.init_statistics`."""
    rows: dict[str, list[Any]] = {}
    for seed in range(first_seed, first_seed + case.num_seeds):
        params = by_our_names(make_reference(case, seed).state_dict(), case)
        for name, x in params.items():
            row = [x.mean(), x.std(), x.min(), x.max()]
            rows.setdefault(name, []).append(row)
    return {name: np.array(row) for name, row in rows.items()}


@torch.no_grad()
def forward(case: Case, order: Order | None) -> Arrays:
    """Return every stage on random parameters and images."""
    model = reference_with(case, random_params(ours.shapes(case)), order)
    image, _ = _batch(case, *random_batch(case), order)
    _, out = model(image)
    arrays = {name: x.double().numpy() for name, x in out.items()}
    return arrays if order is None else order.undo_stages(arrays)


def gradients(case: Case, order: Order | None) -> Arrays:
    """Return by parameter the gradient of the softmax loss on a mixed random batch."""
    model = reference_with(case, random_params(ours.shapes(case)), order)
    image, labels = _batch(case, *random_batch(case), order)
    logits, _ = model(image)
    train.softmax_xent(logits, train.mix(labels, 0.7)).backward()
    grads = {k: p.grad for k, p in model.named_parameters()}
    return by_our_names(grads, case, order)


def loss_and_gradient(
    case: Case,
    order: Order | None,
    *,
    name: str,
    logits: np.ndarray,
    labels: np.ndarray,
    smoothing: float,
) -> Arrays:
    """Return the loss and its gradient with respect to the logits."""
    if order is not None:
        logits, labels = order.labels(logits), order.labels(labels)
    x = tensor(case, logits).requires_grad_()
    value = train.LOSSES[name](x, tensor(case, labels), smoothing)
    value.backward()
    assert x.grad is not None
    grad = x.grad.numpy()
    grad = grad if order is None else order.undo_labels(grad)
    return {"value": value.detach().numpy(), "gradient": grad}


def make_trainer(
    case: Case, model: vit.ViT, recipe: Recipe, **kw: Any
) -> train.Trainer:
    """Build the reference trainer of a recipe, with vitjax's own schedule.

    vitjax computes the schedule in float32 in every precision. The schedule is compared
    separately, so the rest can be held to float64's bound here. XLA omits
    intermediate roundings to bfloat16 between float32 operations, such as that of b1
    times mu. `mu_product_dtype` is therefore set in float64 only.

    In float32 the trainer has Adam's bias corrections in float32, as optax does. The
    line "known: bias corrections in float32" of the rung update measures how these
    differ from torch's own.
    """
    mu_dtype = getattr(torch, recipe.mu_dtype) if recipe.mu_dtype else None
    kwargs = {
        "lr": recipe.lr,
        "wd": recipe.wd,
        "multiplier": [*ours.multipliers(recipe).tolist(), 0.0].__getitem__,
        "grad_clip_norm": recipe.grad_clip_norm,
        "mu_dtype": mu_dtype,
        "mu_decay_dtype": mu_dtype,
        "mu_product_dtype": mu_dtype if case.dtype == "float64" else None,
        "bias_correction_dtype": None if case.dtype == "float64" else torch.float32,
    }
    return train.Trainer(model, **{**kwargs, **kw})


def updates(
    case: Case,
    recipe: Recipe,
    order: Order | None,
    from_zero: bool = False,
    **kw: Any,
) -> Iterator[Arrays]:
    """Yield every parameter's update, or the parameters; as `ours.updates`.

    An order also reorders the terms of the update itself.
    """
    shapes = ours.shapes(case)
    model = reference_with(case, random_params(shapes), order)
    trainer = make_trainer(case, model, recipe, reordered=order is not None, **kw)
    for at in range(recipe.total_steps):
        grads = weights.to_state_dict(random_gradients(shapes, at))
        grads = grads if order is None else order.state(grads)
        before = {}
        for name, p in model.named_parameters():
            if from_zero:
                p.detach().zero_()
            if case.precision == "float64":
                before[name] = p.detach().clone()
            p.grad = tensor(case, grads[name])
        trainer.update()
        found = {name: p.detach() for name, p in model.named_parameters()}
        if case.precision == "float64":
            found = {name: p - before[name] for name, p in found.items()}
        yield by_our_names(found, case, order)


def trajectory(
    case: Case, recipe: Recipe, order: Order | None, **kw: Any
) -> tuple[Arrays, Arrays]:
    """Return metrics by name (step,) and the last parameters."""
    model = reference_with(case, ours.initial_params(case), order)
    trainer = make_trainer(case, model, recipe, reordered=order is not None, **kw)
    rows = []
    batches = train_batches(case, recipe.total_steps)
    lambdas = ours.lambdas(recipe.total_steps)
    for (image, labels), lam in zip(batches, lambdas, strict=True):
        rows.append(trainer.step(*_batch(case, image, labels, order), lam))
    curves = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return curves, by_our_names(dict(model.named_parameters()), case, order)


def evaluate(case: Case, params: Any, order: Order | None) -> tuple[Arrays, Arrays]:
    """Return prec@1, prec@5 and loss on the digits, and hits by row.

    The evaluation is a plain loop.
    """
    model = reference_with(case, params, order)

    def predict(image: torch.Tensor) -> torch.Tensor:
        if order is None:
            return model(image)[0]
        rows = order.whole_rows()
        permuted = tensor(case, rows.image(image.numpy()))
        return torch.tensor(rows.undo_labels(model(permuted)[0].numpy()))

    batches = (
        {
            "image": tensor(case, batch["image"]),
            "label": torch.tensor(batch["label"]),
            "_mask": torch.tensor(batch["_mask"]),
        }
        for batch in padded_batches(case)
    )
    means, hits = train.evaluate(predict, batches)
    return {k: np.asarray(x) for k, x in means.items()}, {
        k: x.numpy() for k, x in hits.items()
    }
