"""Convert image files of common formats to bytes that the decoders of the ops read.

Most files are plain JPEGs or PNGs. They are recognised by their first bytes, in graph,
and go to those decoders unchanged. Every other file is inspected in Python, where one
thread runs at a time, and if necessary rewritten as an uncompressed PNG: a file that
EXIF says is turned, one with transparent pixels, and whatever TensorFlow refuses or
misreads.
"""

import functools
import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

FORMATS = "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 and PPM"
# The formats that PIL may try: some of its others start programs.
_PIL_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PRECISE = "INTEGER_ACCURATE"  # the transform of decode(precise=True) in ops.image
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"
_RAW_EXIF = "Raw profile type exif"
ORIENTATION = 0x0112
_SMALL = 2**16  # bytes; up to here a search in graph is faster than Python
_HEAD = 36  # bytes that show which files are plain

# Patterns of the first bytes: (place, value, mask of the bits that count).
_Pattern = list[tuple[int, bytes, bytes]]


def _exactly(place: int, value: bytes) -> tuple[int, bytes, bytes]:
    return place, value, b"\xff" * len(value)


def _jpeg(start: bytes, tables: int) -> list[_Pattern]:
    """Match `start`, then at `tables` the tables or the frame: no EXIF follows them."""
    return [
        [_exactly(0, start), _exactly(tables, b"\xff\xdb")],
        [_exactly(0, start), (tables, b"\xff\xc0", b"\xff\xf0")],
    ]


def _webp(kind: bytes, *more: tuple[int, bytes, bytes]) -> _Pattern:
    return [_exactly(0, b"RIFF"), _exactly(8, b"WEBP" + kind), *more]


_BMP = [
    _exactly(0, b"BM"),
    _exactly(14, b"\x28\0\0\0"),
    _exactly(28, b"\x18\0" + bytes(4)),
]
_OPAQUE_WEBP = [_webp(b"VP8 "), _webp(b"VP8L", (24, b"\0", b"\x10"))]
# The flags of VP8X: 2 is an animation, 8 is EXIF, 16 is transparency.
_PLAIN = {
    True: [
        _BMP,
        *_OPAQUE_WEBP,
        _webp(b"VP8X", (20, b"\0", b"\x1a")),
        *_jpeg(b"\xff\xd8", 2),
        *_jpeg(b"\xff\xd8\xff\xe0\0\x10", 20),  # JFIF's segment
        *_jpeg(b"\xff\xd8\xff\xee\0\x0e", 18),  # Adobe's
    ],
    False: [
        _BMP,
        *_OPAQUE_WEBP,
        _webp(b"VP8X", (20, b"\0", b"\x12")),
        [_exactly(0, b"\xff\xd8\xff")],
        [_exactly(0, _PNG)],
        [_exactly(0, b"GIF8")],
    ],
}
_OPAQUE_PNG: _Pattern = [_exactly(0, _PNG), (25, b"\0", b"\x04")]  # 4: an alpha channel


def readable(data: tf.Tensor | bytes, *, as_seen: bool) -> tf.Tensor:
    """Return the bytes of an image file, or of a PNG in its place that `decode` reads.

    as_seen: the image is what a viewer shows: turned as EXIF says, with transparent
    pixels on white. Otherwise it is what the file stores. A JPEG, PNG or GIF then goes
    unchanged to TensorFlow, which neither turns images nor reads transparency; other
    formats lose their transparency. Either way an animation is its first picture, and
    values of 16 bits lose their lower 8, as TensorFlow reads PNG.

    A turned JPEG has the pixels of decode(precise=True), turned. A turned TIFF is
    always set upright, by PIL.

    Raises:
      InvalidArgumentError: no image, a damaged one, or one whose values have no fixed
        range; some damage is left for `decode` to find.
    """
    data = tf.convert_to_tensor(data)
    head = tf.io.decode_raw(data, tf.uint8, fixed_length=_HEAD)

    def other() -> tf.Tensor:
        if not as_seen:
            return _looked_at(data, as_seen)
        # The chunks that make a PNG special may follow its pixels.
        special = tf.strings.regex_full_match(data, rf"\C*(tRNS|eXIf|{_RAW_EXIF})\C*")
        return tf.cond(special, lambda: _looked_at(data, as_seen), lambda: data)

    def not_plain() -> tf.Tensor:
        png = _matches(head, [_OPAQUE_PNG]) & (tf.strings.length(data) < _SMALL)
        return tf.cond(png, other, lambda: _looked_at(data, as_seen))

    return tf.cond(_matches(head, _PLAIN[as_seen]), lambda: data, not_plain)


