"""Real images, encoded in every way, for the tests of the input pipeline's ops."""

import io

import numpy as np
import PIL.Image
import scipy.ndimage
import skimage.data
import sklearn.datasets

from input_pipeline import ops


def photographs():
    china, flower = sklearn.datasets.load_sample_images().images
    return {
        "even": skimage.data.astronaut()[:256, :320],
        "odd": skimage.data.chelsea()[:223, :331],
        "tall": np.rot90(skimage.data.coffee())[:333, :215].copy(),
        "china": china[:301, :400],
        "flower": flower[100:351, 100:402],
    }


PHOTOGRAPHS = photographs()


def encode(image, file_format="JPEG", mode="RGB", subsampling=None, **options):
    """An image file; PIL's subsamplings are 0, 1, 2 for 4:4:4, 4:2:2, 4:2:0.

    PIL writes no "4:4:0" and "4:1:1": such a file is one of the other two with its
    size and sampling factors exchanged, so that its blocks come in another order. Its
    picture is scrambled, but as much a JPEG as any.
    """
    h, w = image.shape[:2]
    if subsampling == "4:4:0":
        return _patched(encode(image, subsampling=1, **options), w, h, 0x12)
    if subsampling == "4:1:1":
        data = encode(image[: h // 2 * 2], subsampling=2, **options)
        return _patched(data, h // 2, 2 * w, 0x41)
    if subsampling is not None:
        options["subsampling"] = subsampling
    data = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(data, file_format, **options)
    return data.getvalue()


def _patched(data, h, w, factors):
    """A JPEG with another size and other sampling factors in its frame header."""
    data, at = bytearray(data), 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    data[at + 5 : at + 9] = h.to_bytes(2, "big") + w.to_bytes(2, "big")
    data[at + 11] = factors
    return bytes(data)


def pil(data, mode="RGB"):
    """PIL's picture of a file."""
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert(mode))


def run(spec, image, **features):
    """The feature "image" after a spec."""
    return ops.get_preprocess_fn(spec)({"image": image} | features)["image"].numpy()


def seeds(n):
    """Seeds of n examples, int32 [n, 2]."""
    rng = np.random.default_rng(7)
    return rng.integers(-(2**31), 2**31, (n, 2)).astype(np.int32)


def bilinear(image, rows, columns, fill=0):
    """The image at positions between pixels, `fill` outside: float64 [h, w, c]."""
    channels = [
        scipy.ndimage.map_coordinates(
            channel, [rows, columns], order=1, mode="grid-constant", cval=fill
        )
        for channel in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    return np.stack(channels, axis=-1)
