"""The training step: what it computes, and what it makes the devices do."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from vitjax import step as step_lib
from vitjax.devices.sharding import batch_sharding, replicated
from vitjax.models import MODELS
from vitjax.optim import make_optimizer
from vitjax.step import accumulate

NUM_CLASSES = 10
BATCH = 32
IMAGE = (8, 8, 3)


def device_pp(features):
    """Written out here, so that these tests need nothing of the input pipeline."""
    image = features["image"].astype(jnp.float32) / 127.5 - 1.0
    return {"image": image, "labels": jax.nn.one_hot(features["label"], NUM_CLASSES)}


def host_batch(seed=0, rows=BATCH):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, *IMAGE), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, rows, np.int32),
    }


def submesh(count):
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))


def make(
    mesh,
    *,
    strategy="replicate",
    model=None,
    optimizer=None,
    image=IMAGE,
    rules=None,
    loss_scale=None,
    **step_kwargs,
):
    """(state, step function, key) of a small ViT."""
    model = MODELS["vit"](
        num_classes=NUM_CLASSES,
        **{
            "width": 16,
            "depth": 1,
            "mlp_dim": 32,
            "num_heads": 2,
            "patch_size": (4, 4),
            "pool_type": "gap",
            "posemb": "sincos2d",
            "head_zeroinit": False,
            **(model or {}),
        },
    )
    shapes = step_lib.param_shapes(model, image)
    tx, _ = make_optimizer(
        shapes,
        total_steps=100,
        batch_size=BATCH,
        data_size=1000,
        **{
            "lr": 1e-3,
            "wd": 1e-4,
            "optax_name": "scale_by_adam",
            "grad_clip_norm": 1.0,
            "schedule": {"warmup_steps": 5, "decay_type": "cosine"},
            **(optimizer or {}),
        },
    )
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    init, _, shardings = step_lib.init_state(
        model,
        tx,
        key,
        image,
        mesh=mesh,
        sharding_strategy=rules or [(".*", strategy)],
        ema=step_kwargs.get("ema") is not None,
        loss_scale=loss_scale,
    )
    train_step = step_lib.make_train_step(
        model,
        tx,
        **{
            "loss": "softmax_xent",
            "mesh": mesh,
            "device_pp": device_pp,
            "state_sharding": shardings,
            **step_kwargs,
        },
    )
    return init(), train_step, key


def run(mesh, steps, **kwargs):
    """(losses, final state) on the same batches."""
    state, train_step, key = make(mesh, **kwargs)
    losses = []
    for i in range(steps):
        batch = jax.device_put(host_batch(i), batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        losses.append(float(metrics["training_loss"]))
    return np.array(losses), state


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
        jax.device_get(a),
        jax.device_get(b),
    )


MIXUP = {"p": 0.2}
FSDP = "fsdp('data', min_size_to_shard_mb=0)"


@pytest.fixture(scope="module")
def one_device():
    """Thirty steps with mixup on one device: what every topology must give."""
    return run(submesh(1), 30, mixup=MIXUP)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"accum_freq": 4},
        {"strategy": FSDP},
        {"strategy": FSDP, "accum_freq": 2},
    ],
    ids=["8 devices", "8 devices, accum 4", "fsdp", "fsdp, accum 2"],
)
def test_thirty_steps_on_eight_devices_give_the_losses_of_one(mesh, one_device, kwargs):
    losses, state = run(mesh, 30, mixup=MIXUP, **kwargs)
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    assert int(state.step) == 30
    if "strategy" in kwargs:
        kernel = state.params["Transformer"]["encoderblock_0"]["MlpBlock_0"]["Dense_0"]
        assert kernel["kernel"].addressable_data(0).shape == (16, 4)
        [mu] = [
            leaf
            for path, leaf in jax.tree.leaves_with_path(state.opt_state)
            if "mu" in str(path) and leaf.shape == (16, 32) and "_0" in str(path)
        ][:1]
        assert mu.addressable_data(0).shape == (16, 4)


def test_accumulation_on_one_device_gives_the_losses_of_one_batch(one_device):
    losses, _ = run(submesh(1), 30, mixup=MIXUP, accum_freq=8)
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["accumulate_local", "accumulate_gspmd"])
@pytest.mark.parametrize("accum_freq", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(mesh, name, accum_freq):
    """A quadratic, whose gradient numpy knows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, 5)).astype(np.float32)
    y = rng.normal(size=(BATCH, 3)).astype(np.float32)
    w = rng.normal(size=(5, 3)).astype(np.float32)

    def loss_fn(params, rows, key, lam):
        return lam * jnp.mean(jnp.sum((rows["x"] @ params - rows["y"]) ** 2, axis=1))

    accumulate_fn = getattr(accumulate, name)
    loss, grads = jax.jit(
        lambda *args: accumulate_fn(loss_fn, *args, accum_freq=accum_freq, mesh=mesh)
    )(
        w,
        jax.device_put({"x": x, "y": y}, batch_sharding(mesh)),
        jax.random.key(0),
        jnp.float32(0.7),
    )
    error = x.astype(np.float64) @ w - y
    np.testing.assert_allclose(loss, 0.7 * (error**2).sum() / BATCH, rtol=1e-6)
    np.testing.assert_allclose(grads, 1.4 * x.T @ error / BATCH, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["accumulate_local", "accumulate_gspmd"])
