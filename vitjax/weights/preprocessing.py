"""How images are prepared for a weight file: the ops of its evaluation, in pp's terms.

The facts come from files next to the weights: timm's `pretrained_cfg` in config.json or
Hugging Face's preprocessor_config.json. Without them, images are resized so that a
central crop of 0.875 of the short side has the model's size, as in torchvision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.weights import files
from vitjax.weights.formats import huggingface

CROP = 0.875
KEEP = "keep('image', 'label')"
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
