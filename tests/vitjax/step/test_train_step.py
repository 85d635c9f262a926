"""The training step: how it draws, and what it makes the devices do.

`python -m parity` compares losses, metrics and parameters with torch: on one and eight
devices, replicated and sharded, with and without microbatches and mixup.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.steps import (
    BATCH,
    FSDP,
    MIXUP,
    NUM_CLASSES,
    Linear,
    device_pp,
    host_batch,
    make,
    placed_batch,
    submesh,
)
from vitjax import step as step_lib
from vitjax.devices.sharding import batch_sharding
from vitjax.step import accumulate


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
    """The same batch gives the same loss twice without dropout, and another with it."""
    batch = placed_batch(mesh)
    frozen = {"schedule": [(".*", None)]}
    for rate, same in ((0.0, True), (0.5, False)):
        state, train_step, key = make(mesh, model={"dropout": rate}, optimizer=frozen)
        state, first = train_step(state, batch, key)
        state, second = train_step(state, batch, key)
        assert (float(first["training_loss"]) == float(second["training_loss"])) is same


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
    state, train_step, key = make(mesh, accum_freq=4, mixup=MIXUP)
    batch = placed_batch(mesh)
    text = train_step.lower(state, batch, key).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    reducing = {
        name: [line for line in body.splitlines() if " all-reduce(" in line]
        for name, body in _computations(text).items()
    }
    [(name, lines)] = ((name, lines) for name, lines in reducing.items() if lines)
    assert f"ENTRY %{name}" in text, "an all-reduce inside the loop over microbatches"
    # One reduction of every gradient and the loss, and nothing else.
    total = sum(leaf.size for leaf in jax.tree.leaves(state.params)) + 1
    assert sum(map(_elements, lines)) == total
    assert len(lines) == 1


def test_sharded_accumulation_gathers_no_images_and_keeps_the_shards(mesh):
    state, train_step, key = make(mesh, accum_freq=4, mixup=MIXUP, strategy=FSDP)
    batch = placed_batch(mesh)
    compiled = train_step.lower(state, batch, key).compile()
    gathered = [x for x in compiled.as_text().splitlines() if " all-gather(" in x]
    assert gathered, "fsdp gathers parameters"
    assert not [line for line in gathered if "u8[" in line or "8,8,3]" in line]
    state, _ = compiled(state, batch, key)
    kernel = state.params["Transformer"]["encoderblock_0"]["MlpBlock_0"]["Dense_0"]
    moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
        if "mu" in str(path) and leaf.shape == (16, 32)
    ]
    assert moments
    for leaf in (kernel["kernel"], *moments):
        assert leaf.addressable_data(0).shape == (16, 4)


def _temporaries(step_function, *args):
    return step_function.lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_no_float_copy_of_the_whole_batch_exists():
    """XLA's own plan: less than a float batch beyond what the microbatch needs.

    Mixing the whole batch first, as big_vision does, needs more.
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


def test_mixup_smoothing_weights_and_the_preview_against_numpy(mesh):
    """Rows meet their neighbours after device_pp, with the step's one lambda."""
    mixup = {"p": 5.0}  # lambdas well below 1
    kw = {"model": Linear(), "mixup": mixup, "label_smoothing": 0.1}
    weights = np.arange(NUM_CLASSES) / 3
    kw["class_weights"] = weights.tolist()
    state, train_step, key = make(mesh, accum_freq=2, **kw)
    preview = step_lib.make_preview(
        mesh=mesh, mixup=mixup, device_pp=device_pp, rows=BATCH
    )
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    batch, placed = host_batch(), placed_batch(mesh)
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
    loss = -(weights * (0.9 * y + 0.1 / NUM_CLASSES) * logp).sum(1).mean()
    np.testing.assert_allclose(metrics["training_loss"], loss, rtol=1e-5)
    # A float batch from the host, without device_pp, is the same.
    state, train_step, key = make(mesh, device_pp=None, **kw)
    floats = jax.device_get(device_pp(host_batch()))
    floats = jax.device_put(floats, batch_sharding(mesh))
    _, metrics = train_step(state, floats, key)
    np.testing.assert_allclose(metrics["training_loss"], loss, rtol=1e-5)


def test_the_state_is_donated_and_the_step_runs_under_the_transfer_guard(mesh):
    state, train_step, key = make(mesh, mixup=MIXUP)
    batch = placed_batch(mesh)
    old = jax.tree.leaves(state.params)
    with jax.transfer_guard("disallow"):
        state, _ = train_step(state, batch, key)
        state, _ = train_step(state, batch, key)
    assert all(leaf.is_deleted() for leaf in old)


def test_frozen_leaves_do_not_count_in_l2_grads(mesh):
    everything = {"Dense_0": {"kernel": True}}
    state, train_step, key = make(mesh, model=Linear(), frozen=everything)
    _, metrics = train_step(state, placed_batch(mesh), key)
    assert float(metrics["l2_grads"]) == 0.0


@pytest.mark.parametrize(("batch_size", "accum"), [(12, 1), (32, 8), (32, 3), (32, 0)])
def test_a_batch_that_does_not_divide_is_refused(mesh, batch_size, accum):
    with pytest.raises(ValueError, match="not divisible by 8 device"):
        step_lib.check_batch_size(batch_size, mesh, accum)


def test_a_missing_feature_bytes_and_an_unknown_loss_are_named(mesh):
    prepare = step_lib.make_prepare(None)
    rows = {"image": jnp.zeros((1, 2, 2, 3), np.uint8), "labels": jnp.zeros((1, 2))}
    with pytest.raises(ValueError, match=r"as uint8, unscaled: add value_range\(-1, 1"):
        prepare((rows, rows), 0.5)  # mixing would make floats of them
    with pytest.raises(ValueError, match="needs a feature 'labels'"):
        prepare(({"image": jnp.zeros((1, 2, 2, 3))}, None), None)
    with pytest.raises(ValueError, match="softmax_xent"):
        make(mesh, loss="softmax_xnet")


def test_a_sharpness_aware_step_takes_the_gradient_uphill(mesh):
    """The step's own gradient, at the parameters moved by rho along it, by hand."""
    plain = {"optax_name": "identity", "wd": 0.0, "lr": 1.0, "grad_clip_norm": None}
    plain["schedule"] = {}
    batch = placed_batch(mesh)

    def moved(state, train_step, key):
        before = jax.device_get(state.params)
        after, _ = train_step(state, batch, key)
        return jax.tree.map(np.subtract, before, jax.device_get(after.params))

    state, train_step, key = make(mesh, optimizer=plain)
    copy = jax.tree.map(jnp.copy, state)
    g = moved(state, train_step, key)
    norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in jax.tree.leaves(g)))
    up = jax.tree.map(lambda p, x: p + jnp.asarray(0.1 * x / norm), copy.params, g)
    uphill = moved(dataclasses.replace(copy, params=up), train_step, key)
    sharp = moved(*make(mesh, optimizer=plain | {"sam": {"rho": 0.1}}))
    for a, b in zip(jax.tree.leaves(sharp), jax.tree.leaves(uphill), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)
    pairs = zip(jax.tree.leaves(sharp), jax.tree.leaves(g), strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) > 1e-3