def test_no_two_rows_of_the_global_batch_share_a_dropout_mask(mesh, name):
    """The gradient of a row's own parameters is its mask; all 32 differ."""
    width = 64

    def loss_fn(params, rows, key, lam):
        mask = jax.random.bernoulli(key, 0.5, (rows.shape[0], width))
        own = jnp.take(params, rows, axis=0)
        return jnp.sum(own * mask)

    rows = jax.device_put(np.arange(BATCH), batch_sharding(mesh))
    _, grads = jax.jit(
        lambda *args: getattr(accumulate, name)(
            loss_fn, *args, None, accum_freq=2, mesh=mesh
        )
    )(jnp.zeros((BATCH, width)), rows, jax.random.key(1))
    masks = np.asarray(grads) != 0
    assert 0.4 < masks.mean() < 0.6
    assert len(np.unique(masks, axis=0)) == BATCH


def test_dropout_masks_change_from_step_to_step(mesh):
    """With a rate of zero the same batch gives the same loss twice; with dropout not."""
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    frozen = {"schedule": [(".*", None)]}
    for rate, same in ((0.0, True), (0.5, False)):
        state, train_step, key = make(
            mesh, model={"dropout": rate}, optimizer=frozen, mixup=None
        )
        state, first = train_step(state, batch, key)
        state, second = train_step(state, batch, key)
        assert (float(first["training_loss"]) == float(second["training_loss"])) is same


def compiled_text(mesh, **kwargs):
    state, train_step, key = make(mesh, **kwargs)
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    return train_step.lower(state, batch, key).compile().as_text()


def _computations(text):
    """HLO computations by name."""
    pattern = r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}"
    return dict(re.findall(pattern, text, re.S | re.M))


def _elements(line):
    """Numbers in the (tuple) result of an instruction."""
    result = line.split("=", 1)[1].split(" all-reduce(")[0]
    shapes = re.findall(r"\w+\[([\d,]*)\]", result)
    return sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes)


def test_local_accumulation_reduces_gradients_once_and_gathers_nothing(mesh):
    text = compiled_text(mesh, accum_freq=4, mixup=MIXUP)
    assert "all-gather" not in text
    assert "all-to-all" not in text
    reducing = {
        name: [line for line in body.splitlines() if " all-reduce(" in line]
        for name, body in _computations(text).items()
    }
    reducing = {name: lines for name, lines in reducing.items() if lines}
    [(name, lines)] = reducing.items()
    assert f"ENTRY %{name}" in text, "an all-reduce inside the loop over microbatches"
    # One reduction of every gradient and the loss, and nothing else.
    state, _, _ = make(mesh)
    total = sum(leaf.size for leaf in jax.tree.leaves(state.params)) + 1
    assert sum(map(_elements, lines)) == total
    assert len(lines) == 1


def test_gspmd_accumulation_gathers_no_images(mesh):
    text = compiled_text(mesh, accum_freq=4, mixup=MIXUP, strategy=FSDP)
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert gathered, "fsdp gathers parameters"
    assert not [line for line in gathered if "u8[" in line or "8,8,3]" in line]


def _temporaries(step_function, *args):
    return step_function.lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_no_float_copy_of_the_whole_batch_exists():
    """XLA's own plan: less than a float batch beyond what the microbatch needs.

    Mixing the whole batch first, as big_vision does, is measured beside it.
    """
    mesh = submesh(1)
    rows, side = 256, 64
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, rows, np.int32),
    }
    batch = jax.device_put(batch, batch_sharding(mesh))
    float_batch = rows * side * side * 3 * 4
    big = {"image": (side, side, 3), "model": {"patch_size": (16, 16)}}
    state, train_step, key = make(mesh, mixup=MIXUP, accum_freq=16, **big)
    ours = _temporaries(train_step, state, batch, key)

    prepare = step_lib.make_prepare(device_pp)

    def mixed_first(state, batch, key):
        partner = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)
        image, labels = prepare((batch, partner), jnp.float32(0.9))
        return train_step(state, {"image": image, "labels": labels}, key)

    state, train_step, key = make(mesh, accum_freq=16, device_pp=None, **big)
    theirs = _temporaries(jax.jit(mixed_first), state, batch, key)
    assert ours < float_batch < theirs


