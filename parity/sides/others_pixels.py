"""RandAugment's ops as PIL and torchvision have them, given big_vision's arguments.

h height, w width, c channels; images are uint8 [h, w, 3]. Each function takes an image
and the arguments of the op of the same name in input_pipeline.randaug: degrees, bits, a
threshold, a factor, pixels. This module alone translates them where these libraries
need other arguments for the same picture:

- positive translations move left and up: torchvision's sign is the opposite;
- shears leave the centre of the first pixel in place, not the image's corner;
- thresholds are taken modulo 256, and 0 or more than 8 bits are one bit.

Neither library has big_vision's "Contrast". PIL.Image.blend takes its place, towards
the grey value of big_vision's formula. The formula is computed here, so PIL confirms
the blending but not the formula. The libraries' own contrast is "Contrast fixed".
"""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import torch
from jaxtyping import Shaped

from parity.sides.samples import Image
from vitjax.weights.libraries import import_torchvision

FILL = 128
Op = Callable[..., Image]


def functional() -> ModuleType:
    """Return torchvision.transforms.v2.functional."""
    import_torchvision()
    from torchvision.transforms.v2 import functional as module

    return module


def to_torch(image: Shaped[np.ndarray, "h w c"]) -> Shaped[torch.Tensor, "c h w"]:
    """Return the image as a tensor, channels first."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def to_numpy(image: Shaped[torch.Tensor, "c h w"]) -> Shaped[np.ndarray, "h w c"]:
    """Return the tensor as an image, channels last."""
    return image.numpy().transpose(1, 2, 0)


def bits_kept(bits: int) -> int:
    """Return how many bits a saturating shift by 8 - bits and back keeps of a byte."""
    return bits if 1 <= bits <= 8 else 1


def legacy_base(image: Image) -> int:
    """Return the value that big_vision's contrast takes for the mean grey value."""
    return min(image.shape[0] * image.shape[1] // 256, 255)


def _pil(function: Callable[..., PIL.Image.Image]) -> Op:
    return lambda image, *args: np.asarray(function(PIL.Image.fromarray(image), *args))


def _enhancer(kind: type) -> Op:
    return _pil(lambda image, factor: kind(image).enhance(factor))


def _pil_affine(image: PIL.Image.Image, *matrix: float | int) -> PIL.Image.Image:
    nearest = PIL.Image.Resampling.NEAREST
    affine = PIL.Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, nearest, fillcolor=(FILL,) * 3)


def _pil_legacy_contrast(image: PIL.Image.Image, factor: float) -> PIL.Image.Image:
    value = legacy_base(np.asarray(image))
    base = PIL.Image.new("RGB", image.size, (value,) * 3)
    return PIL.Image.blend(base, image, factor)


def _pil_cutout(image: PIL.Image.Image, half: int, y: int, x: int) -> PIL.Image.Image:
    image = image.copy()
    image.paste((FILL,) * 3, (max(x - half, 0), max(y - half, 0), x + half, y + half))
    return image


PIL_OPS: dict[str, Op] = {
    "AutoContrast": _pil(PIL.ImageOps.autocontrast),
    "Equalize": _pil(PIL.ImageOps.equalize),
    "Invert": _pil(PIL.ImageOps.invert),
    "Rotate": _pil(
        lambda image, degrees: image.rotate(
            degrees, PIL.Image.Resampling.NEAREST, fillcolor=(FILL,) * 3
        )
    ),
    "Posterize": _pil(
        lambda image, bits: PIL.ImageOps.posterize(image, bits_kept(bits))
    ),
    "Solarize": _pil(lambda image, t: PIL.ImageOps.solarize(image, t % 256)),
    "Color": _enhancer(PIL.ImageEnhance.Color),
    "Contrast": _pil(_pil_legacy_contrast),
    "Contrast fixed": _enhancer(PIL.ImageEnhance.Contrast),
    "Brightness": _enhancer(PIL.ImageEnhance.Brightness),
    "Sharpness": _enhancer(PIL.ImageEnhance.Sharpness),
    "ShearX": _pil(lambda image, s: _pil_affine(image, 1, s, -s / 2, 0, 1, 0)),
    "ShearY": _pil(lambda image, s: _pil_affine(image, 1, 0, 0, s, 1, -s / 2)),
    "TranslateX": _pil(lambda image, p: _pil_affine(image, 1, 0, p, 0, 1, 0)),
    "TranslateY": _pil(lambda image, p: _pil_affine(image, 1, 0, 0, 0, 1, p)),
    "Cutout": _pil(_pil_cutout),
    "SolarizeAdd": _pil(
        lambda image, n: image.point(
            3 * [min(v + n, 255) if v < 128 else v for v in range(256)]
        )
    ),
}


def _torchvision(function: Callable[..., torch.Tensor]) -> Op:
    def op(image: Image, *args: float | int) -> Image:
        return to_numpy(function(functional(), to_torch(image), *args))

    return op


def sheared(image: Image, x: float, y: float, centre: float) -> Image:
    """Apply torchvision's shear by tangents x and y, with (centre, centre) fixed.

    0 is the image's corner, as in torchvision's RandAugment; 0.5 is the centre of the
    first pixel.
    """
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    moved = functional().affine(
        to_torch(image),
        angle=0.0,
        translate=[0, 0],
        scale=1.0,
        shear=degrees,
        fill=[FILL] * 3,
        center=[centre, centre],
    )
    return to_numpy(moved)


def _translated(f: ModuleType, image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    return f.affine(
        image,
        angle=0.0,
        translate=[-x, -y],
        scale=1.0,
        shear=[0.0, 0.0],
        fill=[FILL] * 3,
    )


def _torchvision_cutout(
    f: ModuleType, image: torch.Tensor, half: int, y: int, x: int
) -> torch.Tensor:
    top, left = max(y - half, 0), max(x - half, 0)
    grey = torch.tensor(FILL, dtype=torch.uint8)
    return f.erase(image, top, left, y + half - top, x + half - left, grey)


TORCHVISION_OPS: dict[str, Op] = {
    "AutoContrast": _torchvision(lambda f, image: f.autocontrast(image)),
    "Equalize": _torchvision(lambda f, image: f.equalize(image)),
    "Invert": _torchvision(lambda f, image: f.invert(image)),
    "Rotate": _torchvision(
        lambda f, image, degrees: f.rotate(image, degrees, fill=[FILL] * 3)
    ),
    "Posterize": _torchvision(lambda f, image, b: f.posterize(image, bits_kept(b))),
    "Solarize": _torchvision(lambda f, image, t: f.solarize(image, t % 256)),
    "Color": _torchvision(lambda f, image, x: f.adjust_saturation(image, x)),
    "Contrast fixed": _torchvision(lambda f, image, x: f.adjust_contrast(image, x)),
    "Brightness": _torchvision(lambda f, image, x: f.adjust_brightness(image, x)),
    "Sharpness": _torchvision(lambda f, image, x: f.adjust_sharpness(image, x)),
    "ShearX": lambda image, s: sheared(image, s, 0.0, 0.5),
    "ShearY": lambda image, s: sheared(image, 0.0, s, 0.5),
    "TranslateX": _torchvision(lambda f, image, p: _translated(f, image, p, 0.0)),
    "TranslateY": _torchvision(lambda f, image, p: _translated(f, image, 0.0, p)),
    "Cutout": _torchvision(_torchvision_cutout),
}
