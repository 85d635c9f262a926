"""vitjax's side of every comparison: numpy arrays in, numpy arrays out.

A float64 case needs a process with jax_enable_x64, any other case one without it. Every
function takes only a `Case` and numbers, so that its results can be cached and compared
with many references.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from parity.sides.cases import (
    Case,
    Layout,
    Recipe,
    padded_batches,
    random_batch,
    random_gradients,
    random_params,
    train_batches,
)
from vitjax import step
from vitjax.devices.sharding import batch_sharding, infer_sharding, replicated
from vitjax.evaluators import EVALUATORS
from vitjax.models import vit
from vitjax.optim import make_optimizer
from vitjax.optim.schedules import make_schedule
from vitjax.step import mixup
from vitjax.step.losses import LOSSES
from vitjax.trees import flatten_with_names

MIXUP_P = 0.2
ONE_DEVICE = Layout()


def make_model(case: Case) -> vit.ViT:
    """Build vitjax's model with matmuls in the case's precision."""
    kwargs = case.model_kwargs()
    if case.precision == "bfloat16_all":
        kwargs["residual_dtype"] = "bfloat16"
    dtype = "bfloat16" if case.half else case.precision
    kwargs |= {"attn_impl": case.attn_impl, "mlp_impl": case.mlp_impl}
    return vit.Model(kwargs.pop("num_classes"), dtype_mm=dtype, **kwargs)


def _plain(case: Case) -> Case:
    """Return a case with the same parameters that every device can compute."""
    return case.but(precision="float32", attn_impl="flax", mlp_impl="xla")


@functools.cache
def shapes(case: Case) -> Any:
    """Return the tree of the parameters' shapes, which needs no float64."""
    model = make_model(_plain(case))
    return step.param_shapes(model, (*case.image_size, 3))


def make_mesh(num_devices: int) -> jax.sharding.Mesh:
    """Return a mesh of the first devices."""
    return jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ("data",))


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(tree))


def _cast(case: Case, tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, case.dtype), tree)


def init_statistics(case: Case) -> dict[str, np.ndarray]:
    """Return by parameter (seed, 4): mean, deviation, least and greatest value."""
    model = make_model(case)
    image = np.zeros((1, *case.image_size, 3), np.float32)

    def one(key: jax.Array) -> Any:
        params = model.init(key, image)["params"]
        return jax.tree.map(
            lambda x: jnp.stack([x.mean(), x.std(), x.min(), x.max()]), params
        )

    keys = jax.random.split(jax.random.key(0), case.num_seeds)
    stats = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    return dict(flatten_with_names(_numpy(stats)))


