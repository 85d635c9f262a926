"""RandAugment as big_vision runs it: 16 ops on uint8 RGB images, none of them identity.

`OPS` holds the single, deterministic ops on resolved values (degrees, bits, factors,
pixels); `randaug` is the random policy. Three oddities are kept, since published
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
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from input_pipeline.geometry import Interpolation, project, rotation, translate

Image: TypeAlias = tf.Tensor | np.ndarray  # uint8 [h, w, 3]
Number: TypeAlias = tf.Tensor | float  # Python number or scalar tensor

MAX_LEVEL = 10.0
TRANSLATE_PIXELS = 100.0  # at level 10
CUTOUT_PIXELS = 40  # at level 10: half of the side


def _blend(base: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """base + factor * (image - base) in float32, clipped, truncated to uint8."""
    if factor == 0.0:
        return base
    if factor == 1.0:
        return image
    base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
    mixed = base + factor * (image - base)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Luma, uint8 [h, w, 1]; equal to tf.image.rgb_to_grayscale on every colour."""
    scaled = tf.cast(image, tf.float32) * (1.0 / 255.0)
    r, g, b = tf.split(scaled, 3, axis=-1)
    luma = r * 0.2989 + g * 0.5870 + b * 0.1140
    return tf.cast(tf.minimum(luma * 255.5, 255.0), tf.uint8)


