"""Which mean and deviation belong to weights, against the libraries' own statements."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from configs import transfer
from input_pipeline import device_ops, ops
from tests.helpers import torch_models, weights_cases
from tests.helpers.photographs import PHOTOGRAPHS
from tests.helpers.weights_cases import TOK
from vitjax import weights
from vitjax.tools import convert, photos
from vitjax.tools.trained import open_trained
from vitjax.weights import files, normalisation, preprocessing
from vitjax.weights.libraries import import_torchvision

PIXELS = np.array([0, 51, 255], np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.mark.parametrize(
    "specs",
    [
        ("decode|value_range(-1, 1)|keep('image')", ""),
        ("decode", "value_range(0, 1)|onehot(3, key='label')"),
        ("", "value_range(vmin=-2, vmax=3, in_min=5)"),
        ("vgg_value_range", ""),
        ("", "clip_value_range"),
        ("", "normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))"),
        ("", "value_range(0, 1, key='other')|value_range(-1, 1)"),
        ("value_range(0, 255)", "vgg_value_range"),
    ],
)
def test_the_ops_compute_what_is_said_of_them(specs):
    found = normalisation.of_ops(*specs)
    mean, std = np.array(found.mean), np.array(found.std)
    expected = jnp.asarray(PIXELS)
    for spec in specs:
        calls = [s for s in spec.split("|") if "range" in s or "normalize" in s]
        run = device_ops.get_preprocess_fn(
            "|".join(s for s in calls if "other" not in s)
        )
        expected = run({"image": expected})["image"]
    np.testing.assert_allclose((PIXELS / 255 - mean) / std, expected, atol=2e-6)
    again = device_ops.get_preprocess_fn(found.op)({"image": jnp.asarray(PIXELS)})
    np.testing.assert_allclose(again["image"], expected, atol=2e-6)


def test_no_value_op_tells_nothing_and_another_is_replaced():
    assert normalisation.of_ops("decode|keep('image')") is None
    grey = normalisation.of_ops("normalize((0.2,), (0.4,))")
    assert grey.op == "value_range(-0.5, 2.0)"  # of one channel, or of three
    spec = "decode|value_range(-1, 1)|value_range(0, 1, key='x')|keep('a|b')"
    assert normalisation.replaced(spec, normalisation.IMAGENET) == spec.replace(
        "value_range(-1, 1)",
        "normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))",
    )
    assert str(normalisation.HALF) == "half, mean 0.5 and deviation 0.5"


@pytest.mark.parametrize("name", ["torchvision", "mup_vit", "timm", "huggingface"])
def test_what_a_format_tells(name, tmp_path):
    path = tmp_path / "vit.safetensors"
    state = weights.to_state_dict(
        weights_cases.params(**TOK), format=name, grid=weights_cases.SQUARE
    )
    files.write(path, state, {})
    found = normalisation.known(path)
    if name == "torchvision":
        import_torchvision()
        from torchvision.models import ViT_B_16_Weights

        preset = ViT_B_16_Weights.IMAGENET1K_V1.transforms()
        assert (list(found.mean), list(found.std)) == (preset.mean, preset.std)
    elif name == "mup_vit":  # its main.py: v2.Normalize([0.5] * 3, [0.5] * 3)
        assert found == normalisation.HALF
    else:
        assert found is None
        with pytest.raises(ValueError, match=r"give norm=half .* norm=imagenet"):
            transfer.get_config(f"ckpt={path},classes=3,heads=3")
    assert normalisation.named("clip") == normalisation.CLIP


@pytest.mark.parametrize("kind", ["ViT", "CLIP"])
def test_hugging_faces_image_processors(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    import_torchvision()
    changed = {"rescale_factor": 1 / 127.5} if kind == "ViT" else {}
    made = getattr(transformers, f"{kind}ImageProcessor")(**changed)
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    files.write(
        file,
        weights.to_state_dict(weights_cases.params(**TOK), format="huggingface"),
        {},
    )
    found = normalisation.known(tmp_path)
    assert found == normalisation.known(file)
    photo = PHOTOGRAPHS["even"]
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "np"}
    theirs = made(photo, **options)["pixel_values"][0].transpose(1, 2, 0)
    ours = (photo / 255 - np.array(found.mean)) / np.array(found.std)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_model_of_timm_is_opened_and_fed_as_timm_does(tmp_path, caplog):
    """Without any --config; resizing differs by PIL's rounding to bytes."""
    import_torchvision()
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    model = torch_models.timm_model(image_size=32)
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.88, "interpolation": "bicubic"}
    cfg |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    model.pretrained_cfg = cfg | {"architecture": "vit_tiny_patch4_32"}
    save_for_hf(model, tmp_path, safe_serialization=True)
    heads = ["model.num_heads=3"]  # which timm's state dict does not show
    trained = open_trained(tmp_path, overrides=heads)
    name, section = trained.evaluator()
    assert name == "val"
    assert (
        "resize_small(36, 'bicubic', antialias=True)|central_crop(32)"
        in (section["pp_fn"])
    )
    photo = PIL.Image.fromarray(PHOTOGRAPHS["even"][:192])
    photo.save(tmp_path / "photo.png")
    ours = np.asarray(photos.feed(tmp_path / "photo.png", section))[0]
    options = {key: cfg[key] for key in ("input_size", "crop_pct", "interpolation")}
    transform = timm.data.create_transform(**options, mean=cfg["mean"], std=cfg["std"])
    theirs = transform(photo).numpy().transpose(1, 2, 0)
    level = 1 / 255 / 0.224
    assert np.abs(ours - theirs).max() < 2.1 * level
    assert np.abs(ours - theirs).mean() < 0.6 * level
    # A config of another normalisation is corrected, and said so; an override is not.
    with caplog.at_level(logging.WARNING):
        given = {"config": "configs/transfer.py:classes=5,heads=3"}
        corrected = open_trained(tmp_path, **given).evaluator()[1]
    assert "normalize((0.485, 0.456, 0.406)" in corrected["device_pp"]
    [notice] = [
        r.getMessage() for r in caplog.records if "images get" in r.getMessage()
    ]
    assert notice == (
        "images get imagenet, mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, "
        f"0.225), as {tmp_path} was trained, not half, mean 0.5 and deviation 0.5"
    )
    mine = ["evals.val.device_pp=value_range(-1, 1)|keep('image')"]
    kept = open_trained(tmp_path, **given, overrides=mine).evaluator()[1]
    assert kept["device_pp"] == mine[0].partition("=")[2]


