"""Make one image file smaller, in the format and the colours that it has.

JPEG stays JPEG (4:2:0), PNG stays PNG, and so on, because a file's name or the data
set's metadata may tell its format. Pixels are those that the pipeline's decoders show.
An image that EXIF says is turned keeps its pixels and that one tag, so whoever turned it
before still does, and whoever ignored the tag still may. Profiles, thumbnails and other
metadata are dropped; the pipeline reads none of them.
"""

import dataclasses
import io
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from input_pipeline.sources import image_files

Filter = Literal["bicubic", "lanczos"]
FILTERS: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RESIZED, SMALL, OTHER = "resized", "small enough", "of another format"
"""The outcomes for an image. SMALL and OTHER are copied to the byte."""
DAMAGED = "damaged"
_WRITTEN = ("JPEG", "PNG", "WEBP", "BMP")
_OPENED = (*_WRITTEN, "MPO", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ALPHA = ("LA", "RGBA")


class DamagedImage(ValueError):
    """An image cannot be read; the message says why."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are made smaller.

    Args:
      short_side: the shorter side, in pixels, of images whose shorter side is larger.
      quality: of JPEG and WebP.
      filter: of PIL, antialiased.
      as_seen: whether transparent pixels have no colour, as for a source with `as_seen`.
        Otherwise their hidden colour is resized as it is.
      subsampling: of JPEG's colours.
    """

    short_side: int
    quality: int
    filter: Filter
    as_seen: bool
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"


def smaller(data: bytes, settings: Settings) -> tuple[str, bytes]:
    """Return (RESIZED, SMALL or OTHER; the bytes of the file in place of `data`).

    OTHER are the formats GIF, TIFF, AVIF, JPEG 2000 and PPM, animated WebP, and PNG with
    one transparent colour. Of an animated PNG the first picture is kept, which is all
    that the pipeline shows.

    Raises DamagedImage for what is no image, or a damaged one. The pixels of an image
    that is not resized are not looked at.
    """
    try:
        return _smaller(data, settings)
    except UnidentifiedImageError:
        raise DamagedImage("it is no image that is known") from None
    except tf.errors.OpError as error:
        raise DamagedImage(error.message) from None
    except DamagedImage:
        raise
    except Exception as error:  # PIL raises many types on damaged files
        raise DamagedImage(str(error) or type(error).__name__) from None


def _smaller(data: bytes, settings: Settings) -> tuple[str, bytes]:
    plain = data
    if data.startswith(b"\x89PNG"):
        plain, _ = image_files.bare_png(data)
    with Image.open(io.BytesIO(plain), formats=_formats()) as photo:
        width, height = photo.size
        if min(width, height) <= settings.short_side:
            return SMALL, data
        kind: Any = "JPEG" if photo.format == "MPO" else photo.format
        if not _is_written(photo, kind):
            return OTHER, data
        photo.load()
        exif = _exif(photo, kind, data)
        picture = _picture(photo, kind, data)
    share = settings.short_side / min(width, height)
    size = (round(width * share), round(height * share))
    out = io.BytesIO()
    _resized(picture, size, settings).save(out, kind, **_options(kind, settings, exif))
    return RESIZED, out.getvalue()


def _formats() -> list[str]:
    """Return those formats that this Pillow knows; it refuses any other name."""
    Image.init()
    return [name for name in _OPENED if name in Image.OPEN]


def _is_written(photo: Any, kind: str) -> bool:
    if kind not in _WRITTEN:
        return False
    if kind == "WEBP":
        return not photo.is_animated
    if kind != "PNG":
        return True
    one_colour = "transparency" in photo.info and photo.mode != "P"
    return photo.mode in _PNG_MODES and not one_colour


def _exif(photo: Any, kind: str, data: bytes) -> bytes:
    """Return EXIF data with the orientation alone; none if the image is upright."""
    if kind == "JPEG":
        found = image_files.exif_of_jpeg(data)
    else:
        found = photo.info.get("exif") or image_files.raw_exif(photo)
    turn = image_files.orientation(found)
    if turn == 1:
        return b""
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = turn
    return exif.tobytes()


def _picture(photo: Any, kind: str, data: bytes) -> Any:
    """Return the photo in one of the modes L, LA, RGB and RGBA."""
    if photo.mode == "CMYK":  # programs do not agree on its inks
        pixels: Any = tf.io.decode_jpeg(
            data, channels=3, dct_method=image_files.PRECISE
        )
        return Image.fromarray(pixels.numpy())
    if photo.mode == "I;16":
        return Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.mode == "1":
        return photo.convert("L")
    if photo.mode == "L" or (photo.mode in _ALPHA and kind != "BMP"):
        return photo
    clear = photo.mode == "P" and "transparency" in photo.info
    return photo.convert("RGBA" if clear else "RGB")


def _resized(picture: Any, size: tuple[int, int], settings: Settings) -> Any:
    resample = FILTERS[settings.filter]
    if settings.as_seen or picture.mode not in _ALPHA:
        return picture.resize(size, resample)  # PIL weights colours by their alpha
    bands = [band.resize(size, resample) for band in picture.split()]
    return Image.merge(picture.mode, bands)


def _options(kind: str, settings: Settings, exif: bytes) -> dict[str, Any]:
    options: dict[str, Any] = {"exif": exif} if exif and kind != "BMP" else {}
    if kind in ("JPEG", "WEBP"):
        options["quality"] = settings.quality
    if kind == "JPEG":
        options["subsampling"] = settings.subsampling
    return options
