"""Image files of every odd kind, and what an independent decoder sees in them."""

import io
import struct
import zlib

import numpy as np
import skimage.data
import tifffile
from PIL import Image, ImageOps

PHOTO = Image.fromarray(skimage.data.chelsea()[20:60, 40:100])  # 40 x 60
ORIENTATION = 0x0112


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def exif(orientation, order="<"):
    told = Image.Exif()
    told.endian = order
    told[0x010F] = "a maker"
    told[ORIENTATION] = orientation
    return told


def faded(image=PHOTO):
    """The photo, vanishing to the right, its hidden colours still there."""
    ramp = np.linspace(255, 0, image.width).astype(np.uint8)
    photo = image.convert("RGBA")
    photo.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return photo


def chunk(kind, data):
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def with_chunk(png, new, before=b"IDAT"):
    """A PNG with one chunk more."""
    at = png.index(before) - 4
    return png[:at] + new + png[at:]


def with_segments(jpeg, *segments):
    """A JPEG with these APPn segments, (marker, data), right behind its JFIF segment."""
    put = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        for marker, data in segments
    )
    return jpeg[:20] + put + jpeg[20:]


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def deep(order="<"):
    """Grey of 16 bits, over the whole range."""
    grey = np.asarray(PHOTO.convert("L"), np.uint16)
    return (grey * 257 + np.arange(60, dtype=np.uint16)).astype(f"{order}u2")


