"""How the images of a model's training were normalised: mean and deviation per channel.

    known("vit.pth")                # of a file or a run; None if nothing tells
    of_ops("decode|value_range(-1, 1)")     # of a config's ops
    named("imagenet")                       # for a file that does not tell

A model computes nonsense, in silence, from images of another normalisation.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import device_ops, spec
from vitjax import weights
from vitjax.config.arguments import lookup
from vitjax.weights import files, trainers
from vitjax.weights.formats import huggingface

_CLOSE = 1e-3  # means that differ less are roundings of the same number


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std, one number per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def op(self) -> str:
        """The op that computes it from pixels of 0 ... 255, on the host or a device."""
        if self == HALF:
            return "value_range(-1, 1)"
        if len({*self.mean}) == len({*self.std}) == 1:  # for any number of channels
            mean, std = self.mean[0], self.std[0]
            return f"value_range({-mean / std}, {(1 - mean) / std})"
        return f"normalize({self.mean}, {self.std})"

    def __str__(self) -> str:
        """Return its name if it has one, and the numbers."""
        name = next((f"{k}, " for k, v in NAMES.items() if v == self), "")

        def brief(numbers: tuple[float, ...]) -> str:
            rounded = [f"{x:.4g}" for x in numbers]
            return rounded[0] if len({*rounded}) == 1 else f"({', '.join(rounded)})"

        return f"{name}mean {brief(self.mean)} and deviation {brief(self.std)}"

    def equals(self, other: "Normalisation") -> bool:
        """Return whether both are the same up to rounding; one number is for all."""
        pairs = ((self.mean, other.mean), (self.std, other.std))
        return all(
            len({len(a), len(b), 1}) <= 2
            and bool(np.allclose(np.array(a), np.array(b), rtol=0, atol=_CLOSE))
            for a, b in pairs
        )


HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
# torchvision's presets, https://pytorch.org/vision/stable/models.html.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# OpenAI's CLIP (arXiv:2103.00020), as in its released preprocessing.
CLIP = Normalisation(device_ops.CLIP_MEAN, device_ops.CLIP_STD)
NAMES = {"half": HALF, "imagenet": IMAGENET, "clip": CLIP}
# Libraries that train and evaluate all their models with the same numbers.
OF_FORMAT = {"torchvision": IMAGENET, "mup_vit": HALF}


def named(name: str) -> Normalisation:
    """Return the normalisation of that name; ValueError names the others."""
    return lookup(NAMES, name, "norm")


def trained_with(path: str | Path) -> Normalisation:
    """Return `known(path)`. Raises ValueError, which asks for a name, if it is None."""
    found = known(path)
    if found is None:
        raise ValueError(
            f"{str(path)!r} does not tell how its images were normalised: give norm=half "
            "(timm's augreg models, Google's ViTs: -1 to 1), norm=imagenet (DeiT, DINO, "
            "most of timm) or norm=clip"
        )
    return found


def known(path: str | Path) -> Normalisation | None:
    """Return the normalisation that a run or a file was trained with, or None.

    It is that of the config of a run or of a file that stores one; of timm's
    `pretrained_cfg` in config.json, or of Hugging Face's preprocessor_config.json, next
    to the file; -1 ... 1 for big_vision's .npz and mup-vit; ImageNet's for torchvision.
    Raises ValueError as `weights.load` does.
    """
    config = weights.metadata(path).get("config")
    if config is not None:
        return of_config(config)
    file, asked = files.split(path)
    if file.suffix == ".npz":
        return HALF
    beside = _of_pretrained_cfg(file) or _of_preprocessor(file)
    if beside is not None:
        return beside
    file = weights.file_in(file)
    _, name, _ = trainers.find(files.read(file)[0], asked, weights.FORMATS, file)
    return OF_FORMAT.get(name)


def of_config(config: Mapping[str, Any]) -> Normalisation | None:
    """Return the normalisation of a config's training images, None without one."""
    section = config.get("input") or {}
    return of_ops(section.get("pp") or "", config.get("device_pp") or "")


