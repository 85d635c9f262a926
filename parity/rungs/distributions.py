"""Rung 10, random draws: randaug(2, 10) and inception crops, by two-sample tests.

Each side draws from its own generator, so only distributions can be compared. The
measure is the Kolmogorov-Smirnov distance, the largest difference between two
cumulative distributions. All seeds are fixed: the verdict does not change by luck.

Results that do not depend on the reference are computed once per process.

n images or boxes, k statistics; h height, w width.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int

from parity.reference import augment, crops
from parity.rungs.comparison import Comparison, worst
from parity.rungs.decoding import PINNED
from parity.sides import others_pixels, ours_pixels, samples
from parity.sides.others_pixels import to_numpy, to_torch
from parity.sides.samples import Image
from vitjax.weights.libraries import import_torchvision

BOXES = 3000  # per shape
LAYERS, LEVEL = 2, 10
# Equal distributions exceed the bound once in ten thousand times (more rarely if values
# repeat); fifty distances are compared.
ALPHA = 1e-4
AREA, RATIO = (0.05, 1.0), (0.75, 1.33)
SHAPES = ((375, 500), (256, 512), (120, 100))

REASONS = {
    "torchvision's RandAugment": "another policy of the same name and numbers: 14 ops, "
    "the identity among them, no Invert, SolarizeAdd and Cutout, signed enhancers; its "
    "magnitude 10 is a third of its range. With the fill set to 128, as here",
    "torchvision's crops": "RandomResizedCrop with the same ranges: uniform areas and "
    "log-uniform ratios, where TensorFlow's heights and ratios are uniform",
}


SUBJECTS = {"grid": 600, "china halved": 1600}  # the number of augmented copies


@functools.cache
def subject(name: str) -> Image:
    """Return an image to augment many times: 224 x 224 or 112 x 112."""
    images = samples.augmented()
    if name == "grid":
        return images["black and white grid"]
    return np.ascontiguousarray(images["china"][::2, ::2])


Sample = Float[np.ndarray, "n k"]  # the statistics of each augmented copy

STATISTICS: dict[str, Callable[[Image, Image], float]] = {
    "mean": lambda image, before: image.mean(),
    "deviation": lambda image, before: image.std(),
    "share of 128": lambda image, before: (image == 128).mean(),
    "share of 0 and 255": lambda image, before: ((image == 0) | (image == 255)).mean(),
    "darkest": lambda image, before: image.min(),
    "change": lambda image, before: np.abs(image.astype(np.int16) - before).mean(),
    "red less blue": lambda image, before: image[..., 0].mean() - image[..., 2].mean(),
    "128 on the left less right": lambda image, before: np.subtract(
        *((half == 128).mean() for half in np.array_split(image, 2, axis=1))
    ),
    "128 above less below": lambda image, before: np.subtract(
        *((half == 128).mean() for half in np.array_split(image, 2, axis=0))
    ),
}


def noise(n: int) -> float:
    """Return the distance of two samples of n that has the probability ALPHA."""
    return math.sqrt(-math.log(ALPHA / 2) / 2 * 2 / n)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def policy() -> Iterator[Comparison]:
    """Yield the distance of each statistic of augmented images."""
    for name, count in SUBJECTS.items():
        line = f"randaug(2, 10), {{}}, {name}"
        yield from _distances(line, name, reference_sample(name), noise(count))
    line, theirs = "known: torchvision's RandAugment, {}", torchvision_sample("grid")
    yield _greatest(_distances(line, "grid", theirs, PINNED * 0.333))


def _greatest(lines: Iterator[Comparison]) -> Comparison:
    return max(lines, key=lambda line: line.measured)


def _distances(
    line: str, name: str, theirs: Sample, bound: float
) -> Iterator[Comparison]:
    ours = ours_sample(name)
    for at, title in enumerate(STATISTICS):
        measured = distance(ours[:, at], theirs[:, at])
        yield Comparison(line.format(title), measured, bound)


def _sample(images: Iterator[Image], before: Image) -> Sample:
    # A subset of the pixels is enough.
    small = before[::3, ::3]
    parts = (image[::3, ::3] for image in images)
    rows = [[of(part, small) for of in STATISTICS.values()] for part in parts]
    return np.array(rows, np.float64)


@functools.cache
def ours_sample(name: str) -> Sample:
    """Return the statistics of a subject under vitjax's randaug."""
    before = subject(name)
    pp = f"randaug({LAYERS}, {LEVEL})"
    batches = ours_pixels.batches(before, pp, SUBJECTS[name])
    return _sample((image for batch in batches for image in batch), before)


