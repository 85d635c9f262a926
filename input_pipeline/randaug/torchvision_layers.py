"""One layer of torchvision's random policies: an op, a bin and a sign, on an image.

An op's strength comes from its table by bin. Source of the tables and of their
rounding: torchvision 0.28, transforms/autoaugment.py.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline.randaug import torchvision_ops
from input_pipeline.randaug.geometry import Interpolation

WARPS = {
    "ShearX": torchvision_ops.shear_x,
    "ShearY": torchvision_ops.shear_y,
    "Rotate": torchvision_ops.rotate,
}
TRANSLATIONS = {
    "TranslateX": torchvision_ops.translate_x,
    "TranslateY": torchvision_ops.translate_y,
}
# The argument is a factor; tables hold its distance from 1.
ENHANCEMENTS = {
    "Brightness": torchvision_ops.brightness,
    "Color": torchvision_ops.color,
    "Contrast": torchvision_ops.contrast,
    "Sharpness": torchvision_ops.sharpness,
}
SIGNED = {**WARPS, **TRANSLATIONS, **ENHANCEMENTS}
UNSIGNED = {
    "Posterize": torchvision_ops.posterize,
    "Solarize": torchvision_ops.solarize,
}
PLAIN = {
    "Identity": torchvision_ops.identity,
    "AutoContrast": torchvision_ops.autocontrast,
    "Equalize": torchvision_ops.equalize,
    "Invert": torchvision_ops.invert,
}
LARGEST_SHIFT = (150, 331)  # 150 of 331 pixels, as a part of the image's side
# RandAugment's and TrivialAugment's ops. The order is that of the plans' numbers.
FOURTEEN = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize"),
    *("AutoContrast", "Equalize"),
)


class Layer(NamedTuple):
    """The random draws of one layer, in numbers or arrays of one shape."""

    op: Any  # index into a policy's ops
    bin: Any
    negative: Any  # 1 or 0; read by the ops in SIGNED


class Space(NamedTuple):
    """The choices of a policy: the names of its ops and their strengths by bin."""

    names: tuple[str, ...]
    bins: int
    # By op name, [bins]: shear, pixels, degrees, distance of the factor from 1, bits,
    # threshold. An op of TRANSLATIONS that is not here moves by a part of the image's
    # side, 0 to LARGEST_SHIFT.
    tables: dict[str, np.ndarray]


def linspace(start: float, stop: float, bins: int) -> np.ndarray:
    """Return torch.linspace in float32, rounded as in torch: each half from its end.

    Multiplication and addition have one rounding, as in torch on processors with fused
    multiply-add; on others some values are the next number. The result is float64, in
    which torchvision continues.
    """
    start, stop = float(np.float32(start)), float(np.float32(stop))
    spacing = float(np.float32(stop - start) / np.float32(bins - 1))
    up = np.arange(bins)
    values = np.where(up < bins // 2, start + spacing * up, stop - spacing * up[::-1])
    return values.astype(np.float32).astype(np.float64)


def _tables(
    bins: int, *, shear: float, degrees: float, factor: float, bits: int
) -> dict[str, np.ndarray]:
    """Return the tables of ops that do not translate, from the largest strengths."""
    dropped = np.round(np.arange(bins) / ((bins - 1) / bits))
    return {
        "ShearX": linspace(0.0, shear, bins),
        "ShearY": linspace(0.0, shear, bins),
        "Rotate": linspace(0.0, degrees, bins),
        **{name: linspace(0.0, factor, bins) for name in ENHANCEMENTS},
        "Posterize": 8 - dropped.astype(np.int32),
        # For whole values, "at least 246.5" is "at least 247".
        "Solarize": np.ceil(linspace(255.0, 0.0, bins)).astype(np.int32),
    }


def randaugment_space(bins: int, names: tuple[str, ...] = FOURTEEN) -> Space:
    """Return RandAugment's and AutoAugment's strengths."""
    return Space(
        names, bins, _tables(bins, shear=0.3, degrees=30.0, factor=0.9, bits=4)
    )


def wide_space(bins: int) -> Space:
    """Return TrivialAugmentWide's strengths."""
    tables = _tables(bins, shear=0.99, degrees=135.0, factor=0.99, bits=6)
    # Rounded down after rounding to float32: bin 15 of 31 moves by 15, not by 16.
    pixels = linspace(0.0, 32.0, bins).astype(np.int32)
    return Space(FOURTEEN, bins, tables | dict.fromkeys(TRANSLATIONS, pixels))


def run(
    name: str,
    image: tf.Tensor,
    layer: Layer,
    space: Space,
    fill: int,
    interpolation: Interpolation,
) -> tf.Tensor:
    """Apply one op, whose name is known, with the bin and sign of a layer."""

    def signed(value: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.cast(layer.negative, tf.bool), -value, value)

    if name in PLAIN:
        return PLAIN[name](image)
    bin = tf.cast(layer.bin, tf.int32)
    if name in TRANSLATIONS and name not in space.tables:
        most, parts = LARGEST_SHIFT
        side = tf.shape(image)[1 if name == "TranslateX" else 0]
        pixels = most * side * bin // (parts * (space.bins - 1))
        return TRANSLATIONS[name](image, signed(pixels), fill)
    value = tf.gather(tf.constant(space.tables[name]), bin)
    if name in TRANSLATIONS:
        return TRANSLATIONS[name](image, signed(value), fill)
    if name in UNSIGNED:
        return UNSIGNED[name](image, value)
    if name in ENHANCEMENTS:
        return ENHANCEMENTS[name](image, 1.0 + signed(value))
    return WARPS[name](image, signed(value), fill, interpolation)


def line(layer: Layer, space: Space) -> str:
    """Describe a layer of numbers in words."""
    name = space.names[layer.op]
    sign = "-" if layer.negative else "+"
    if name in PLAIN:
        return name
    if name in TRANSLATIONS and name not in space.tables:
        most, parts = LARGEST_SHIFT
        share = 100 * most * layer.bin / (parts * (space.bins - 1))
        side = "width" if name == "TranslateX" else "height"
        return f"{name} {sign}{share:.1f} % of the {side}"
    value = space.tables[name][layer.bin]
    if name in ENHANCEMENTS:
        return f"{name} times {1.0 - value if layer.negative else 1.0 + value:.2f}"
    return {
        "ShearX": f"ShearX {sign}{value:.3f}",
        "ShearY": f"ShearY {sign}{value:.3f}",
        "TranslateX": f"TranslateX {sign}{value} pixels",
        "TranslateY": f"TranslateY {sign}{value} pixels",
        "Rotate": f"Rotate {sign}{value:.1f} degrees",
        "Posterize": f"Posterize to {value} bits",
        "Solarize": f"Solarize from {value}",
    }[name]
