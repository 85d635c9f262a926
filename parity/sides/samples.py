"""The pixels that are compared: photographs, calibration grids, odd JPEG files.

h height, w width; images are uint8 [h, w, 3].
"""

import functools
import io

import numpy as np
import PIL.Image
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_ _ 3"]

COLOURS = (192, 64, 64), (64, 192, 192)
BLACK_WHITE = (0, 0, 0), (255, 255, 255)


@functools.cache
def photographs() -> dict[str, Image]:
    """Return three photographs, 427 x 640 twice and 600 x 512; needs no network."""
    import matplotlib.cbook
    import sklearn.datasets

    china, flower = sklearn.datasets.load_sample_images().images
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    hopper = np.asarray(PIL.Image.open(str(path)).convert("RGB"))
    return {"china": china, "flower": flower, "hopper": hopper}


def grid(first: tuple[int, ...], second: tuple[int, ...], side: int = 224) -> Image:
    """Return 4 x 4 squares of two colours in turn, which make a change obvious."""
    number = np.arange(side) * 4 // side
    return np.array([first, second], np.uint8)[(number[:, None] + number) % 2]


def ramps() -> Image:
    """Return a ramp per channel, 160 x 256.

    Channel 0 takes all values from left to right, channel 1 the same reversed. Channel
    2 rises from 40 to 199 from top to bottom.
    """
    across = np.broadcast_to(np.arange(256), (160, 256))
    down = np.broadcast_to(np.arange(160)[:, None], (160, 256))
    return np.stack([across, 255 - across, 40 + down], axis=-1).astype(np.uint8)


@functools.cache
def augmented() -> dict[str, Image]:
    """Return the images for the single ops: parts of photographs, grids, ramps."""
    whole = photographs()
    return {
        "china": whole["china"][100:324, 200:424],
        "flower": whole["flower"][60:257, 200:401],
        "hopper": whole["hopper"][50:293:2, 100:301],
        "colour grid": grid(*COLOURS),
        "black and white grid": grid(*BLACK_WHITE),
        "ramps": ramps(),
    }


def coordinates(height: int, width: int) -> Image:
    """Return an image whose pixels hold (x, y, 1), for sides of up to 256."""
    y, x = np.indices((height, width))
    return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.uint8)


def zone_plate() -> Image:
    """Return rings that grow finer outwards, to a period of 2 pixels at the edges."""
    side = 448
    place = np.arange(side) - (side - 1) / 2
    radius2 = place[:, None] ** 2 + place**2
    rings = np.cos(np.pi * radius2 / side)
    return np.repeat(np.rint(127.5 + 127.5 * rings)[..., None], 3, -1).astype(np.uint8)


def encode(image: Image, mode: str = "RGB", **options: object) -> bytes:
    """Encode a JPEG file with PIL; subsampling 0, 1, 2 is 4:4:4, 4:2:2, 4:2:0."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _resampled(data: bytes, height: int, width: int, factors: int) -> bytes:
    """Replace the size and the sampling factors in a JPEG's frame header.

    PIL writes neither 4:4:0 nor 4:1:1. The blocks of the new file are in another order
    than the picture's. The picture is therefore scrambled, but the file is as good as
    any.
    """
    out, at = bytearray(data), 2
    while out[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(out[at + 2 : at + 4], "big")
    out[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    out[at + 11] = factors
    return bytes(out)


@functools.cache
def odd_jpegs() -> dict[str, bytes]:
    """Return JPEG files of all kinds in data sets, and of some that should not be."""
    whole = photographs()
    image, tall = whole["flower"][150:269, 250:407], whole["hopper"][80:251, 200:307]
    files = {}
    for name, subsampling in (("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)):
        for progressive in (False, True):
            title = f"{name} progressive" if progressive else name
            files[title] = encode(
                image, subsampling=subsampling, progressive=progressive
            )
    h, w, _ = image.shape
    files["4:4:0"] = _resampled(encode(image, subsampling=1), w, h, 0x12)
    even = image[: h // 2 * 2]
    files["4:1:1"] = _resampled(encode(even, subsampling=2), h // 2, 2 * w, 0x41)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, which no decoder here obeys
    files |= {
        "grey": encode(image, "L"),
        "grey progressive": encode(image, "L", progressive=True),
        "CMYK": encode(image, "CMYK"),
        "CMYK progressive": encode(tall, "CMYK", progressive=True),
        "stored as RGB": encode(image, keep_rgb=True, subsampling=0),
        "quality 1": encode(tall, quality=1),
        "quality 100": encode(tall, quality=100, subsampling=0),
        "optimised": encode(tall, optimize=True),
        "restart markers each 3 blocks": encode(tall, restart_marker_blocks=3),
        "restart markers each row": encode(image, restart_marker_rows=1),
        "to be turned (EXIF)": encode(tall, exif=exif),
        "tall": encode(tall),
        "bytes after the end": encode(tall) + b"\0more",
    }
    for height, width in ((1, 1), (1, 7), (9, 1), (2, 2), (8, 8), (15, 17), (33, 16)):
        part = image[:height, :width]
        files[f"{height} x {width}"] = encode(part)
        files[f"{height} x {width} grey"] = encode(part, "L")
    return files
