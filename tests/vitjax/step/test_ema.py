"""The average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.helpers.runs import QUICKSTART, error_of, params_of, run, values
from tests.helpers.steps import FSDP, make, placed_batch
from tests.helpers.weights_cases import assert_same_bits
from vitjax import weights
from vitjax.config.files import load
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


def test_the_default_decay_and_the_dtype():
    average = ema.make_update()({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, jnp.int32(7))
    np.testing.assert_allclose(average["w"], 0.9999, rtol=1e-7)
    ones = {"w": jnp.ones(3, jnp.bfloat16)}
    average = ema.make_update(decay=0.5, every=2)(ones, ones, jnp.int32(2))
    assert average["w"].dtype == jnp.bfloat16


def test_a_step_averages_the_parameters_that_it_has_made(mesh):
    """One average an update, of the updated parameters, and sharded as these are.

    The rule for the shards names only the parameters.
    """
    rules = [("params/.*", FSDP), (".*", "replicate")]
    section = {"decay": 0.5, "every": 2}
    state, train_step, key = make(mesh, rules=rules, accum_freq=2, ema=section)
    where = lambda tree: [x.sharding for x in jax.tree.leaves(tree)]
    assert where(state.ema) == where(state.params)
    assert not all(s.is_fully_replicated for s in where(state.ema))
    assert all(s.is_fully_replicated for s in where(state.opt_state))
    expected = jax.device_get(state.params)
    assert_same_bits(jax.device_get(state.ema), expected)
    for step in range(1, 6):
        state, _ = train_step(state, placed_batch(mesh, step), key)
        params = jax.device_get(state.params)
        if step % 2 == 0:
            expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, params)
        # Halving is exact in binary, so nothing but the sum rounds: as numpy's does.
        assert_same_bits(jax.device_get(state.ema), expected)


VAL = load(QUICKSTART).evals.val.to_dict() | {"params": "ema", "log_steps": 5}
del VAL["log_epochs"]
FLAGS = ("--config.ema={'decay': 0.5}", f"--config.evals.val_ema={VAL}")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """The workdir of a small run with an average."""
    workdir = tmp_path_factory.mktemp("averaged")
    assert run(workdir, *FLAGS) == 0
    return workdir


def test_a_run_evaluates_the_average_and_the_raw_parameters(averaged, tmp_path):
    rows = values(read_rows(averaged))
    assert rows[0, "val_ema/loss"] == rows[0, "val/loss"]
    assert rows[12, "val_ema/loss"] != rows[12, "val/loss"]
    # A run that starts from the average, by way of a file, evaluates to the same.
    stored = params_of(averaged, 12)
    average = flatten_dict({"params": stored["ema"]}, sep="/")
    np.savez(tmp_path / "ema.npz", **average)
    init = f"--config.model_init={tmp_path}/ema.npz"
    assert run(tmp_path / "b", init, "--config.total_steps=1") == 0
    again = values(read_rows(tmp_path / "b"))
    for name in ("loss", "prec@1"):
        assert again[0, f"val/{name}"] == rows[12, f"val_ema/{name}"]
    # model_init={averaged} starts from the raw parameters.
    assert_same_bits(weights.load(averaged)[0], stored["params"])


def test_another_run_resumes_with_the_average(averaged, tmp_path, capsys):
    resume = f"--config.resume={averaged}/checkpoints/10"
    assert run(tmp_path / "a", *FLAGS, resume) == 0
    ours, theirs = (params_of(workdir, 12) for workdir in (tmp_path / "a", averaged))
    assert_same_bits(ours, theirs)
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