def initial_params(case: Case) -> Any:
    """Draw vitjax's own initialisation once, in float32, and cast it to the case's."""
    model = make_model(_plain(case))
    image = np.zeros((1, *case.image_size, 3), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    return jax.tree.map(lambda x: x.astype(case.dtype), _numpy(params))


def forward(case: Case, jitted: bool = False) -> dict[str, np.ndarray]:
    """Return every stage on random parameters and images, by the reference's names.

    It is jitted for few cases only: compiling a model for each choice of options takes
    longer.
    """
    image, _ = random_batch(case)
    params = _cast(case, random_params(shapes(case)))
    apply = make_model(case).apply
    _, out = (jax.jit(apply) if jitted else apply)({"params": params}, image)
    out: Any = _numpy(out)
    stages = {k: out[k] for k in ("with_posemb", "encoded", "head_input")}
    b, h, w, d = out["stem"].shape
    stages["stem"] = out["stem"].reshape(b, h * w, d)
    names = {"sa": "attention", "+sa": "+attention", "mlp": "mlp", "+mlp": "+mlp"}
    for i in range(case.depth):
        block = f"block{i:02d}"
        for ours, theirs in names.items():
            stages[f"{block}/{theirs}"] = out["encoder"][block][ours]
    return stages | {k: out[k] for k in ("pre_logits", "logits")}


def gradients(
    case: Case, jitted: bool = True, row_by_row: bool = False
) -> dict[str, np.ndarray]:
    """Return by parameter the gradient of the softmax loss on a mixed random batch.

    `row_by_row` averages the gradients of single rows, which has other partial sums.
    """
    model = make_model(case)
    params = _cast(case, random_params(shapes(case)))
    image, labels = random_batch(case)
    labels = jnp.asarray(0.7 * labels + 0.3 * np.roll(labels, 1, axis=0))

    def loss(params: Any, image: Any, labels: Any) -> jax.Array:
        logits, _ = model.apply({"params": params}, image, train=True)
        return LOSSES["softmax_xent"](logits=logits, labels=labels)

    gradient = jax.jit(jax.grad(loss)) if jitted else jax.grad(loss)
    size = 1 if row_by_row else len(image)
    parts = [
        _numpy(gradient(params, image[at : at + size], labels[at : at + size]))
        for at in range(0, len(image), size)
    ]
    mean = jax.tree.map(lambda *rows: np.mean(rows, axis=0), *parts)
    return dict(flatten_with_names(mean))


def loss_and_gradient(
    case: Case,
    name: str,
    logits: np.ndarray,
    labels: np.ndarray,
    label_smoothing: float,
) -> dict[str, np.ndarray]:
    """Return the loss and its gradient with respect to the logits."""

    def loss(logits: jax.Array) -> jax.Array:
        rows = jnp.asarray(_cast(case, labels))
        return LOSSES[name](logits=logits, labels=rows, label_smoothing=label_smoothing)

    value, gradient = _numpy(jax.value_and_grad(loss)(_cast(case, logits)))
    return {"value": value, "gradient": gradient}


def mixed(case: Case, x: np.ndarray, lam: float) -> np.ndarray:
    """Apply mixup with the given lambda to one array."""
    partner = mixup.partners(x, make_mesh(1))
    lam = _cast(case, lam)
    return np.asarray(jax.jit(mixup.mix)(_cast(case, x), partner, lam))


def _schedule(recipe: Recipe) -> dict[str, Any]:
    return {"warmup_steps": recipe.warmup_steps, "decay_type": "cosine"}


def make_tx(recipe: Recipe, params: Any) -> Any:
    """Build vitjax's gradient transformation."""
    tx, _ = make_optimizer(
        params,
        total_steps=recipe.total_steps,
        batch_size=None,
        data_size=None,
        lr=recipe.lr,
        wd=recipe.wd,
        optax_name="scale_by_adam",
        optax={"mu_dtype": recipe.mu_dtype},
        schedule=_schedule(recipe),
        grad_clip_norm=recipe.grad_clip_norm,
    )
    return tx


def updates(
    case: Case, recipe: Recipe, from_zero: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Yield every parameter's update in float64, step by step on `random_gradients`.

    In lower precisions, yield the parameters after the step: the reference's update
    would be a difference of two of them. `from_zero` sets the parameters to 0 before
    every step, so that they equal the update after it.
    """
    params = _cast(case, random_params(shapes(case)))
    tx = make_tx(recipe, params)
    state = jax.jit(tx.init)(params)

    @jax.jit
    def update(grads: Any, state: Any, params: Any) -> Any:
        change, state = tx.update(grads, state, params)
        return change, state, jax.tree.map(jnp.add, params, change)

    for at in range(recipe.total_steps):
        grads = _cast(case, random_gradients(shapes(case), at))
        if from_zero:
            params = jax.tree.map(np.zeros_like, params)
        change, state, params = update(grads, state, params)
        found = change if case.precision == "float64" else params
        yield dict(flatten_with_names(_numpy(found)))


def multipliers(recipe: Recipe) -> np.ndarray:
    """Return the schedule of every step, in the dtype in which vitjax computes it."""
    schedule = make_schedule(
        **_schedule(recipe),
        total_steps=recipe.total_steps,
        batch_size=None,
        data_size=None,
    )
    steps = jnp.arange(recipe.total_steps, dtype=jnp.int32)
    return np.asarray(jax.jit(schedule)(steps))


@jax.jit
def _lambda(at: jax.Array) -> jax.Array:
    key, _ = step.step_keys(jax.random.key(0), at)
    return mixup.sample_lambda(key, MIXUP_P)


def lambdas(num_steps: int) -> list[float]:
    """Return the lambdas that the trainer draws in its first steps."""
    return [float(_lambda(jnp.int32(at))) for at in range(num_steps)]


def trajectory(
    case: Case, recipe: Recipe, layout: Layout = ONE_DEVICE
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return metrics by name (step,) and the last parameters of a training.

    The trainer's own step runs.
    """
    model, mesh = make_model(case), make_mesh(layout.num_devices)
    params = initial_params(case)
    tx = make_tx(recipe, params)
    state = step.TrainState(
        step=np.zeros((), np.int32), params=params, opt_state=tx.init(params)
    )
    sharding = infer_sharding(state, mesh, ((".*", layout.sharding),))
    state = jax.device_put(state, sharding)
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    train_step = step.make_train_step(
        model,
        tx,
        loss="softmax_xent",
        mesh=mesh,
        mixup={"p": MIXUP_P},
        accum_freq=layout.accum_freq,
        state_sharding=sharding,
    )
    rows = []
    for image, labels in train_batches(case, recipe.total_steps):
        batch = {"image": image, "labels": labels}
        batch = jax.device_put(batch, batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        rows.append(_numpy(metrics))
    curves = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return curves, dict(flatten_with_names(_numpy(state.params)))


def trained_params(case: Case, recipe: Recipe) -> dict[str, Any]:
    """Return the last parameters of `trajectory`."""
    _, leaves = trajectory(case, recipe)
    return unflatten_dict(leaves, sep="/")


def evaluate(
    case: Case, recipe: Recipe, num_devices: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Evaluate on the digits after `trajectory`, with vitjax's own evaluator.

    Return prec@1, prec@5 and loss. Also return for each prec which rows of all batches
    (n,) are hits; padding is none.
    """
    mesh = make_mesh(num_devices)

    def make_data(*, batch_size: int, **_: Any) -> Any:
        batches = [
            jax.device_put(batch, batch_sharding(mesh))
            for batch in padded_batches(case.but(eval_batch_size=batch_size))
        ]
        return batches, len(batches)

    evaluator = EVALUATORS["classification"](
        step.make_eval_step(make_model(case)),
        make_data,
        mesh,
        data={},
        batch_size=case.eval_batch_size,
        device_pp=f"onehot({case.num_classes}, key='label', key_result='labels')",
        loss_name="softmax_xent",
    )
    params = trained_params(case, recipe)
    state = step.TrainState(step=np.int32(0), params=params, opt_state=())
    state = jax.device_put(state, replicated(mesh))
    means = {name: np.asarray(value) for name, value in evaluator.run(state)}
    rows = list(evaluator.examples(state))
    names = ("prec@1", "prec@5")
    return means, {k: np.concatenate([x[k] for x in rows]) > 0 for k in names}