class Linear(nn.Module):
    """logits = image @ kernel: gradients are known by hand."""

    @nn.compact
    def __call__(self, image, *, train=False):
        flat = image.reshape(len(image), -1)
        return nn.Dense(NUM_CLASSES, use_bias=False)(flat), {}


def test_metrics_and_update_against_numpy(mesh):
    """One step of SGD on softmax regression, clipped, decayed, by hand."""
    model = Linear()
    shapes = step_lib.param_shapes(model, IMAGE)
    tx, _ = make_optimizer(
        shapes,
        total_steps=100,
        batch_size=BATCH,
        data_size=1000,
        lr=0.5,
        wd=0.01,
        optax_name="identity",
        grad_clip_norm=0.1,
    )
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    init, _, shardings = step_lib.init_state(model, tx, key, IMAGE, mesh=mesh)
    train_step = step_lib.make_train_step(
        model,
        tx,
        loss="softmax_xent",
        mesh=mesh,
        device_pp=device_pp,
        state_sharding=shardings,
    )
    state = init()
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    batch = host_batch()
    state, metrics = train_step(state, jax.device_put(batch, batch_sharding(mesh)), key)
    x = (batch["image"] / 127.5 - 1).reshape(BATCH, -1)
    y = np.eye(NUM_CLASSES)[batch["label"]]
    logits = x @ w
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    grads = x.T @ (np.exp(logp) - y) / BATCH
    norm = np.linalg.norm(grads)
    assert norm > 0.1, "the clip must be at work"
    updates = -(0.5 * grads * 0.1 / norm + 0.01 * w)
    expected = {
        "training_loss": -(y * logp).sum() / BATCH,
        "l2_grads": norm,  # before clipping
        "l2_params": np.linalg.norm(w + updates),  # after the update
        "l2_updates": np.linalg.norm(updates),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        state.params["Dense_0"]["kernel"], w + updates, rtol=1e-4, atol=1e-6
    )


def test_the_mixed_loss_against_numpy(mesh):
    """Rows meet their neighbours after device_pp, with the step's one lambda."""
    model = Linear()
    tx = optax.identity()
    key = jax.device_put(jax.random.key(3), replicated(mesh))
    init, _, _ = step_lib.init_state(model, tx, key, IMAGE, mesh=mesh)
    train_step = step_lib.make_train_step(
        model,
        tx,
        loss="softmax_xent",
        mesh=mesh,
        mixup={"p": 5.0},  # lambdas well below 1
        device_pp=device_pp,
        accum_freq=2,
    )
    preview = step_lib.make_preview(
        mesh=mesh, mixup={"p": 5.0}, device_pp=device_pp, rows=BATCH
    )
    state = init()
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    batch = host_batch()
    placed = jax.device_put(batch, batch_sharding(mesh))
    image, labels = jax.device_get(preview(placed, key, state.step))
    _, metrics = train_step(state, placed, key)

    x = batch["image"] / 127.5 - 1
    y = np.eye(NUM_CLASSES)[batch["label"]]
    other = np.flatnonzero(batch["label"] != np.roll(batch["label"], 1))[0]
    lam = labels[other, batch["label"][other]]
    assert 0.5 <= lam < 0.9
    x = lam * x + (1 - lam) * np.roll(x, 1, axis=0)
    y = lam * y + (1 - lam) * np.roll(y, 1, axis=0)
    np.testing.assert_allclose(image, x, atol=1e-6)
    np.testing.assert_allclose(labels, y, atol=1e-6)
    logits = x.reshape(BATCH, -1) @ w
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(
        metrics["training_loss"], -(y * logp).sum() / BATCH, rtol=1e-5
    )


def test_the_first_loss_is_ln_of_the_classes_and_the_first_update_nothing(mesh):
    state, train_step, key = make(mesh, mixup=MIXUP, model={"head_zeroinit": True})
    before = jax.device_get(state.params)
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    state, metrics = train_step(state, batch, key)
    assert float(metrics["l2_updates"]) == 0.0
    assert float(metrics["l2_grads"]) > 0
    np.testing.assert_allclose(metrics["training_loss"], np.log(10), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.params))


