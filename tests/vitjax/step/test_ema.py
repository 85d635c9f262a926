"""The average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.helpers.runs import QUICKSTART, error_of, params_of, run, values
from tests.vitjax.step.test_train_step import FSDP, host_batch, make
from vitjax.config.files import load
from vitjax.devices.sharding import batch_sharding
from vitjax.records.jsonl import read_rows
from vitjax.step import ema

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("every", [1, 3])
def test_the_average_against_numpy(every):
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(8, 5)).astype(np.float32)
    update = jax.jit(ema.make_update(decay=0.75, every=every))
    average, expected = {"w": jnp.zeros(5)}, np.zeros(5)
    for step, params in enumerate(steps, 1):
        average = update(average, {"w": jnp.asarray(params)}, jnp.int32(step))
        if step % every == 0:
            expected = 0.75 * expected + 0.25 * params
        np.testing.assert_allclose(average["w"], expected, rtol=1e-5, atol=1e-7)


def test_the_default_moves_by_a_ten_thousandth_every_step():
    average = ema.make_update()({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, jnp.int32(7))
    np.testing.assert_allclose(average["w"], 0.9999, rtol=1e-7)


def test_the_average_keeps_the_parameters_dtype():
    ones = {"w": jnp.ones(3, jnp.bfloat16)}
    average = ema.make_update(decay=0.5, every=2)(ones, ones, jnp.int32(2))
    assert average["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("strategy", "accum_freq"), [("replicate", 2), (FSDP, 1)], ids=["accum 2", "fsdp"]
)
def test_a_step_averages_the_parameters_that_it_has_made(mesh, strategy, accum_freq):
    """Whatever the microbatches: one average an update, of the updated parameters."""
    state, train_step, key = make(
        mesh, strategy=strategy, accum_freq=accum_freq, ema={"decay": 0.5, "every": 2}
    )
    expected = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.ema), expected)
    for step in range(1, 6):
        batch = jax.device_put(host_batch(step), batch_sharding(mesh))
        state, _ = train_step(state, batch, key)
        params = jax.device_get(state.params)
        if step % 2 == 0:
            expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, params)
        # Halving is exact in binary, so nothing but the sum rounds: as numpy's does.
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.ema), expected)


def test_the_average_lies_where_the_parameters_do(mesh):
    """Also under a rule that names only the parameters."""
    rules = [("params/.*", FSDP), (".*", "replicate")]
    state, _, _ = make(mesh, rules=rules, ema={})
    where = lambda tree: [x.sharding for x in jax.tree.leaves(tree)]
    assert where(state.ema) == where(state.params)
    assert not all(s.is_fully_replicated for s in where(state.ema))
    assert all(s.is_fully_replicated for s in where(state.opt_state))


VAL = load(QUICKSTART).evals.val.to_dict() | {"params": "ema", "log_steps": 5}
del VAL["log_epochs"]
FLAGS = ("--config.ema={'decay': 0.5}", f"--config.evals.val_ema={VAL}")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """The workdir of a small run with an average."""
    workdir = tmp_path_factory.mktemp("averaged")
    assert run(workdir, *FLAGS) == 0
    return workdir


def test_a_run_evaluates_the_average_beside_the_raw_parameters(averaged, tmp_path):
    rows = values(read_rows(averaged))
    assert rows[0, "val_ema/loss"] == rows[0, "val/loss"]
    assert rows[12, "val_ema/loss"] != rows[12, "val/loss"]

    # The average as a model of its own, by way of a file; a run's own starts as it.
    stored = params_of(averaged, 12)["ema"]
    np.savez(tmp_path / "ema.npz", **flatten_dict({"params": stored}, sep="/"))
    assert run(tmp_path / "b", *FLAGS, f"--config.model_init={tmp_path}/ema.npz") == 0
    again = values(read_rows(tmp_path / "b"))
    for name in ("val/loss", "val_ema/loss", "val/prec@1"):
        expected = rows[12, name.replace("val/", "val_ema/")]
        assert again[0, name] == expected


def test_another_run_goes_on_from_all_or_begins_with_the_raw_parameters(
    averaged, tmp_path, capsys
):
    resume = f"--config.resume={averaged}/checkpoints/10"
    assert run(tmp_path / "a", *FLAGS, resume) == 0
    ours, theirs = (params_of(workdir, 12) for workdir in (tmp_path / "a", averaged))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)

    rows = values(read_rows(averaged))
    init = [f"--config.model_init={averaged}", "--config.total_steps=2"]
    assert run(tmp_path / "b", *init) == 0
    assert values(read_rows(tmp_path / "b"))[0, "val/loss"] == rows[12, "val/loss"]

    line = error_of(capsys, tmp_path / "c", resume)
    words = "does not fit the model and optimizer of this config: it adds ema/"
    assert words in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"decay": 1.0}, "ema.decay must be at least 0 and below 1, got 1.0"),
        ({"decay": -0.1}, "ema.decay"),
        ({"every": 0}, "ema.every must be at least 1 step, got 0"),
        ({"every": 2**31}, "ema.every must be at most 2,147,483,647 steps"),
    ],
)
def test_a_wrong_value_is_one_sentence(section, words):
    with pytest.raises(ValueError, match=words):
        ema.make_update(**section)
