"""vitjax's side of every comparison: numpy arrays in, numpy arrays out, in float64.

Needs jax_enable_x64. Every function takes a `Case` and numbers only, so that its results
can be kept where many references are compared with them.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.cases import (
    Case,
    Recipe,
    digit_batches,
    random_batch,
    random_gradients,
    random_params,
)
from vitjax import mixup, step
from vitjax.losses import LOSSES
from vitjax.models import vit
from vitjax.optim import make_optimizer
from vitjax.schedules import make_schedule
from vitjax.sharding import batch_sharding, replicated
from vitjax.trees import flatten_with_names

MIXUP_P = 0.2


def make_model(case: Case, dtype: str = "float64") -> vit.ViT:
    """vitjax's model, computing in `dtype`."""
    kwargs = case.model_kwargs()
    return vit.Model(kwargs.pop("num_classes"), dtype_mm=dtype, **kwargs)


@functools.cache
def shapes(case: Case) -> Any:
    """The tree of the parameters' shapes, which needs no float64."""
    return step.param_shapes(make_model(case, "float32"), (*case.image_size, 3))


def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device only."""
    return jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(tree))


def init_statistics(case: Case) -> dict[str, np.ndarray]:
    """By parameter: (seed, 4), the mean, deviation, least and greatest value."""
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
    """One draw of vitjax's own initialisation, in float64."""
    image = np.zeros((1, *case.image_size, 3), np.float32)
    params = jax.jit(make_model(case).init)(jax.random.key(0), image)["params"]
    return jax.tree.map(lambda x: x.astype(np.float64), _numpy(params))


def forward(case: Case) -> dict[str, np.ndarray]:
    """Every stage on random parameters and images, under the reference's names.

    Not jitted: compiling all the models that differ in options takes longer than this.
    """
    image, _ = random_batch(case)
    params = jax.tree.map(jnp.asarray, random_params(shapes(case)))
    _, out = make_model(case).apply({"params": params}, image)
    out = _numpy(out)
    stages = {k: out[k] for k in ("with_posemb", "encoded", "head_input")}
    b, h, w, d = out["stem"].shape
    stages["stem"] = out["stem"].reshape(b, h * w, d)
    names = {"sa": "attention", "+sa": "+attention", "mlp": "mlp", "+mlp": "+mlp"}
    for i in range(case.depth):
        block = f"block{i:02d}"
        for ours, theirs in names.items():
            stages[f"{block}/{theirs}"] = out["encoder"][block][ours]
    return stages | {k: out[k] for k in ("pre_logits", "logits")}


def gradients(case: Case) -> dict[str, np.ndarray]:
    """By parameter: the gradient of the softmax loss on a mixed random batch."""
    model = make_model(case)
    params = random_params(shapes(case))
    image, labels = random_batch(case)
    labels = jnp.asarray(0.7 * labels + 0.3 * np.roll(labels, 1, axis=0))

    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply({"params": params}, image, train=True)
        return LOSSES["softmax_xent"](logits=logits, labels=labels)

    return dict(flatten_with_names(_numpy(jax.jit(jax.grad(loss))(params))))


def loss_and_gradient(
    name: str, logits: np.ndarray, labels: np.ndarray, label_smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """The loss, and its gradient by the logits."""

    def loss(logits: jax.Array) -> jax.Array:
        rows = jnp.asarray(labels)
        return LOSSES[name](logits=logits, labels=rows, label_smoothing=label_smoothing)

    return _numpy(jax.value_and_grad(loss)(jnp.asarray(logits)))


def mixed(x: np.ndarray, lam: float) -> np.ndarray:
    """mixup of one array with the given lambda."""
    partner = mixup.partners(x, one_device())
    return np.asarray(mixup.mix(jnp.asarray(x), partner, jnp.asarray(lam)))


def _schedule(recipe: Recipe) -> dict[str, Any]:
    return {"warmup_steps": recipe.warmup_steps, "decay_type": "cosine"}


def make_tx(recipe: Recipe, params: Any) -> Any:
    """vitjax's transform."""
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


def updates(case: Case, recipe: Recipe) -> Iterator[dict[str, np.ndarray]]:
    """The update of every parameter, step by step, on `random_gradients`."""
    params = random_params(shapes(case))
    tx = make_tx(recipe, params)
    state = jax.jit(tx.init)(params)

    @jax.jit
    def update(grads: Any, state: Any, params: Any) -> Any:
        change, state = tx.update(grads, state, params)
        return change, state, jax.tree.map(jnp.add, params, change)

    for at in range(recipe.total_steps):
        grads = random_gradients(shapes(case), at)
        change, state, params = update(grads, state, params)
        yield dict(flatten_with_names(_numpy(change)))


def multipliers(recipe: Recipe) -> np.ndarray:
    """The schedule of every step, in the dtype in which vitjax computes it."""
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
    """The lambdas that the trainer draws in its first steps."""
    return [float(_lambda(jnp.int32(at))) for at in range(num_steps)]


def trajectory(
    case: Case, recipe: Recipe
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Metrics by name (step,) and the last parameters; the trainer's own step."""
    model, mesh = make_model(case), one_device()
    params = initial_params(case)
    tx = make_tx(recipe, params)
    state = step.TrainState(
        step=np.zeros((), np.int32), params=params, opt_state=tx.init(params)
    )
    state, key = jax.device_put((state, jax.random.key(0)), replicated(mesh))
    train_step = step.make_train_step(
        model, tx, loss="softmax_xent", mesh=mesh, mixup={"p": MIXUP_P}
    )
    rows = []
    for image, labels in digit_batches(case, recipe.total_steps):
        batch = {"image": image, "labels": labels}
        batch = jax.device_put(batch, batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        rows.append(_numpy(metrics))
    curves = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return curves, dict(flatten_with_names(_numpy(state.params)))