def _matches(head: tf.Tensor, patterns: list[_Pattern]) -> tf.Tensor:
    values, masks = np.zeros((2, len(patterns), _HEAD), np.uint8)
    for row, pattern in enumerate(patterns):
        for place, value, mask in pattern:
            values[row, place : place + len(value)] = np.frombuffer(value, np.uint8)
            masks[row, place : place + len(mask)] = np.frombuffer(mask, np.uint8)
    same = tf.equal(tf.bitwise.bitwise_and(head, masks), values)
    return tf.reduce_any(tf.reduce_all(same, axis=-1))


# A tf.function, so that errors are TensorFlow's outside of graphs too.
@tf.function(autograph=False)
def _looked_at(data: tf.Tensor, as_seen: bool) -> tf.Tensor:
    """Return `readable`'s bytes, made in Python; JPEG's pixels are TensorFlow's."""
    look = functools.partial(_look, as_seen=as_seen)
    found, turn, why = tf.numpy_function(look, [data], [tf.string, tf.int32, tf.string])
    # Not raised in Python, because TensorFlow would print the traceback.
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(why, ""), [why])]):
        turn = tf.identity(turn)

    def turned() -> tf.Tensor:
        pixels = tf.io.decode_jpeg(data, dct_method=PRECISE)
        return tf.numpy_function(_turned_png, [pixels, turn], tf.string)

    return tf.ensure_shape(tf.cond(turn > 1, turned, lambda: found), [])


