"""RandAugment's layers: the names of its 16 ops, their numbers at a level, a plan's bits.

The host's ops (`randaug`) and the step's (`device_randaug`) share this file, which
therefore needs neither TensorFlow nor JAX.
"""

from typing import Any, NamedTuple

import numpy as np

from input_pipeline.plans import uniform

NAMES = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Cutout",
    "SolarizeAdd",
)
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")

MAX_LEVEL = 10.0
TRANSLATE_PIXELS = 100.0  # at level 10
CUTOUT_PIXELS = 40  # at level 10: half of the side

# Bits of a layer's word of the plan.
_OP, _NEGATE, _Y, _X = (0, 4), (4, 1), (5, 13), (18, 13)  # (lowest, how many)


class Layer(NamedTuple):
    """The random draws of one layer, read from one word of the plan."""

    op: Any  # 0 ... 15, index into NAMES
    negate: Any  # 0 or 1, for the ops in SIGNED
    centre: tuple[Any, Any]  # the place of Cutout, (y, x)


def read_plan(plan: Any, height: Any, width: Any) -> list[Layer]:
    """Return the layers of a plan: ops uniform over the 16, signs fair, places uniform.

    `plan` holds one uint32 word per layer, numbers or arrays of numpy, TensorFlow or
    JAX. height and width are below 2**19, and uint32 if they are tensors.
    """
    return [
        Layer(
            op=uniform(word, len(NAMES), *_OP),
            negate=uniform(word, 2, *_NEGATE),
            centre=(uniform(word, height, *_Y), uniform(word, width, *_X)),
        )
        for word in plan
    ]


def level_arguments(level: float) -> dict[str, tuple[float, ...]]:
    """Return the arguments of every op at a level (Cutout: without its centre).

    The order of operations is upstream's, because int() of the products depends on it.
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


def check(num_layers: int, magnitude: float, fill: int) -> None:
    """Raise ValueError unless these are arguments of `randaug`."""
    if num_layers < 0 or not 0 <= magnitude < float("inf") or not 0 <= fill <= 255:
        raise ValueError(
            "num_layers and magnitude must be >= 0, and fill must be 0 to 255, got "
            f"{num_layers}, {magnitude} and {fill}"
        )


def explain(plan: np.ndarray, level: float | None) -> list[str]:
    """Return a line for each layer, without the ops' numbers if the level is None."""
    lines = []
    # For an image of 100 x 100: the place in per cent.
    for layer in read_plan([int(word) for word in plan], 100, 100):
        name = NAMES[layer.op]
        negative = name in SIGNED and layer.negate
        if level is None:
            words = [name, "negative"] if negative else [name]
        else:
            sign = -1 if negative else 1
            words = [name, *(f"{sign * v:g}" for v in level_arguments(level)[name])]
        if name == "Cutout":
            y, x = layer.centre
            words.append(f"at {y} % of the height and {x} % of the width")
        lines.append(" ".join(words))
    return lines