def grey_png_of_4_bits(pixels, clear):
    """A PNG of values from 0 to 15 and an even width, one of which is transparent."""
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width // 2), np.uint8)
    rows[:, 1:] = pixels[:, ::2] << 4 | pixels[:, 1::2]
    head = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(">H", clear))]
    parts += [(b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def three(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def seen(data):
    """PIL's pixels, turned by PIL; transparency on white is ours, in floats."""
    with Image.open(io.BytesIO(data)) as file:
        photo = ImageOps.exif_transpose(file)
        if not photo.has_transparency_data:
            return np.asarray(photo.convert("RGB"))
        rgba = np.asarray(photo.convert("RGBA"), np.float64)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def good():
    """Name -> (bytes, pixels uint8 (h, w, 3) or None for PIL's)."""
    jpeg, png = encode(PHOTO, "JPEG", quality=92), encode(PHOTO, "PNG")
    palette = PHOTO.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = bytes([0, 90, 255])
    frames = {"save_all": True, "append_images": [PHOTO.rotate(9), PHOTO.rotate(40)]}
    far = with_segments(
        jpeg, (0xED, b"Photoshop 3.0\0" * 40), (0xE2, bytes(60_000)),
        (0xE1, exif(3, ">").tobytes()),
    )  # fmt: skip
    rgb = np.asarray(PHOTO)
    keyed = np.where(deep() == deep()[3, 4], 255, deep() >> 8).astype(np.uint8)
    clear_16 = with_chunk(
        encode(Image.fromarray(deep()), "PNG"),
        chunk(b"tRNS", struct.pack(">H", deep()[3, 4])),
    )
    nibbles = np.asarray(PHOTO.convert("L")) // 17
    # As ImageMagick writes it: a name, the length, hexadecimal digits.
    raw = exif(6).tobytes()
    as_text = zlib.compress(f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode())
    files = {
        f"orientation {i}.jpg": (encode(PHOTO, "JPEG", quality=92, exif=exif(i)), None)
        for i in range(1, 9)
    }
    files |= {
        "RGB.jpg": (jpeg, None),
        "grey, turned.jpg": (encode(PHOTO.convert("L"), "JPEG", exif=exif(8)), None),
        "EXIF far behind.jpg": (far, seen(jpeg)[::-1, ::-1]),
        "no such orientation.jpg": (encode(PHOTO, "JPEG", exif=exif(9)), None),
        "damaged EXIF.jpg": (
            with_segments(jpeg, (0xE1, b"Exif\0\0II*\0\xff\0\0\0")), seen(jpeg),
        ),
        "two pictures.jpg": (encode(PHOTO, "MPO", **frames), None),
        "2000 x 3.jpg": (encode(PHOTO.resize((3, 2000)), "JPEG", exif=exif(6)), None),
        "1 x 1.png": (encode(PHOTO.resize((1, 1)), "PNG"), None),
        "9000 x 9000.png": (
            encode(Image.new("1", (9000, 9000), 1), "PNG", exif=exif(3)),
            np.broadcast_to(np.uint8(255), (9000, 9000, 3)),
        ),
        "1 bit.png": (encode(PHOTO.convert("1"), "PNG"), None),
        "1 bit, clear.png": (encode(PHOTO.convert("1"), "PNG", transparency=0), None),
        "L.png": (encode(PHOTO.convert("L"), "PNG"), None),
        "L, clear.png": (encode(PHOTO.convert("L"), "PNG", transparency=90), None),
        "LA.png": (encode(faded().convert("LA"), "PNG"), None),
        "P.png": (encode(palette, "PNG"), None),
        "P, clear.png": (encode(clear, "PNG"), None),
        "RGB, clear.png": (
            encode(PHOTO, "PNG", transparency=tuple(map(int, rgb[2, 3]))), None,
        ),
        "RGBA.png": (encode(faded(), "PNG"), None),
        "16 bits.png": (
            encode(Image.fromarray(deep()), "PNG"), three((deep() >> 8).astype(np.uint8)),
        ),
        "16 bits, clear.png": (clear_16, three(keyed)),
        "4 bits, clear.png": (
            grey_png_of_4_bits(nibbles, clear=5),
            three(np.where(nibbles == 5, 255, nibbles * 17).astype(np.uint8)),
        ),
        "turned.png": (encode(PHOTO, "PNG", exif=exif(5)), None),
        "EXIF as text.png": (
            with_chunk(png, chunk(b"zTXt", b"Raw profile type exif\0\0" + as_text)),
            np.rot90(rgb, -1),
        ),
        "EXIF at the end.png": (
            with_chunk(png, chunk(b"eXIf", exif(7).tobytes()[6:]), b"IEND"), None,
        ),
        "3 MB of text.png": (
            with_chunk(png, chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3_000_000)))),
            rgb,
        ),
        "3 MB of text, RGBA.png": (
            with_chunk(
                encode(faded(), "PNG"),
                chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3_000_000))),
            ),
            seen(encode(faded(), "PNG")),
        ),
        "3 MB of profile.png": (
            with_chunk(
                png, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))), b"IDAT"
            ),
            rgb,
        ),
        "VP8.webp.jpg": (encode(PHOTO, "WEBP"), None),
        "VP8L.webp.jpg": (encode(PHOTO, "WEBP", lossless=True), None),
        "clear.webp.jpg": (encode(faded(), "WEBP", lossless=True), None),
        "animated.webp.jpg": (encode(PHOTO, "WEBP", lossless=True, **frames), None),
        "turned.webp.jpg": (encode(PHOTO, "WEBP", exif=exif(6)), None),
        "animated.gif.png": (encode(PHOTO, "GIF", **frames), None),
        "clear.gif.png": (encode(palette, "GIF", transparency=3), None),
        "24 bits.bmp.jpg": (encode(PHOTO, "BMP"), None),
        "palette.bmp.jpg": (encode(palette, "BMP"), None),
        "1 bit.bmp.jpg": (encode(PHOTO.convert("1"), "BMP"), None),
        "32 bits, all clear.bmp.jpg": (
            encode(Image.merge("RGBA", (*PHOTO.split(), Image.new("L", PHOTO.size))), "BMP"),
            rgb,
        ),
        "1 bit.tif.jpg": (encode(PHOTO.convert("1"), "TIFF"), None),
        "CMYK.tif.jpg": (encode(PHOTO.convert("CMYK"), "TIFF"), None),
        "clear.tif.jpg": (encode(faded(), "TIFF"), None),
        "turned.tif.jpg": (encode(PHOTO.copy(), "TIFF", exif=exif(6)), None),
        "pages.tif.jpg": (tiff(np.stack([rgb, 255 - rgb]), photometric="rgb"), rgb),
        "16 bits.tif.jpg": (tiff(deep()), three((deep() >> 8).astype(np.uint8))),
        "16 bits, big end first.tif.jpg": (
            tiff(deep(), byteorder=">"), three((deep() >> 8).astype(np.uint8)),
        ),
        "16 bits, white is 0.tif.jpg": (
            tiff(deep(), photometric="miniswhite"),
            three(255 - (deep() >> 8).astype(np.uint8)),
        ),
        "16 bits, RGB.tif.jpg": (
            tiff(three(deep()), photometric="rgb"), three((deep() >> 8).astype(np.uint8)),
        ),
        "RGB.ppm.jpg": (encode(PHOTO, "PPM"), None),
        "RGB.jp2.jpg": (encode(PHOTO, "JPEG2000"), None),
        "ä ü, 写真 .jpg": (jpeg, None),
    }  # fmt: skip
    return {
        name: (data, seen(data) if pixels is None else pixels)
        for name, (data, pixels) in files.items()
    }