def of_ops(*specs: str) -> Normalisation | None:
    """Return what the value ops on "image" in these specs compute, None without one.

    The specs run one after the other, as pp and device_pp do.
    """
    scale, offset = np.ones(1), np.zeros(1)
    calls = [call for text in specs for call in spec.parse(text) if _is_value_op(call)]
    for call in calls:
        slope, shift = _affine(call)
        scale, offset = scale * slope, offset * slope + shift
    if not calls or not np.all(scale):
        return None
    channels = max(len(scale), len(offset), 3)
    # scale * p + offset = (p / 255 - mean) / std
    std = 1 / (255 * np.broadcast_to(scale, channels))
    mean = -np.broadcast_to(offset, channels) * std
    return _numbers(mean.tolist(), std.tolist())


def replaced(text: str, new: Normalisation) -> str:
    """Return a spec with its first value op on "image" replaced, and others removed."""
    parts, op = [], new.op
    for call in spec.parse(text):
        if not _is_value_op(call):
            parts.append(call.source)
        elif op:
            parts.append(op)
            op = ""
    return "|".join(parts)


def unlike(path: str | Path, *specs: str) -> str | None:
    """Return a sentence if these specs normalise otherwise than `path` was trained."""
    usual, own = known(path), of_ops(*specs)
    if usual is None or own is None or own.equals(usual):
        return None
    return (
        f"{path} was trained on images with {usual}, but the config's are normalised "
        f"with {own}: use {usual.op} in pp or device_pp unless this is intended"
    )


def _is_value_op(call: spec.OpCall) -> bool:
    own = {call.kwargs.get(name, "image") for name in ("inkey", "outkey", "key")}
    return call.name in _VALUE_OPS and own == {"image"}


def _affine(call: spec.OpCall) -> tuple[np.ndarray, np.ndarray]:
    """Return (a, b), per channel, of an op that computes a * pixel + b."""
    kwargs = {k: v for k, v in call.kwargs.items() if not k.endswith("key")}
    signature = inspect.signature(_VALUE_OPS[call.name])
    try:
        bound = signature.bind(*call.args, **kwargs)
    except TypeError as error:
        raise ValueError(f"op {call.text!r}: {error}") from None
    bound.apply_defaults()
    given = bound.arguments
    if call.name == "value_range":
        slope = (given["vmax"] - given["vmin"]) / (given["in_max"] - given["in_min"])
        offset = given["vmin"] - slope * given["in_min"]
        return np.atleast_1d(slope), np.atleast_1d(offset)
    if call.name == "clip_value_range":
        given, unit = {"mean": CLIP.mean, "std": CLIP.std}, 255.0
    else:
        unit = 255.0 if call.name == "normalize" else 1.0
    mean, std = np.array(given["mean"]), np.array(given["std"])
    return 1 / (unit * std), -mean / std


_VALUE_OPS = {
    name: device_ops.OPS[name].make
    for name in ("value_range", "normalize", "vgg_value_range", "clip_value_range")
}


def _of_pretrained_cfg(file: Path) -> Normalisation | None:
    """Return the numbers of the config.json that timm stores with a model."""
    config = huggingface.config_json(file)
    section = config.get("pretrained_cfg") or config
    return _numbers(section.get("mean"), section.get("std"))


def _of_preprocessor(file: Path) -> Normalisation | None:
    """Return the numbers of preprocessor_config.json, Hugging Face's image processor."""
    found = huggingface.beside(file, "preprocessor_config.json")
    if not found:
        return None
    factor = (
        found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1
    )
    mean, std = found.get("image_mean"), found.get("image_std")
    if not found.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    exact = _numbers(mean, std)
    if exact is None:
        return None
    # (p * factor - mean) / std, in terms of p / 255.
    unit = 255 * factor
    return _numbers([m / unit for m in exact.mean], [s / unit for s in exact.std])


def _numbers(mean: Any, std: Any) -> Normalisation | None:
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return None
    mean, std = ([round(float(x), 9) + 0.0 for x in numbers] for numbers in (mean, std))
    exact = Normalisation(tuple(mean), tuple(std))
    return next((n for n in NAMES.values() if n.equals(exact)), exact)