def _per_channel(image: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Look every channel up in its own table; `tables` is [3, 256]."""
    index = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    return tf.gather(tf.reshape(tables, [-1]), index)


def autocontrast(image: Image) -> tf.Tensor:
    """Stretch each channel to 0..255, in float32; a constant channel stays."""
    image = tf.convert_to_tensor(image)
    low = tf.cast(tf.reduce_min(image, axis=[0, 1]), tf.float32)[:, None]
    high = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.float32)[:, None]
    values = tf.range(256, dtype=tf.float32)[None]
    scale = 255.0 / (high - low)
    stretched = tf.clip_by_value(values * scale + -low * scale, 0.0, 255.0)
    tables = tf.where(high > low, stretched, values)
    return _per_channel(image, tf.cast(tables, tf.uint8))


def equalize(image: Image) -> tf.Tensor:
    """Flatten each channel's histogram, as PIL.ImageOps.equalize does."""
    image = tf.convert_to_tensor(image)
    index = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    counts = tf.math.bincount(tf.reshape(index, [-1]), minlength=768, maxlength=768)
    counts = tf.reshape(counts, [3, 256])
    brightest = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.int32)
    last = tf.gather(counts, brightest, axis=1, batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, None]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = (below + step // 2) // tf.maximum(step, 1)
    tables = tf.where(step == 0, tf.range(256)[None], tf.clip_by_value(flat, 0, 255))
    return _per_channel(image, tf.cast(tables, tf.uint8))


def invert(image: Image) -> tf.Tensor:
    """255 minus each value."""
    return 255 - tf.convert_to_tensor(image)


def rotate(
    image: Image,
    degrees: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Rotate counter-clockwise about the centre."""
    image = tf.convert_to_tensor(image)
    return project(image, rotation(image, degrees), fill, interpolation)


def posterize(image: Image, bits: int) -> tf.Tensor:
    """Keep the top `bits` bits, for 1 to 8; any other number keeps one."""
    # Upstream shifts right and left by 8 - bits, as uint8; TensorFlow takes a shift by
    # 8 or more, which a negative one becomes, for one by 7.
    dropped = 8 - bits if 1 <= bits <= 8 else 7
    return tf.bitwise.bitwise_and(
        tf.convert_to_tensor(image), tf.constant(256 - 2**dropped, tf.uint8)
    )


def solarize(image: Image, threshold: int) -> tf.Tensor:
    """Invert values of at least `threshold` modulo 256."""
    image = tf.convert_to_tensor(image)
    return tf.where(image < threshold % 256, image, 255 - image)


def solarize_add(image: Image, addition: int) -> tf.Tensor:
    """Add to values below 128, up to 255."""
    image = tf.convert_to_tensor(image)
    added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def color(image: Image, factor: float) -> tf.Tensor:
    """Away from (factor > 1) or towards the grey image."""
    image = tf.convert_to_tensor(image)
    return _blend(tf.repeat(_grey(image), 3, axis=-1), image, factor)


def contrast(
    image: Image, factor: float, contrast: Literal["legacy", "fixed"] = "legacy"
) -> tf.Tensor:
    """Away from (factor > 1) or towards one grey value, truncated to uint8.

    That value is min(height * width / 256, 255) for "legacy" and the mean of the grey
    image for "fixed".
    """
    image = tf.convert_to_tensor(image)
    pixels = tf.shape(image)[0] * tf.shape(image)[1]
    if contrast == "legacy":
        value = tf.minimum(pixels // 256, 255)
    elif contrast == "fixed":
        total = tf.reduce_sum(tf.cast(_grey(image), tf.int64))
        value = total // tf.cast(pixels, tf.int64)
    else:
        raise ValueError(f"contrast is 'legacy' or 'fixed', got {contrast!r}")
    base = tf.fill(tf.shape(image), tf.cast(value, tf.uint8))
    return tf.ensure_shape(_blend(base, image, factor), image.shape)


def brightness(image: Image, factor: float) -> tf.Tensor:
    """Each value times the factor, clipped."""
    image = tf.convert_to_tensor(image)
    return _blend(tf.zeros_like(image), image, factor)


def sharpness(image: Image, factor: float) -> tf.Tensor:
    """Away from (factor > 1) or towards the smoothed image; borders stay.

    The smoothing kernel is PIL's SMOOTH, (1 1 1, 1 5 1, 1 1 1) / 13, in float32 and
    truncated, so that sums which ought to be whole can fall one short. They are added
    row by row without contraction, as TensorFlow's own convolution does without oneDNN
    (with it, about 0.4 % of a photograph's values differ by one).
    """
    image = tf.convert_to_tensor(image)
    kernel = np.asarray([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
    wide = tf.cast(image, tf.float32)
    h, w = tf.shape(image)[0] - 2, tf.shape(image)[1] - 2
    once, five = wide * kernel[0, 0], wide * kernel[1, 1]
    smooth = tf.zeros([], tf.float32)
    for y in range(3):
        for x in range(3):
            part = five if (y, x) == (1, 1) else once
            smooth += part[y : y + h, x : x + w]
    smooth = tf.cast(tf.clip_by_value(smooth, 0.0, 255.0), tf.uint8)
    inside = _blend(smooth, image[1:-1, 1:-1], factor)
    middle = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], axis=1)
    return tf.ensure_shape(
        tf.concat([image[:1], middle, image[-1:]], axis=0), image.shape
    )


def shear_x(
    image: Image,
    shear: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Output (x, y) shows input (x + shear * y, y)."""
    matrix = [1.0, shear, 0.0, 0.0, 1.0, 0.0]
    return project(tf.convert_to_tensor(image), matrix, fill, interpolation)


def shear_y(
    image: Image,
    shear: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Output (x, y) shows input (x, y + shear * x)."""
    matrix = [1.0, 0.0, 0.0, shear, 1.0, 0.0]
    return project(tf.convert_to_tensor(image), matrix, fill, interpolation)


def translate_x(
    image: Image,
    pixels: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Output (x, y) shows input (x + pixels, y): positive moves to the left."""
    image = tf.convert_to_tensor(image)
    return translate(image, pixels, 1, fill, interpolation)


def translate_y(
    image: Image,
    pixels: Number,
    fill: int = 128,
    interpolation: Interpolation = "nearest",
) -> tf.Tensor:
    """Output (x, y) shows input (x, y + pixels): positive moves up."""
    image = tf.convert_to_tensor(image)
    return translate(image, pixels, 0, fill, interpolation)


def cutout(
    image: Image, half: int, y: Number, x: Number, fill: int = 128
) -> tf.Tensor:
    """Fill rows y - half ... y + half - 1 and columns x - half ... x + half - 1."""
    image = tf.convert_to_tensor(image)
    shape = tf.shape(image)
    rows, columns = tf.range(shape[0])[:, None], tf.range(shape[1])[None]
    y, x = tf.cast(y, tf.int32), tf.cast(x, tf.int32)
    inside = (rows >= y - half) & (rows < y + half)
    inside &= (columns >= x - half) & (columns < x + half)
    return tf.where(inside[..., None], tf.constant(fill, tf.uint8), image)


OPS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
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
    for layer in range(plan.op.shape[0]):
        negate, centre = plan.negate[layer], plan.centre[layer]
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        centre = tf.cast(centre * sides, tf.int32)

        def branch(name: str, image=image, negate=negate, centre=centre):
            args: tuple[Any, ...] = arguments[name]
            if name in SIGNED:
                args = (_signed(float(args[0]), negate),)
            elif name == "Cutout":
                args = (*args, centre[0], centre[1])
            return OPS[name](image, *args, **numerics.get(name, {}))

        image = tf.switch_case(plan.op[layer], [partial(branch, name) for name in OPS])
    return image


def randaug(
    num_layers: int = 2,
    magnitude: float = 10,
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