def _flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def refused():
    """Name -> (bytes, a part of the reason)."""
    jpeg, float_tiff = encode(PHOTO, "JPEG"), encode(PHOTO.convert("F"), "TIFF")
    whole = {
        "cut, turned.jpg": encode(PHOTO, "JPEG", exif=exif(6)),
        "cut.jpg": jpeg,
        "cut.png": encode(PHOTO, "PNG"),
        "cut, RGBA.png": encode(faded(), "PNG"),
        "cut.webp.jpg": encode(PHOTO, "WEBP"),
        "cut.tif.jpg": encode(PHOTO, "TIFF"),
        "cut.gif.jpg": encode(PHOTO, "GIF"),
    }
    files = {name: (data[: len(data) * 2 // 3], "") for name, data in whole.items()}
    return files | {
        "zero bytes.jpg": (b"", "it is empty"),
        "a bit of its head.png": (_flipped(encode(faded(), "PNG"), 30), "it is damaged"),
        "text.jpg": (b"a text under a wrong name" * 9, "it is none of JPEG"),
        "Finder's.jpg": (b"\0\5\26\7\0\2\0\0Mac OS X" + bytes(99), "it is none of"),
        "Thumbs.png": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "it is none of"),
        "a program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is none of"),
        "iPhone.heic.jpg": (b"\0\0\0\x18ftypheic" + bytes(99), "convert it to JPEG"),
        "float.tif.jpg": (float_tiff, "pixels are float numbers"),
        "32 bits.tif.jpg": (encode(PHOTO.convert("I"), "TIFF"), "signed numbers"),
        "8 bits, signed.tif.jpg": (tiff(deep().view(np.int8)), "signed numbers"),
        # PIL would mix its pixels up.
        "planar.tif.jpg": (
            tiff(np.stack([deep()] * 3), photometric="rgb", planarconfig="separate"),
            "channels of 16 bits are stored one after another",
        ),
        "float64.tif.jpg": (tiff(deep() / 65535), "up to 16 bits"),
        "1 x 20,000.png": (
            encode(Image.new("L", (20_000, 1)), "PNG"), "1 x 20000 pixels would become 256 x 5120000",
        ),
    }  # fmt: skip


def folder(root, files):
    """The files as root/val/CLASS, half of them of each class; the split's data section."""
    for i, (name, (data, *_)) in enumerate(files.items()):
        path = root / "val" / "ab"[i % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {"kind": "folder", "data_dir": str(root), "split": "val"}
