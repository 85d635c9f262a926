"""One image made smaller: its pixels, its format, and what is left alone."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline.prepare import images
from input_pipeline.sources import image_files
from tests.helpers.photographs import PHOTOGRAPHS, encode
from tests.input_pipeline.prepare.conftest import resized

ODD = PHOTOGRAPHS["odd"]  # 331 x 223
SIZE = (round(331 * 100 / 223), 100)


def smaller(data, method="bicubic", short_side=100, quality=95, as_seen=False):
    return images.smaller(data, images.Settings(short_side, quality, method, as_seen))


def shown(data):
    """The pixels that the pipeline's decoder makes of a file."""
    if data[:2] == b"\xff\xd8":
        return tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_image(data, 3, expand_animations=False).numpy()


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_pixels_are_antialiased_ones(name, method):
    """PNG, which keeps them; PIL computes in fixed point and rounds between its axes."""
    photo = PHOTOGRAPHS[name]
    height, width = photo.shape[:2]
    what, data = smaller(encode(photo, "PNG"), method)
    assert what == images.RESIZED
    share = 100 / min(height, width)
    size = (round(width * share), round(height * share))
    assert opened(data).size == size
    assert min(size) == 100
    difference = shown(data) - resized(photo, size, method)
    assert np.abs(difference).max() < 1.6
    other = {"bicubic": "lanczos", "lanczos": "bicubic"}[method]
    assert np.abs(shown(data) - resized(photo, size, other)).max() > 2.5


@pytest.mark.parametrize("quality", [80, 95])
def test_a_jpeg_has_the_quality_and_420_and_no_more(quality):
    profile = Image.Exif()
    profile[0x010E] = "a long description"
    source = encode(ODD, icc_profile=b"x" * 500, exif=profile.tobytes(), dpi=(72, 72))
    _, data = smaller(source, quality=quality)
    photo = opened(data)
    flat = opened(encode(ODD, quality=quality))
    assert photo.quantization == flat.quantization
    assert [layer[1:3] for layer in photo.layer] == [(2, 2), (1, 1), (1, 1)]
    assert photo.info.keys() & {"exif", "icc_profile", "comment"} == set()
    error = shown(data) - resized(shown(source), SIZE)
    assert np.abs(error).mean() < {80: 6, 95: 3}[quality]


def test_grey_stays_grey():
    _, data = smaller(encode(ODD, mode="L"))
    assert opened(data).mode == "L"
    expected = resized(shown(encode(ODD, mode="L")), SIZE)
    assert np.abs(shown(data) - expected).mean() < 2


