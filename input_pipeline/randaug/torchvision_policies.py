"""RandAugment, TrivialAugmentWide and CIFAR-10's AutoAugment as in torchvision.

big_vision's randaug has other levels, signs, fill and ops: magnitude 10 is level 10 of
10 there and bin 10 of 0 ... 30 here, a third of the largest strength. A policy reads
its plan as layers (op, bin, sign). An op's strength comes from its table by bin; signs
are fair. Pixels outside the image are `fill`, by default black.

Sources of the numbers: torchvision 0.28 transforms/autoaugment.py for op sets, tables
and their rounding; Cubuk et al. 2019 (arXiv:1805.09501, Table 7) for CIFAR-10's
sub-policies; Cubuk et al. 2020 (arXiv:1909.13719); Mueller and Hutter 2021
(arXiv:2103.10158). The distributions are torchvision's, the random bits are not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import tensorflow as tf

from input_pipeline.plans import Policy, uniform
from input_pipeline.randaug.geometry import Interpolation
from input_pipeline.randaug.torchvision_layers import (
    FOURTEEN,
    Layer,
    Space,
    line,
    randaugment_space,
    run,
    wide_space,
)

# AutoAugment's sub-policies for CIFAR-10: two (op, tenths of probability, bin of 10).
CIFAR10 = (
    (("Invert", 1, 0), ("Contrast", 2, 6)),
    (("Rotate", 7, 2), ("TranslateX", 3, 9)),
    (("Sharpness", 8, 1), ("Sharpness", 9, 3)),
    (("ShearY", 5, 8), ("TranslateY", 7, 9)),
    (("AutoContrast", 5, 0), ("Equalize", 9, 0)),
    (("ShearY", 2, 7), ("Posterize", 3, 7)),
    (("Color", 4, 3), ("Brightness", 6, 7)),
    (("Sharpness", 3, 9), ("Brightness", 7, 9)),
    (("Equalize", 6, 0), ("Equalize", 5, 0)),
    (("Contrast", 6, 7), ("Sharpness", 6, 5)),
    (("Color", 7, 7), ("TranslateX", 5, 8)),
    (("Equalize", 3, 0), ("AutoContrast", 4, 0)),
    (("TranslateY", 4, 3), ("Sharpness", 2, 6)),
    (("Brightness", 9, 6), ("Color", 2, 8)),
    (("Solarize", 5, 2), ("Invert", 0, 0)),
    (("Equalize", 2, 0), ("AutoContrast", 6, 0)),
    (("Equalize", 2, 0), ("Equalize", 6, 0)),
    (("Color", 9, 9), ("Equalize", 6, 0)),
    (("AutoContrast", 8, 0), ("Solarize", 2, 8)),
    (("Brightness", 1, 3), ("Color", 7, 0)),
    (("Solarize", 4, 5), ("AutoContrast", 9, 0)),
    (("TranslateY", 9, 9), ("TranslateY", 7, 9)),
    (("AutoContrast", 9, 0), ("Solarize", 8, 3)),
    (("Equalize", 8, 0), ("Invert", 1, 0)),
    (("TranslateY", 7, 9), ("AutoContrast", 9, 0)),
)
# A layer that does not happen becomes Identity, number 0, which no sub-policy names.
CIFAR10_OPS = ("Identity", *sorted({name for pair in CIFAR10 for name, *_ in pair}))


def _policy(
    who: str,
    space: Space,
    words: int,
    layers: Callable[[Any], list[Layer]],  # takes a plan's words, numbers or arrays
    fill: int | None,
    interpolation: Interpolation,
    per_batch: bool = False,
) -> Policy:
    """Return a policy from its reading of a plan; `who` names it in messages."""
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"interpolation must be 'nearest' or 'bilinear', got {interpolation!r}"
        )
    black_or_fill = 0 if fill is None else fill
    if not 0 <= black_or_fill <= 255:
        raise ValueError(f"fill must be 0 to 255, or None for 0, got {fill}")

    def apply(image: Any, plan: Any) -> tf.Tensor:
        image, plan = tf.convert_to_tensor(image), tf.convert_to_tensor(plan)
        shape = image.shape
        if image.dtype != tf.uint8 or shape.rank != 3 or shape[-1] not in (1, 3):
            raise ValueError(
                f"{who} takes one uint8 image [h, w, 1] or [h, w, 3], got "
                f"{image.dtype.name} {shape}: put it after decode and before "
                "value_range"
            )
        for layer in layers(tf.unstack(plan, num=words)):
            branches = [
                partial(run, name, image, layer, space, black_or_fill, interpolation)
                for name in space.names
            ]
            image = tf.switch_case(tf.cast(layer.op, tf.int32), branches)
            image = tf.ensure_shape(image, shape)
        return image

    def explain(plan: np.ndarray) -> list[str]:
        # Python integers do not overflow.
        numbers = [int(word) for word in plan]
        return [line(Layer(*map(int, layer)), space) for layer in layers(numbers)]

    return Policy(words, apply, explain, per_batch)


def randaug_tv(
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: int | None = None,
) -> Policy:
    """Return torchvision's RandAugment: `num_ops` of 14 ops, uniform, one magnitude.

    `magnitude` is a bin, 0 to num_magnitude_bins - 1.
    """
    if num_ops < 0 or not 0 <= magnitude < num_magnitude_bins >= 2:
        raise ValueError(
            "num_ops must be >= 0, num_magnitude_bins >= 2 and magnitude 0 to "
            f"num_magnitude_bins - 1, got {num_ops}, {num_magnitude_bins}, {magnitude}"
        )
    return _policy(
        "randaug_tv",
        randaugment_space(num_magnitude_bins),
        max(num_ops, 1),
        lambda plan: randaug_tv_layers(plan[:num_ops], magnitude),
        fill,
        interpolation,
    )


def randaug_tv_layers(plan: Any, magnitude: int) -> list[Layer]:
    """Return a layer per word: op in bits 0 to 15, sign in bit 16."""
    return [
        Layer(uniform(word, len(FOURTEEN), 0), magnitude, uniform(word, 2, 16, bits=1))
        for word in plan
    ]


def trivial_augment_wide(
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: int | None = None,
    per_batch: bool = False,
) -> Policy:
    """Return torchvision's TrivialAugmentWide: a uniform op of 14, bin and sign.

    With per_batch, all images of a batch share them, as when torchvision's transform is
    called on a batch.
    """
    if num_magnitude_bins < 2:
        raise ValueError(f"num_magnitude_bins must be >= 2, got {num_magnitude_bins}")
    return _policy(
        "trivial_augment_wide",
        wide_space(num_magnitude_bins),
        2,
        partial(trivial_augment_wide_layers, bins=num_magnitude_bins),
        fill,
        interpolation,
        per_batch,
    )


def trivial_augment_wide_layers(plan: Any, bins: int) -> list[Layer]:
    """Return one layer: op and sign as in randaug_tv, the bin from the second word."""
    word, other = plan
    return [
        Layer(
            uniform(word, len(FOURTEEN), 0),
            uniform(other, bins, 0),
            uniform(word, 2, 16, bits=1),
        )
    ]


def autoaugment_cifar10(
    interpolation: Interpolation = "nearest", fill: int | None = None
) -> Policy:
    """Return torchvision's AutoAugment with the policy of CIFAR-10.

    It draws one of 25 sub-policies uniformly; each of its two ops has its probability.
    """
    space = randaugment_space(10, CIFAR10_OPS)
    return _policy(
        "autoaugment_cifar10", space, 2, autoaugment_layers, fill, interpolation
    )


def autoaugment_layers(plan: Any) -> list[Layer]:
    """Return two layers: sub-policy in bits 0 to 15 of word 0, signs in bits 16 and 17.

    The lower and the upper half of word 1 decide which of them happen.
    """
    word, other = plan
    chosen = uniform(word, len(CIFAR10), 0)
    layers = []
    for place in range(2):
        names, tenths, bins = zip(*(pair[place] for pair in CIFAR10), strict=True)
        # 1 with probability tenths / 10, else 0.
        happens = (_at(tenths, chosen) + 9 - uniform(other, 10, 16 * place)) // 10
        op = _at([CIFAR10_OPS.index(name) for name in names], chosen)
        negative = uniform(word, 2, 16 + place, bits=1)
        layers.append(Layer(op * happens, _at(bins, chosen), negative))
    return layers


def _at(table: Any, index: Any) -> Any:
    """Return entries of a table of whole numbers, of the same kind as the index."""
    if tf.is_tensor(index):
        return tf.gather(tf.constant(table, tf.uint32), tf.cast(index, tf.int32))
    return np.asarray(table, np.uint32)[index]