def reference_sample(name: str) -> Sample:
    """Return the statistics of a subject under the torch reference's randaug."""
    before = subject(name)
    image, generator = to_torch(before), torch.Generator().manual_seed(1)
    drawn = (
        to_numpy(augment.randaug(image, generator, LAYERS, LEVEL))
        for _ in range(SUBJECTS[name])
    )
    return _sample(drawn, before)


@functools.cache
def torchvision_sample(name: str) -> Sample:
    """Return the statistics of a subject under torchvision's RandAugment(2, 10).

    Its fill is 128.
    """
    before = subject(name)
    return _sample(torchvision_randaug(before, SUBJECTS[name]), before)


def torchvision_randaug(image: Image, count: int) -> Iterator[Image]:
    """Yield an image augmented `count` times by torchvision's RandAugment.

    Its fill is 128.
    """
    import_torchvision()
    from torchvision.transforms import v2

    tensor = to_torch(image)
    transform = v2.RandAugment(LAYERS, LEVEL, fill=[others_pixels.FILL] * 3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(count):
            yield to_numpy(transform(tensor))


def crop_boxes() -> Iterator[Comparison]:
    """Yield the largest distance over shapes of crops' areas, ratios and positions."""
    bound = noise(BOXES)
    sides = {
        "crops of sampler tf, reference": ("tf", reference_boxes),
        "crops of sampler torchvision, torchvision": ("torchvision", torchvision_boxes),
    }
    for title, (sampler, theirs) in sides.items():
        yield from _box_lines(f"{title}, {{}}", sampler, theirs, bound)
    line = "known: torchvision's crops, {}"
    yield _greatest(_box_lines(line, "tf", torchvision_boxes, PINNED * 0.172))


def _box_lines(
    line: str, sampler: str, theirs: Callable[[int, int], np.ndarray], bound: float
) -> Iterator[Comparison]:
    found: dict[str, dict[str, float]] = {}
    for height, width in SHAPES:
        a = features_of(ours_boxes(height, width, sampler), height, width)
        b = features_of(theirs(height, width), height, width)
        for title in a:
            of = found.setdefault(title, {})
            of[f"{height} x {width}"] = distance(a[title], b[title])
    for title, errors in found.items():
        yield worst(line.format(title), errors, bound)


def features_of(
    boxes: Int[np.ndarray, "n 4"], height: int, width: int
) -> dict[str, Float[np.ndarray, "n"]]:
    """Return the features of boxes: share of the area, width / height, top, left."""
    top, left, h, w = boxes.T.astype(np.float64)
    return {
        "area": h * w / (height * width),
        "ratio": w / h,
        "top": top / height,
        "left": left / width,
    }


@functools.cache
def ours_boxes(height: int, width: int, sampler: str) -> Int[np.ndarray, "n 4"]:
    """Draw boxes by vitjax's inception_crop, with its default ranges."""
    return ours_pixels.crop_boxes(height, width, BOXES, sampler)


def reference_boxes(height: int, width: int) -> Int[np.ndarray, "n 4"]:
    """Draw boxes by the torch reference, with TensorFlow's distribution."""
    generator = torch.Generator().manual_seed(2)
    return crops.boxes(BOXES, height, width, AREA, RATIO, generator).numpy()


@functools.cache
def torchvision_boxes(height: int, width: int) -> Int[np.ndarray, "n 4"]:
    """Draw boxes by torchvision's own RandomResizedCrop, with the same ranges."""
    crop = import_torchvision().transforms.RandomResizedCrop
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        rows = [crop.get_params(image, list(AREA), list(RATIO)) for _ in range(BOXES)]
    return np.array(rows, np.int64)
