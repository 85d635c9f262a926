"""Files of every odd kind: their pixels against PIL, and which bytes stay unchanged."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features

from input_pipeline import ops, pipeline, sources
from input_pipeline.sources import image_files
from input_pipeline.stream import damaged
from tests.helpers.odd_images import (
    PHOTO,
    encode,
    exif,
    faded,
    folder,
    good,
    refused,
    seen,
)

DECODE = ops.get_preprocess_fn("decode(precise=True)")


def pixels(data, as_seen=True):
    data = image_files.readable(data, as_seen=as_seen)
    return DECODE({"image": data})["image"].numpy()


def test_an_image_is_what_a_person_sees():
    for name, (data, expected) in good().items():
        found = pixels(data)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected), name


@pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF")
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif(orientation):
    data = encode(PHOTO, "AVIF", exif=exif(orientation))
    np.testing.assert_array_equal(pixels(data), seen(data))


def test_a_pillow_without_avif_reads_the_others(monkeypatch):
    Image.init()
    data = encode(faded(), "WEBP", lossless=True)
    expected = seen(data)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    image_files._formats.cache_clear()
    np.testing.assert_array_equal(pixels(data), expected)
    with pytest.raises(damaged.OpError, match=r"11\.3 or newer reads it"):
        pixels(b"\0\0\0\x18ftypavif" + bytes(99))
    image_files._formats.cache_clear()


@pytest.mark.parametrize(("largest", "shift"), [(65535, 8), (4095, 4)])
def test_a_grey_picture_of_16_bits_in_netpbms_format(largest, shift):
    values = np.linspace(0, largest, 48).astype(">u2").reshape(6, 8)
    data = b"P5 8 6 %d\n" % largest + values.tobytes()
    found = pixels(data)[..., 0].astype(int)
    assert np.abs(found - (values >> shift)).max() <= (0 if largest == 65535 else 1)


def test_a_refused_file_has_a_reason():
    files = refused()
    del files["1 x 20,000.png"]  # it can be decoded
    for name, (data, why) in files.items():
        with pytest.raises(damaged.OpError) as caught:
            pixels(data)
        reason = damaged.reason(caught.value)
        assert why in reason, name
        assert "\n" not in reason, name


def test_as_stored_keeps_the_bytes_that_tensorflow_reads():
    for data in (
        encode(PHOTO, "JPEG", exif=exif(6)),
        encode(faded(), "PNG", exif=exif(6)),
        encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(9)]),
        encode(PHOTO, "WEBP", exif=exif(6)),
    ):
        assert image_files.readable(data, as_seen=False).numpy() == data
    # Hidden colours stay hidden colours, and 24 is not turned to 42.
    webp = encode(faded(), "WEBP", lossless=True, exact=True, exif=exif(6))
    np.testing.assert_array_equal(pixels(webp, as_seen=False), np.asarray(PHOTO))


def test_plain_files_are_never_looked_at_in_python(monkeypatch):
    monkeypatch.setattr(image_files, "_looked_at", None)
    plain = [
        encode(PHOTO, "JPEG"),
        encode(PHOTO.convert("L"), "JPEG", progressive=True),
        encode(PHOTO.convert("CMYK"), "JPEG"),
        encode(PHOTO, "PNG"),
        encode(PHOTO.convert("P"), "PNG"),
        encode(PHOTO, "WEBP"),
        encode(PHOTO, "WEBP", lossless=True),
        encode(PHOTO, "WEBP", icc_profile=bytes(400)),
        encode(PHOTO, "BMP"),
    ]
    for data in plain:
        assert image_files.readable(data, as_seen=True).numpy() == data
    with pytest.raises(TypeError):
        image_files.readable(encode(PHOTO, "JPEG", exif=exif(1)), as_seen=True)


def test_an_upright_photo_of_a_camera_keeps_its_bytes():
    data = encode(PHOTO, "JPEG", exif=exif(1), icc_profile=bytes(400))
    assert image_files.readable(data, as_seen=True).numpy() == data
    large = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    png = encode(Image.fromarray(large), "PNG")
    assert len(png) > 2**16
    assert image_files.readable(png, as_seen=True).numpy() == png


@pytest.fixture
def turned(tmp_path):
    files = {f"{i}.jpg": (encode(PHOTO, "JPEG", exif=exif(6)),) for i in range(2)}
    return folder(tmp_path, files)


def test_the_source_has_a_flag_and_a_buffer_holds_files(turned):
    data = encode(PHOTO, "JPEG", exif=exif(6))
    source = sources.open_source(**turned)
    [first, _] = source.sequential(0, 2)
    assert first["image"].numpy() == data
    zero = tf.constant(0, tf.int64)
    for image in (source.read(zero)["image"], source.finish(first)["image"]):
        np.testing.assert_array_equal(DECODE({"image": image})["image"], seen(data))
    stored = sources.open_source(**turned, as_seen=False)
    assert stored.read(zero)["image"].numpy() == data
    with pytest.raises(ValueError, match=r"as_seen of .* must be True or False, got 1"):
        sources.open_source(**turned, as_seen=1)


def test_training_through_a_buffer_turns_them_too(turned):
    pp = "decode(precise=True)|keep('image')"
    stream, _ = pipeline.make_train(
        data=turned, batch_size=1, seed=0, pp=f"{pp}|resize((60, 40))",
        shuffle_buffer_size=2,
    )  # fmt: skip
    expected = seen(encode(PHOTO, "JPEG", exif=exif(6)))
    np.testing.assert_array_equal(next(iter(stream))["image"][0], expected)
