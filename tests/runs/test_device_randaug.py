"""Trainings with randaug on the host and in the step: the same pictures and rows."""

import functools
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

from tests.helpers.runs import error_of, params_of, run, values
from vitjax.records.jsonl import read_rows

FINISH = (
    "value_range(-1, 1)|onehot(10, key='label', key_result='labels')"
    "|keep('image', 'labels')"
)
START = "grayscale_to_rgb|resize(16)"
RANDAUG = "randaug(2, 10, contrast='fixed')"
HOST = {
    "input.pp": f"{START}|{RANDAUG}|keep('image', 'label')",
    "device_pp": FINISH,
}
DEVICE = {
    "input.pp": f"{START}|randaug_plan(2)|keep('image', 'label', 'randaug_plan')",
    "device_pp": f"{RANDAUG}|{FINISH}",
}
OTHERS = {
    "accum_freq": 2,
    "ckpt_steps": 4,
    "total_steps": 8,
    "model.patch_size": (8, 8),
    "evals.val.pp_fn": f"{START}|keep('image', 'label')",
    "evals.val.log_steps": 4,
}


def flags(settings):
    return [f"--config.{key}={value}" for key, value in {**OTHERS, **settings}.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = {}
    for name, settings in (("host", HOST), ("device", DEVICE)):
        found[name] = tmp_path_factory.mktemp(name) / "run"
        assert run(found[name], *flags(settings)) == 0
    return found


@pytest.mark.slow
def test_a_training_is_that_with_randaug_on_the_host(runs):
    """With mixup and two microbatches on eight devices, and an evaluation."""
    host, device = (values(read_rows(runs[name])) for name in ("host", "device"))
    assert host.keys() == device.keys()
    assert (8, "val/prec@1") in device
    for key, value in host.items():
        np.testing.assert_allclose(device[key], value, rtol=1e-4, err_msg=str(key))
    pictures = []
    for name in ("host", "device"):
        with PIL.Image.open(runs[name] / "train_batch.png") as image:
            pictures.append(np.asarray(image))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_parameters(runs, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(runs["device"], again)
    shutil.rmtree(again / "checkpoints" / "8")
    assert run(again, *flags(DEVICE)) == 0
    ours, theirs = (params_of(path, 8) for path in (again, runs["device"]))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_a_run_changes_from_the_host_to_the_step(runs, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(runs["host"], old)
    shutil.rmtree(old / "checkpoints" / "8")
    assert run(new, *flags(DEVICE), f"--config.resume={old}") == 0
    ours, theirs = (params_of(path, 8) for path in (new, runs["host"]))
    # The steps are two programs, which round differently.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, ours, theirs)


def test_a_missing_plan_and_randaug_in_both_are_one_sentence(tmp_path, capsys):
    lacking = {**DEVICE, "input.pp": HOST["input.pp"].replace(f"|{RANDAUG}", "")}
    line = error_of(capsys, tmp_path / "a", *flags(lacking))
    assert "randaug_plan(2)|keep('image', 'label', 'randaug_plan')" in line
    both = {**HOST, "device_pp": DEVICE["device_pp"]}
    line = error_of(capsys, tmp_path / "b", *flags(both))
    assert "write randaug_plan in place of" in line
