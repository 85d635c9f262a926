"""How images are prepared for a weight file: its evaluation's ops, and Hugging Face's.

The facts come from files next to the weights: timm's `pretrained_cfg` in config.json or
Hugging Face's preprocessor_config.json. Without them, images are resized so that a
central crop of 0.875 of the short side has the model's size, as in torchvision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import spec
from vitjax.weights import files
from vitjax.weights.formats import huggingface
from vitjax.weights.normalisation import Normalisation

CROP = 0.875
KEEP = "keep('image', 'label')"
_RESIZE_ARGUMENTS = ("size", "method", "antialias")  # of resize and resize_small
# PIL's numbers of filters (Image.Resampling), which Hugging Face stores.
RESAMPLE = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic"}


def resize_and_crop(path: str | Path, size: int) -> str:
    """Return the pp_fn of an evaluation, without a value op: decode, resize, crop.

    `size` is the side of the model's images, used if no file next to `path` has one.
    """
    file = files.split(path)[0]
    return _huggingface(file) or _usual(file, size)


def _usual(file: Path, size: int) -> str:
    config = huggingface.config_json(file)
    section = config.get("pretrained_cfg") or config
    stored = section.get("input_size")
    if isinstance(stored, list | tuple) and len(stored) == 3 and stored[1] == stored[2]:
        size = int(stored[1])
    crop, method = section.get("crop_pct", CROP), section.get("interpolation")
    if method not in RESAMPLE.values():
        method = "bilinear"
    # timm rounds down; `resize_small` takes the side itself.
    short = int(size / float(crop))
    return (
        f"decode|resize_small({short}, '{method}', antialias=True)"
        f"|central_crop({size})|{KEEP}"
    )


def _huggingface(file: Path) -> str | None:
    """Return the ops of an image processor; None if there is none, or it is unusual."""
    stored = huggingface.beside(file, "preprocessor_config.json")
    size: Any = stored.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, Mapping) or not stored.get("do_resize", True):
        return None
    method = RESAMPLE.get(stored.get("resample", 2), "bilinear")
    how = f"'{method}', antialias=True"
    if {"height", "width"} <= size.keys():
        ops = f"resize(({size['height']}, {size['width']}), {how})"
    elif "shortest_edge" in size:
        ops = f"resize_small({size['shortest_edge']}, {how})"
    else:
        return None
    crop: Any = stored.get("crop_size")
    if stored.get("do_center_crop") and crop is not None:
        sides = (crop, crop) if isinstance(crop, int) else tuple(crop.values())
        ops += f"|central_crop({sides[0] if sides[0] == sides[-1] else sides})"
    elif "shortest_edge" in size:
        return None  # images of several sizes
    return f"decode|{ops}|{KEEP}"


def to_huggingface(
    pp_fn: str, normalisation: Normalisation, image_shape: Sequence[int]
) -> dict[str, Any]:
    """Return the content of preprocessor_config.json for an evaluation.

    Args:
      pp_fn: the evaluator's host ops; their resize and central crop are expressed.
        Images of a data set that are not resized get the model's size.
      normalisation: of pp_fn and device_pp.
      image_shape: height, width and channels of the model's images.

    Hugging Face's processors always antialias and have no area method, whose nearest is
    bilinear. Raises ValueError for a resize that they cannot express.
    """
    height, width, channels = image_shape
    size: dict[str, Any] | None = None
    crop, resample = False, "bilinear"
    for call in spec.parse(pp_fn):
        named = {**dict(zip(_RESIZE_ARGUMENTS, call.args, strict=False)), **call.kwargs}
        if call.name == "central_crop":
            crop = True
        elif call.name in ("resize", "resize_small"):
            resample = named.get("method", resample)
            if call.name == "resize_small":
                size = {"shortest_edge": named.get("smaller_size", named.get("size"))}
            elif not crop:
                sides = named["size"]
                rows, columns = (sides, sides) if isinstance(sides, int) else sides
                size = {"height": rows, "width": columns}
        elif call.name == "resize_long":
            raise ValueError(
                f"Hugging Face's image processors cannot express {call.text!r} of pp_fn: "
                "give a pp_fn with resize or resize_small, as in "
                "--config.evals.val.pp_fn='decode|resize_small(256)|central_crop(224)'"
            )
    if size is None:  # of the middle square, where there is one
        whole = {"height": height, "width": width}
        size = {"shortest_edge": min(height, width)} if crop else whole
    numbers = {value: key for key, value in RESAMPLE.items()}
    return {
        "image_processor_type": "BitImageProcessor" if crop else "ViTImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": size,
        "resample": numbers.get(resample, numbers["bilinear"]),
        "do_center_crop": crop,
        **({"crop_size": {"height": height, "width": width}} if crop else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalisation.mean[:channels]),
        "image_std": list(normalisation.std[:channels]),
    }