def test_a_float_batch_from_the_host_gives_the_same_losses(mesh, one_device):
    state, train_step, key = make(mesh, mixup=MIXUP, device_pp=None)
    losses = []
    for i in range(5):
        batch = jax.device_get(device_pp(host_batch(i)))
        batch = jax.device_put(batch, batch_sharding(mesh))
        state, metrics = train_step(state, batch, key)
        losses.append(float(metrics["training_loss"]))
    np.testing.assert_allclose(losses, one_device[0][:5], rtol=1e-5)


def test_the_state_is_donated_and_the_step_runs_under_the_transfer_guard(mesh):
    state, train_step, key = make(mesh, mixup=MIXUP)
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    old = jax.tree.leaves(state.params)
    with jax.transfer_guard("disallow"):
        state, _ = train_step(state, batch, key)
        state, _ = train_step(state, batch, key)
    assert all(leaf.is_deleted() for leaf in old)


def test_frozen_leaves_do_not_count_in_l2_grads(mesh):
    batch = jax.device_put(host_batch(), batch_sharding(mesh))
    state, _, key = make(mesh)
    everything = jax.tree.map(lambda _: True, state.params)
    state, train_step, key = make(mesh, frozen=everything)
    _, metrics = train_step(state, batch, key)
    assert float(metrics["l2_grads"]) == 0.0


def test_label_smoothing_reaches_the_loss(mesh):
    """0.9 of the loss and 0.1 of its mean over the classes, by hand on logits."""
    model = Linear()
    tx = optax.identity()
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    init, _, _ = step_lib.init_state(model, tx, key, IMAGE, mesh=mesh)
    train_step = step_lib.make_train_step(
        model,
        tx,
        loss="softmax_xent",
        mesh=mesh,
        device_pp=device_pp,
        label_smoothing=0.1,
    )
    state = init()
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    batch = host_batch()
    logits = (batch["image"] / 127.5 - 1).reshape(BATCH, -1) @ w
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = -logp[np.arange(BATCH), batch["label"]].mean()
    _, metrics = train_step(state, jax.device_put(batch, batch_sharding(mesh)), key)
    np.testing.assert_allclose(
        metrics["training_loss"], 0.9 * own - 0.1 * logp.mean(), rtol=1e-5
    )


@pytest.mark.parametrize(("batch_size", "accum"), [(12, 1), (32, 8), (32, 3), (32, 0)])
def test_a_batch_that_does_not_divide_is_refused(mesh, batch_size, accum):
    with pytest.raises(ValueError, match="not divisible by 8 device"):
        step_lib.check_batch_size(batch_size, mesh, accum)


def test_a_missing_feature_is_named(mesh):
    prepare = step_lib.make_prepare(None)
    with pytest.raises(ValueError, match="needs a feature 'labels'"):
        prepare(({"image": jnp.zeros((1, 2, 2, 3))}, None), None)


def test_unknown_losses_are_named(mesh):
    with pytest.raises(ValueError, match="softmax_xent"):
        make(mesh, loss="softmax_xnet")


def test_a_sharpness_aware_step_takes_the_gradient_uphill(mesh):
    """The step's own gradient, at the parameters moved by rho along it, by hand."""
    plain = {"optax_name": "identity", "wd": 0.0, "lr": 1.0, "grad_clip_norm": None}
    plain["schedule"] = {}
    batch = jax.device_put(host_batch(), batch_sharding(mesh))

    def gradient(move=None):
        state, train_step, key = make(mesh, optimizer=plain)
        if move is not None:
            moved = jax.tree.map(jnp.add, state.params, move)
            state = dataclasses.replace(state, params=moved)
        before = jax.device_get(state.params)
        after, _ = train_step(state, batch, key)
        return jax.tree.map(lambda b, a: b - a, before, jax.device_get(after.params))

    g = gradient()
    norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in jax.tree.leaves(g)))
    uphill = gradient(jax.tree.map(lambda x: jnp.asarray(0.1 * x / norm), g))
    state, train_step, key = make(mesh, optimizer=plain | {"sam": {"rho": 0.1}})
    before = jax.device_get(state.params)
    after, _ = train_step(state, batch, key)
    moved = jax.tree.map(lambda b, a: b - a, before, jax.device_get(after.params))
    assert_close(moved, uphill, rtol=1e-3, atol=2e-6)
    assert (
        max(
            np.abs(a - b).max()
            for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(g), strict=True)
        )
        > 1e-3
    )
