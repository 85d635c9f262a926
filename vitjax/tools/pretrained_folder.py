"""Write a run's model as a folder that Hugging Face's from_pretrained opens."""

import json
from pathlib import Path
from typing import Any

from vitjax.tools import convert
from vitjax.tools.trained import Trained
from vitjax.weights import normalisation, preprocessing
from vitjax.weights.formats import huggingface


def write(trained: Trained, folder: Path, image_shape: tuple[int, int, int]) -> None:
    """Write model.safetensors, config.json and preprocessor_config.json.

    `folder` is created. `image_shape` is height, width and channels of the model's
    images. Raises ValueError if the format cannot hold the model, or the evaluator's ops
    have no normalisation or a resize that it cannot express.
    """
    name, section = trained.evaluator()
    specs = [section.get(key) or "" for key in ("pp_fn", "device_pp")]
    norm = normalisation.of_ops(*specs)
    if norm is None:
        raise ValueError(
            f"the ops of evals.{name} do not normalise images: add value_range(-1, 1), or "
            "what the model was trained with, to its device_pp"
        )
    processor = preprocessing.to_huggingface(specs[0], norm, image_shape)
    height, width, _ = image_shape
    model: Any = trained.model  # a ViT, as export has checked
    rows, columns = model.patch_size
    folder.mkdir()
    convert.write(
        trained.params,
        trained.metadata(),
        folder / "model.safetensors",
        to="huggingface",
        posemb=model.posemb,
        grid=(height // rows, width // columns),
    )
    count = model.num_classes
    known = trained.names_in_words() or ()
    names = [*known[:count], *(f"LABEL_{k}" for k in range(len(known), count))]
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        **huggingface.model_config(model, image_shape),
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        "torch_dtype": "float32",
    }
    for file, content in (
        ("config.json", config),
        ("preprocessor_config.json", processor),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")
