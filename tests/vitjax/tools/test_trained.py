"""A run's model, opened from its checkpoint alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.helpers import weights_cases
from tests.helpers.runs import QUICKSTART
from vitjax import weights
from vitjax.checkpoints.read import read_params
from vitjax.models import MODELS
from vitjax.tools.trained import open_trained
from vitjax.trees import flatten_with_names
from vitjax.weights import files

pytestmark = pytest.mark.slow

IMAGE = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)


def test_it_is_the_model_of_the_config_with_the_checkpoints_parameters(scanned_run):
    trained = open_trained(scanned_run)
    assert (trained.workdir, trained.step, trained.source) == (scanned_run, 4, "params")
    assert trained.image_shape == (8, 8, 1)
    kept = json.loads((scanned_run / "config.json").read_text())
    assert trained.config == kept
    model = MODELS["vit"](num_classes=10, **kept["model"])
    params, _ = read_params(scanned_run / "checkpoints" / "4")
    expected, _ = model.apply({"params": params}, IMAGE)
    found, _ = trained.apply(IMAGE)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3
    # Nothing is put on a device until it is applied.
    leaves = jax.tree.leaves(trained.params)
    assert all(type(leaf) is np.ndarray for leaf in leaves)


def test_a_step_the_average_and_other_values_of_the_config(scanned_run):
    latest, averaged = open_trained(scanned_run), open_trained(scanned_run, ema=True)
    pairs = zip(
        flatten_with_names(latest.params),
        flatten_with_names(averaged.params),
        strict=True,
    )
    assert any(np.abs(a - b).max() > 0 for (_, a), (_, b) in pairs)
    other = open_trained(
        scanned_run / "checkpoints" / "4",
        overrides=["evals.val.pp_fn=decode", "model.gelu=exact", "mixup=None"],
    )
    assert other.evaluator()[1]["pp_fn"] == "decode"
    assert other.model == dataclasses.replace(latest.model, gelu="exact")
    assert other.experiment.mixup is None


def test_images_of_another_size_are_one_sentence(scanned_run):
    trained = open_trained(scanned_run, overrides=["model.posemb=learn"])
    with pytest.raises(
        ValueError, match=r"pos_embedding must have the shape \(1, 16, 16\), got none"
    ):
        trained.apply(IMAGE)
    grey = open_trained(scanned_run)
    with pytest.raises(ValueError, match="images of 8 x 8 x 3: embedding/kernel must"):
        grey.apply(np.repeat(IMAGE, 3, axis=-1))


def test_the_evaluator_that_classifies(scanned_run):
    probe = "evals.probe={'type': 'svc_probe', 'pp_fn': ''}"
    trained = open_trained(scanned_run, overrides=[probe])
    assert trained.evaluator()[0] == "val"
    assert trained.evaluator("probe")[1]["type"] == "svc_probe"
    with pytest.raises(ValueError, match="evaluator of the run 'vall'"):
        trained.evaluator("vall")
    none = open_trained(scanned_run, overrides=[probe, "evals.val=None"])
    with pytest.raises(ValueError, match="no evaluator of the type 'classification'"):
        none.evaluator()


def test_what_is_no_checkpoint_is_one_sentence(scanned_run):
    with pytest.raises(ValueError, match="no checkpoint at"):
        open_trained(scanned_run / "checkpoints" / "3")
    with pytest.raises(ValueError, match="did you mean 'width'"):
        open_trained(scanned_run, overrides=["model.widht=3"])
    with pytest.raises(ValueError, match="has no 'opt'"):
        read_params(scanned_run, "opt")


def timm_state(num_classes):
    """Return a state dict of timm's, which does not contain the number of heads."""
    params = weights_cases.params(posemb="learn", pool_type="tok")
    state = weights.to_state_dict(params, format="timm")
    head = np.ones((num_classes, 24))
    return state | {"head.weight": head, "head.bias": np.ones(num_classes)}


def test_one_of_the_models_in_a_file(tmp_path, caplog):
    """The choice is said once, though the file is read again with the config's heads."""
    state = timm_state(10)
    several = {f"{name}.{k}": x for name in ("model", "ema") for k, x in state.items()}
    path = tmp_path / "x.safetensors"
    files.write(path, several, {})
    trained = open_trained(path, config=QUICKSTART, norm="half")
    assert trained.params["head"]["bias"].shape == (10,)
    assert trained.model.num_heads == 4
    assert trained.workdir == tmp_path
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        f"{path}: the weights are those at 'model'; 'ema' can be select"
    )
    assert open_trained(f"{path}:ema", config=QUICKSTART).workdir == tmp_path
    caplog.clear()
    files.write(path, several | {"model.rest.bias": np.ones(1)}, {})
    with pytest.raises(ValueError, match=r"rest\.bias"):
        open_trained(path, config=QUICKSTART, norm="half")
    # The notice says which of the models does not fit.
    assert [record.getMessage() for record in caplog.records] == [said]
    headless = {k: x for k, x in state.items() if not k.startswith("head.")}
    files.write(path, headless, {})
    with pytest.raises(
        ValueError, match="is a backbone, without a head that names classes"
    ):
        open_trained(path, config=QUICKSTART)


def test_a_gelu_of_the_config_that_is_not_the_files_is_said(tmp_path, caplog):
    state = timm_state(10)
    path = tmp_path / "x.safetensors"
    files.write(path, state, {})
    transfer = f"configs/transfer.py:data_dir={tmp_path},classes=10"
    assert (
        open_trained(path, config=f"{transfer},heads=4", norm="half").model.gelu
        == "tanh"
    )
    [said] = [record.getMessage() for record in caplog.records]
    assert f"{path} was probably trained with gelu='exact'" in said
    assert "the model has gelu='tanh': set config.model.gelu" in said
    caplog.clear()
    own = f"{transfer},ckpt={path},heads=4,norm=half"
    assert open_trained(path, config=own).model.gelu == "exact"
    given = f"{transfer},heads=4,gelu=exact"
    assert open_trained(path, config=given, norm="half").model.gelu == "exact"
    assert not caplog.records


def test_names_of_a_folder_are_a_files_only_if_no_other_reading_is_left(tmp_path):
    """Another program may have trained it on other classes or in another order."""
    state = timm_state(3)
    path = tmp_path / "x.safetensors"
    files.write(path, state, {})

    def names(*classes):
        root = tmp_path / "-".join(classes)
        for name in classes:
            folder = root / "train" / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "1.png")
        config = f"configs/transfer.py:data_dir={root},classes=3,heads=4,gelu=exact"
        return open_trained(path, config=config).known_names()

    assert names("ant", "bee", "cat") == ("ant", "bee", "cat")
    assert names("0", "2", "10") is None  # as text it is 0, 10, 2
    assert names("ant", "bee", "cat", "dog") is None
    assert names("bee", "cat") is None