def test_torchvisions_weights_are_fine_tuned_with_their_own_numbers(tmp_path):
    path = tmp_path / "vit.safetensors"
    state = weights.to_state_dict(weights_cases.params(**TOK), format="torchvision")
    files.write(path, state, {})
    config = transfer.get_config(f"ckpt={path},classes=3,heads=3")
    for specs in (
        (config.input.pp, config.device_pp),
        (config.evals.val.pp_fn, config.evals.val.device_pp),
    ):
        assert normalisation.of_ops(*specs) == normalisation.IMAGENET
    assert normalisation.unlike(path, config.input.pp, config.device_pp) is None
    assert "use normalize((0.485" in normalisation.unlike(path, "value_range(-1, 1)")
    half = transfer.get_config(f"ckpt={path},classes=3,heads=3,norm=half")
    assert "value_range(-1, 1)|onehot" in half.device_pp
    with pytest.raises(
        ValueError, match="unknown norm 'imagnet'; did you mean 'imagenet'"
    ):
        transfer.get_config(f"ckpt={path},heads=3,norm=imagnet")
    # The checkpoint's config keeps it, so a run knows.
    kept = json.loads(json.dumps(config.to_dict()))
    assert normalisation.of_config(kept) == normalisation.IMAGENET


def test_the_sizes_of_image_processors(tmp_path):
    processor = tmp_path / "preprocessor_config.json"
    for stored, expected in (
        ({"size": 224}, "resize((224, 224), 'bilinear', antialias=True)"),
        (
            {
                "size": {"shortest_edge": 256},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            "resize_small(256, 'bicubic', antialias=True)|central_crop(224)",
        ),
    ):
        processor.write_text(json.dumps(stored))
        found = preprocessing.resize_and_crop(tmp_path / "model.safetensors", 32)
        assert found == f"decode|{expected}|keep('image', 'label')"
        ops.get_preprocess_fn(found)
    processor.write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config.json is not JSON"):
        preprocessing.resize_and_crop(tmp_path / "model.safetensors", 32)


def test_switches_of_an_image_processor(tmp_path):
    """Without rescaling pixels are 0 to 255; without normalising nothing is subtracted."""
    file = tmp_path / "preprocessor_config.json"
    numbers = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    for stored, mean, std in (
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False}, 0.5 / 255, 0.25 / 255),
        ({}, 0.5, 0.25),
    ):
        file.write_text(json.dumps(numbers | stored))
        found = normalisation.known(tmp_path / "model.bin")
        assert found.mean == pytest.approx((mean,) * 3, abs=1e-9)
        assert found.std == pytest.approx((std,) * 3, abs=1e-9)


def test_a_name_counts_more_than_the_runs_own(digits_run, caplog):
    with caplog.at_level(logging.WARNING):
        section = open_trained(digits_run, norm="clip").evaluator()[1]
    assert normalisation.of_ops(section["device_pp"]) == normalisation.CLIP
    assert "as --norm says, not half" in caplog.text
    assert normalisation.known(digits_run) == normalisation.HALF


def test_a_written_file_that_loses_the_normalisation_is_said(tmp_path, caplog):
    """big_vision's file is read as -1 to 1, timm's .pth tells nothing."""
    config = {"input": {"pp": ""}, "device_pp": normalisation.IMAGENET.op}
    params, kw = weights_cases.params(**TOK), {"posemb": "learn"}
    for name, to, said in (
        ("x.npz", "big_vision", "its readers expect half"),
        ("x.pth", "timm", "its readers need it"),
        ("x.safetensors", "timm", ""),
        ("y.pth", "torchvision", ""),
    ):
        caplog.clear()
        convert.write(params, {"config": config}, tmp_path / name, to=to, **kw)
        assert (said in caplog.text) if said else (caplog.text == "")
    assert normalisation.known(tmp_path / "x.npz") == normalisation.HALF


@pytest.mark.parametrize(
    "ops",
    [
        "resize((40, 40), 'bilinear', antialias=True)|central_crop(32)",
        "resize_small(40, 'bicubic', antialias=True)|central_crop(32)",
        "resize((32, 32), 'lanczos3', antialias=True)",
    ],
)
def test_a_written_image_processor_is_read_as_the_same_ops(ops, tmp_path):
    stored = preprocessing.to_huggingface(
        f"decode|{ops}", normalisation.HALF, (32, 32, 3)
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    found = preprocessing.resize_and_crop(tmp_path / "model.bin", 8)
    assert found == f"decode|{ops}|keep('image', 'label')"
    middle = preprocessing.to_huggingface(
        "decode|central_crop|resize(32)", normalisation.HALF, (32, 32, 3)
    )
    assert middle["size"] == {"shortest_edge": 32}