def test_cmyk_looks_as_the_decoder_shows_it():
    """PIL's own conversion of the same file, which is not used, is far from it."""
    source = encode(ODD, mode="CMYK")
    assert opened(source).mode == "CMYK"
    # Without Adobe's marker the decoder takes the inks the other way round.
    at = source.index(b"\xff\xee")
    plain = source[:at] + source[at + 16 :]
    for each in (source, plain):
        _, data = smaller(each)
        assert opened(data).mode == "RGB"
        assert np.abs(shown(data) - resized(shown(each), SIZE)).mean() < 3
    assert np.abs(shown(source).astype(int) - shown(plain)).mean() > 30


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_image_stays_turned_for_those_who_turn_it(kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    source = encode(ODD, kind, exif=exif.tobytes())
    _, data = smaller(source)
    for as_seen in (True, False):
        before, after = (
            shown(image_files.readable(x, as_seen=as_seen).numpy())
            for x in (source, data)
        )
        size = SIZE[::-1] if as_seen and turn >= 5 else SIZE
        assert after.shape == (*size[::-1], 3)
        assert np.abs(after - resized(before, size)).mean() < 4
    # An upright image needs no look at its header.
    assert (b"Exif" in data or b"eXIf" in data or b"EXIF" in data) == (turn > 1)


def test_a_png_with_exif_as_text():
    """As ImageMagick wrote it before PNG had a chunk for it."""
    from PIL.PngImagePlugin import PngInfo

    exif = Image.Exif()
    exif[0x0112] = 6
    text, content = PngInfo(), exif.tobytes()
    text.add_text(
        "Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n"
    )
    _, data = smaller(encode(ODD, "PNG", pnginfo=text))
    seen = image_files.readable(data, as_seen=True).numpy()
    assert shown(seen).shape == (SIZE[0], SIZE[1], 3)


def clear():
    """A photograph whose hidden half has other colours than its visible one."""
    alpha = np.zeros(ODD.shape[:2], np.uint8)
    alpha[:, 150:] = 255
    colours = np.where(alpha[..., None] > 0, ODD, np.uint8([255, 0, 0]))
    return np.dstack([colours, alpha])


@pytest.mark.parametrize("as_seen", [True, False])
def test_transparent_pixels_are_those_of_the_source_that_reads_them(as_seen):
    source = encode(clear(), "PNG", "RGBA")
    _, data = smaller(source, as_seen=as_seen)
    assert opened(data).mode == "RGBA"
    before, after = (
        shown(image_files.readable(x, as_seen=as_seen).numpy()) for x in (source, data)
    )
    # Alpha and colours are rounded, and clipped, before one is laid on white.
    inside = np.abs(after - resized(before, SIZE)).max(-1)
    assert inside.mean() < 0.6
    assert np.percentile(inside, 98) < 3
    _, other = smaller(source, as_seen=not as_seen)
    other = shown(image_files.readable(other, as_seen=as_seen).numpy())
    assert np.abs(other - resized(before, SIZE)).max() > 15


def palette(**options):
    out = io.BytesIO()
    Image.fromarray(ODD).quantize(64).save(out, "PNG", **options)
    return out.getvalue()


def wide():
    out = io.BytesIO()
    Image.fromarray(ODD[..., 0].astype(np.uint16) * 257).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("source", "bound"),
    [
        (palette(), 2),
        (encode(ODD, "PNG", "L"), 2),
        (encode(ODD, "PNG", "1"), 2),
        (encode(ODD, "PNG", "LA"), 2),
        (wide(), 2),
        (encode(ODD, "BMP"), 2),
        (encode(ODD, "WEBP", quality=95), 40),
    ],
    ids=["palette", "L", "1", "LA", "16-bit", "BMP", "WebP"],
)
def test_other_pixels_and_formats(source, bound):
    what, data = smaller(source)
    assert what == images.RESIZED
    assert opened(data).format == opened(source).format
    assert np.abs(shown(data) - resized(shown(source), SIZE)).max() < bound


def animated(kind):
    out = io.BytesIO()
    frames = [Image.fromarray(x) for x in (ODD, ODD[::-1])]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        encode(ODD, "GIF"),
        encode(ODD, "TIFF"),
        encode(ODD, "JPEG2000"),
        encode(ODD, "PPM"),
        encode(ODD, "PNG", "RGB", transparency=(1, 2, 3)),
        animated("WEBP"),
    ],
    ids=["GIF", "TIFF", "JPEG2000", "PPM", "one-colour", "animated-WebP"],
)
def test_what_is_not_written_stays(source):
    assert smaller(source) == (images.OTHER, source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_what_is_small_enough_stays(kind):
    source = encode(ODD, kind)
    assert smaller(source, short_side=223) == (images.SMALL, source)
    assert smaller(source, short_side=222)[0] != images.SMALL


@pytest.mark.parametrize(("kind", "written"), [("MPO", "JPEG"), ("PNG", "PNG")])
def test_of_several_pictures_the_first_is_shown(kind, written):
    source = animated(kind)
    what, data = smaller(source)
    assert (what, opened(data).format) == (images.RESIZED, written)
    assert np.abs(shown(data) - resized(ODD, SIZE)).mean() < 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "no image"),
        (b"\0" * 100, "no image"),
        (encode(ODD)[:-3000], "truncated"),
        (encode(ODD, "PNG")[:30_000], "."),
        (encode(ODD, mode="CMYK")[:-3000], "."),
    ],
)
def test_a_damaged_image_is_an_error(source, message):
    with pytest.raises(images.DamagedImage, match=message):
        smaller(source)
