"""RandAugment as big_vision runs it: 16 ops on uint8 RGB images, none of them identity.

`OPS` holds the single, deterministic ops (augment_ops.py); `randaug` is the random
policy. Three oddities are kept, since published
results hold them; each is a reason for an op to do other than its name says:

- Levels are not strengths: Posterize keeps int(level / 10 * 4) bits, so that a higher
  level changes less; 0 bits and more than 8 keep the top one. Solarize compares with
  int(level / 10 * 256) modulo 256, so that levels 0 and 10 invert the whole image.
- Color, Contrast, Brightness and Sharpness never weaken at levels above 5.
- contrast="legacy" pulls towards height * width / 256 (196 at 224 x 224; white from 256
  x 256 up), where the mean grey value is meant, which contrast="fixed" takes.

Source of the values: big_vision pp/archive/autoaugment.py:662-700 and github.com/
google-research/big_vision issues 109 and 110.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from input_pipeline import augment_ops
from input_pipeline.geometry import Interpolation

MAX_LEVEL = 10.0
TRANSLATE_PIXELS = 100.0  # at level 10
CUTOUT_PIXELS = 40  # at level 10: half of the side

OPS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": augment_ops.autocontrast,
    "Equalize": augment_ops.equalize,
    "Invert": augment_ops.invert,
    "Rotate": augment_ops.rotate,
    "Posterize": augment_ops.posterize,
    "Solarize": augment_ops.solarize,
    "Color": augment_ops.color,
    "Contrast": augment_ops.contrast,
    "Brightness": augment_ops.brightness,
    "Sharpness": augment_ops.sharpness,
    "ShearX": augment_ops.shear_x,
    "ShearY": augment_ops.shear_y,
    "TranslateX": augment_ops.translate_x,
    "TranslateY": augment_ops.translate_y,
    "Cutout": augment_ops.cutout,
    "SolarizeAdd": augment_ops.solarize_add,
}
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


class Plan(NamedTuple):
    """What chance decides about one image: for each of n layers, one entry.

    Applying the same plan to the same image gives the same result everywhere.
    """

    op: tf.Tensor  # int32 [n], index into OPS
    negate: tf.Tensor  # bool [n], for the ops in SIGNED
    centre: tf.Tensor  # float32 [n, 2] in [0, 1): the place of Cutout, (y, x)


def draw_plan(seed: tf.Tensor, num_layers: int) -> Plan:
    """A plan from a seed, int32 [2]: ops uniform over the 16, signs fair."""
    op_seed, sign_seed, centre_seed = tf.unstack(
        tf.random.split(seed, 3, alg="philox"), num=3
    )
    uniform = partial(tf.random.stateless_uniform, alg="philox")
    return Plan(
        op=uniform([num_layers], op_seed, 0, len(OPS), tf.int32),
        negate=uniform([num_layers], sign_seed) < 0.5,
        centre=uniform([num_layers, 2], centre_seed),
    )


def level_arguments(level: float) -> dict[str, tuple[float, ...]]:
    """The arguments of every op at a level (Cutout: without its centre).

    The order of operations is upstream's, since int() of the products depends on it.
    """
    share = level / MAX_LEVEL
    enhance = (share * 1.8 + 0.1,)
    return {
        "AutoContrast": (),
        "Equalize": (),
        "Invert": (),
        "Rotate": (share * 30.0,),
        "Posterize": (int(share * 4),),
        "Solarize": (int(share * 256),),
        "Color": enhance,
        "Contrast": enhance,
        "Brightness": enhance,
        "Sharpness": enhance,
        "ShearX": (share * 0.3,),
        "ShearY": (share * 0.3,),
        "TranslateX": (share * TRANSLATE_PIXELS,),
        "TranslateY": (share * TRANSLATE_PIXELS,),
        "Cutout": (int(share * CUTOUT_PIXELS),),
        "SolarizeAdd": (int(share * 110),),
    }


def _signed(value: float, negate: tf.Tensor) -> tf.Tensor:
    """A scalar, negated or not: an integer where it can be, for fast translation."""
    number = tf.constant(int(value) if value.is_integer() else value)
    return tf.where(negate, -number, number)


def apply_plan(
    image: tf.Tensor,
    plan: Plan,
    level: float,
    numerics: dict[str, dict[str, Any]],
) -> tf.Tensor:
    """Run a plan, layer by layer; `numerics` holds keyword arguments by op name."""
    arguments = level_arguments(level)
    layers = zip(*map(tf.unstack, plan), strict=True)
    for op, negate, where in layers:
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        centre = tf.cast(where * sides, tf.int32)

        def branch(name: str, image=image, negate=negate, centre=centre):
            args: tuple[Any, ...] = arguments[name]
            if name in SIGNED:
                args = (_signed(float(args[0]), negate),)
            elif name == "Cutout":
                args = (*args, centre[0], centre[1])
            return OPS[name](image, *args, **numerics.get(name, {}))

        image = tf.switch_case(op, [partial(branch, name) for name in OPS])
    return image


def randaug(
    num_layers: int = 2,
    magnitude: float | int = 10,
    contrast: Literal["legacy", "fixed"] = "legacy",
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The random policy: fn(image uint8 [h, w, 3], seed int32 [2]) -> image.

    `magnitude` is a level of 10, not an index of torchvision's 31 bins: big_vision's
    randaug(2, 10) and torchvision's RandAugment(2, 10) are not the same.
    """
    if num_layers < 0 or not 0 <= magnitude < float("inf") or not 0 <= fill <= 255:
        raise ValueError("num_layers and magnitude are >= 0, fill is 0 to 255")
    warp = {"fill": fill, "interpolation": interpolation}
    numerics = {name: warp for name in SIGNED}
    numerics |= {"Contrast": {"contrast": contrast}, "Cutout": {"fill": fill}}

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"randaug takes one uint8 image [h, w, 3], got {image.dtype.name} "
                f"{image.shape}: put it after decode and before value_range, and use "
                "random_affine for images without colour"
            )
        plan = draw_plan(seed, num_layers)
        return apply_plan(image, plan, float(magnitude), numerics)

    return augment
