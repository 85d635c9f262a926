"""RandAugment as big_vision runs it: 16 ops on uint8 RGB images, none of them identity.

`OPS` holds the single, deterministic ops (ops.py); `randaug` is the random policy.
Three oddities are kept, because published results include them; each makes an op do
something other than its name says:

- Levels are not strengths: Posterize keeps int(level / 10 * 4) bits, so that a higher
  level changes less; 0 bits and more than 8 keep the top one. Solarize compares with
  int(level / 10 * 256) modulo 256, so that levels 0 and 10 invert the whole image.
- Color, Contrast, Brightness and Sharpness never weaken at levels above 5.
- contrast="legacy" blends towards height * width / 256 (196 at 224 x 224; white from
  256 x 256 up) instead of the mean grey value, which contrast="fixed" takes.

Source of the values: big_vision pp/archive/autoaugment.py:662-700 and github.com/
google-research/big_vision issues 109 and 110.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import tensorflow as tf

from input_pipeline.layers import (
    SIGNED,
    check,
    explain,
    level_arguments,
    read_plan,
)
from input_pipeline.plans import Policy
from input_pipeline.randaug import ops
from input_pipeline.randaug.geometry import Interpolation
from input_pipeline.randaug.xla import Zero, applies, compiled

OPS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": ops.autocontrast,
    "Equalize": ops.equalize,
    "Invert": ops.invert,
    "Rotate": ops.rotate,
    "Posterize": ops.posterize,
    "Solarize": ops.solarize,
    "Color": ops.color,
    "Contrast": ops.contrast,
    "Brightness": ops.brightness,
    "Sharpness": ops.sharpness,
    "ShearX": ops.shear_x,
    "ShearY": ops.shear_y,
    "TranslateX": ops.translate_x,
    "TranslateY": ops.translate_y,
    "Cutout": ops.cutout,
    "SolarizeAdd": ops.solarize_add,
}


_TAKE_ZERO = ("AutoContrast", "Equalize", "Color", "Contrast", "Sharpness")


def _branches(
    level: float, numerics: dict[str, dict[str, Any]]
) -> list[Callable[[Any, Any, Any], tf.Tensor]]:
    """Return fn(image, centre, zero) of each op in OPS, then of SIGNED, negated.

    All but Cutout's centre is known in advance, so that each warp has one table.
    """

    def branch(name: str, *args: float | int) -> Callable[[Any, Any, Any], tf.Tensor]:
        op = partial(OPS[name], **numerics.get(name, {}))
        if name == "Cutout":
            return lambda image, centre, zero: op(image, *args, *centre)
        if name in _TAKE_ZERO:
            return lambda image, centre, zero: op(image, *args, zero=zero)
        return lambda image, centre, zero: op(image, *args)

    arguments = level_arguments(level)
    return [branch(name, *arguments[name]) for name in OPS] + [
        branch(name, -arguments[name][0]) for name in SIGNED
    ]


# The number of the branch for 16 * negate + op.
_BRANCH = [
    len(OPS) + SIGNED.index(name) if negate and name in SIGNED else op
    for negate in range(2)
    for op, name in enumerate(OPS)
]


def randaug(
    num_layers: int = 2,
    magnitude: float | int = 10,
    contrast: Literal["legacy", "fixed"] = "legacy",
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> Policy:
    """Return the random policy for uint8 images [h, w, 3]; a plan has a word per layer.

    `magnitude` is a level of 10, not an index of torchvision's 31 bins: big_vision's
    randaug(2, 10) and torchvision's RandAugment(2, 10) are not the same.
    """
    check(num_layers, magnitude, fill)
    warp = {"fill": fill, "interpolation": interpolation}
    numerics = {name: warp for name in SIGNED}
    numerics |= {"Contrast": {"contrast": contrast}, "Cutout": {"fill": fill}}
    branches = _branches(float(magnitude), numerics)

    def one(image: tf.Tensor, word: tf.Tensor, zero: Zero) -> tf.Tensor:
        sides = tf.unstack(tf.cast(tf.shape(image)[:2], tf.uint32), num=2)
        [layer] = read_plan([word], *sides)
        number = tf.cast(layer.negate * len(OPS) + layer.op, tf.int32)
        changed = tf.switch_case(
            tf.gather(_BRANCH, number),
            [partial(branch, image, layer.centre, zero) for branch in branches],
        )
        return tf.ensure_shape(changed, image.shape)

    smooth = interpolation == "bilinear"  # which XLA has not
    by_xla = compiled(one)

    def apply(image: Any, plan: Any) -> tf.Tensor:
        image, plan = tf.convert_to_tensor(image), tf.convert_to_tensor(plan)
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"randaug takes one uint8 image [h, w, 3], got {image.dtype.name} "
                f"{image.shape}: put it after decode and before value_range, and use "
                "random_affine for images without colour"
            )
        for word in tf.unstack(plan)[:num_layers]:
            if smooth or not applies(image):
                image = one(image, word, None)
            else:
                # Zero: the upper bits of a word of 32 bits.
                image = by_xla(image, word, tf.cast(word // 2**16 // 2**16, tf.int32))
        return image

    return Policy(
        words=max(num_layers, 1),
        apply=apply,
        explain=lambda plan: explain(plan[:num_layers], float(magnitude)),
    )


def randaug_plan(num_layers: int = 2) -> Policy:
    """Return the policy that draws the plan of `randaug` and leaves the image to it.

    randaug of the same number of layers then follows in device_pp. The draws depend on
    the op's place in the spec, so at randaug's place they are randaug's.
    """
    check(num_layers, 0, 0)
    return Policy(
        words=max(num_layers, 1),
        apply=lambda image, plan: image,
        explain=lambda plan: explain(plan[:num_layers], None),
    )