def _look(data: bytes, as_seen: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (an image's bytes, the turn that a JPEG still needs, the error)."""
    found, turn, why = data, 1, b""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            turn = orientation(exif_of_jpeg(data)) if as_seen else 1
        elif data.startswith(_PNG):
            bare, special = bare_png(data)
            found = _png(_pixels(bare, as_seen)) if special else data
        else:
            found = _png(_pixels(data, as_seen))
    except ValueError as error:
        why = str(error).encode()
    # As objects: numpy would drop the zeros at the end of a string.
    return np.array(found, object), np.array(turn, np.int32), np.array(why, object)


def _turned_png(pixels: np.ndarray, orientation: Any) -> np.ndarray:
    return np.array(_png(_turned(pixels, int(orientation))), object)


# --------------------------------------------------------------------------- EXIF


def exif_of_jpeg(data: bytes) -> bytes:
    """Return the EXIF data before a JPEG's tables, which is its proper place."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            break
        if at + 2 + size > len(data):
            raise ValueError("it is a JPEG that is cut short")
        if marker == 0xE1 and data[at + 4 : at + 10] == _EXIF:
            return data[at + 4 : at + 2 + size]
        at += 2 + size
    return b""


def orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1, upright, if it is missing or damaged."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == ORIENTATION:
                code = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(order + code, exif, entry + 8)
                return value if value in _TURNS else 1
    except struct.error:
        pass
    return 1


_TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return _TURNS[orientation](pixels)


# ---------------------------------------------------------------------------- PNG


def bare_png(data: bytes) -> tuple[bytes, bool]:
    """Return a PNG without metadata, whose size PIL limits; and whether it is special.

    A special PNG has transparent pixels or is turned, which TensorFlow ignores.
    """
    kept, special, at = [_PNG], bool(data[25:26] > b"\x03"), len(_PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        # Before PNG had eXIf, ImageMagick wrote EXIF as text.
        turns = kind == b"eXIf" or data[at + 8 :].startswith(_RAW_EXIF.encode())
        if turns or kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at:end])
            special |= turns or kind == b"tRNS"
        at = end
    return b"".join(kept), special


def _png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels (h, w), (h, w, 1) or (h, w, 3) as an uncompressed PNG."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    filtered = np.zeros((height, 1 + rows.shape[1]), np.uint8)  # 0: no filter
    filtered[:, 1:] = rows
    colours = 0 if rows.shape[1] == width else 2  # grey or RGB
    head = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    body = zlib.compress(filtered.data, 0)
    return _PNG + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return b"".join(
        [struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)]
    )


# ---------------------------------------------------------------------------- PIL


def _pixels(data: bytes, as_seen: bool) -> np.ndarray:
    """Return PIL's pixels, uint8 (h, w) or (h, w, 3)."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as photo:
            if isinstance(photo, TiffImageFile):
                _check_tiff(photo.tag_v2)
            photo.load()  # metadata may follow the pixels
            key = photo.info.get("transparency")
            if photo.format == "PNG" and photo.mode == "L" and isinstance(key, int):
                # PIL scales pixels of 2 and 4 bits, but not the transparent value.
                photo.info["transparency"] = key * 255 // (2 ** data[24] - 1)
            pixels = _eight_bits(photo, as_seen)
            exif = photo.info.get("exif") or raw_exif(photo)
    except UnidentifiedImageError:
        raise ValueError(_unknown(data)) from None
    except ValueError:
        raise
    except Exception as error:  # PIL raises many types on damaged files
        raise ValueError(str(error) or type(error).__name__) from None
    return _turned(pixels, orientation(exif)) if as_seen else pixels


def raw_exif(photo: Any) -> bytes:
    """Return the EXIF data that a PNG has as text: name, length, hexadecimal lines."""
    try:
        return bytes.fromhex("".join(photo.info[_RAW_EXIF].split("\n")[3:]))
    except (KeyError, ValueError):
        return b""


def _check_tiff(tags: Mapping[int, Any]) -> None:
    """Raise ValueError for pixels that PIL cannot read, or reads as other values."""
    bits, numbers = tags.get(258, (1,)), tags.get(339, (1,))
    kinds = {2: "signed", 3: "float", 5: "complex", 6: "complex"}
    if kind := kinds.get(numbers[0]):
        raise ValueError(_no_white(kind))
    uncompressed, planar = tags.get(259, 1) == 1, tags.get(284, 1) == 2
    if planar and uncompressed and len(bits) > 1 and max(bits) > 8:
        raise ValueError(
            f"its channels of {max(bits)} bits are stored one after another, which is not "
            "read: convert it to 8 bits"
        )


def _no_white(kind: str) -> str:
    return (
        f"its pixels are {kind} numbers, which have no fixed white: convert it to 8 or "
        "16 bits"
    )


@functools.cache
def _formats() -> list[str]:
    """Return those _PIL_FORMATS that this Pillow knows; it refuses any other name."""
    Image.init()
    return [name for name in _PIL_FORMATS if name in Image.OPEN]


def _eight_bits(photo: Any, as_seen: bool) -> np.ndarray:
    mode, white_is_zero, bits = photo.mode, False, 16
    if mode == "I" and photo.format == "PPM":  # scaled to 16 bits by PIL
        return (np.asarray(photo) >> 8).astype(np.uint8)
    if mode in ("I", "F"):
        raise ValueError(_no_white("float" if mode == "F" else "32-bit or signed"))
    if mode.startswith("I;16"):
        if photo.format == "TIFF":
            bits, *_ = photo.tag_v2.get(258, (16,))
            white_is_zero = photo.tag_v2.get(262) == 0
        wide = np.asarray(photo)
        pixels = (wide >> (bits - 8)).astype(np.uint8)
        if as_seen and "transparency" in photo.info:
            pixels = np.where(wide == photo.info["transparency"], np.uint8(255), pixels)
        return 255 - pixels if white_is_zero else pixels
    # A BMP often has a fourth channel, which seldom means anything.
    if as_seen and photo.has_transparency_data and photo.format != "BMP":
        white = Image.new("RGBA", photo.size, "white")
        photo = Image.alpha_composite(white, photo.convert("RGBA"))
    return np.asarray(photo.convert("L" if mode in ("1", "L") else "RGB"))


def _unknown(data: bytes) -> str:
    """Return why PIL does not recognise a file."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if not data:
        return "it is empty"
    if brand in (b"avif", b"avis"):
        return "it is an AVIF image, damaged or not for this Pillow: 11.3 or newer reads it"
    if brand in (b"heic", b"heix", b"mif1", b"msf1"):
        return "it is an HEIC image, which is not read: convert it to JPEG"
    if data.startswith((b"II*\0", b"MM\0*")):
        return (
            "it is a TIFF that is damaged, or of other pixels than 1 to 4 channels of up "
            "to 16 bits: convert it to 8 bits"
        )
    if data.startswith((_PNG, b"GIF8", b"BM", b"RIFF")):
        return "it is damaged"
    return f"it is none of {FORMATS}".replace(" and ", " or ")
