"""The op string of an evaluation at other sizes."""

import pytest

from vitjax.tools.eval_sizes import Size, resized, sizes

FLAGSHIP = "decode|resize_small(256)|central_crop(224)|keep('image', 'label')"


@pytest.mark.parametrize(
    ("pp_fn", "size", "expected"),
    [
        (FLAGSHIP, Size(None, None, None), FLAGSHIP),
        (FLAGSHIP, Size(224, 0.875, None), "resize_small(256)|central_crop(224)"),
        (FLAGSHIP, Size(256, None, None), "resize_small(293)|central_crop(256)"),
        (FLAGSHIP, Size(None, 1.0, "bicubic"),
         "resize_small(224, method='bicubic')|central_crop(224)"),
        ("decode|resize_small(64, antialias=True, method='area')|central_crop(32)|x",
         Size(16, 1.0, "lanczos3"),
         "resize_small(16, antialias=True, method='lanczos3')|central_crop(16)"),
        ("decode|resize(32)", Size(None, 0.5, None),
         "resize_small(64, method='bilinear')|central_crop(32)"),
        ("decode|central_crop(28)", Size(14, None, None),
         "resize_small(14)|central_crop(14)"),
    ],
)  # fmt: skip
def test_resize_and_crop_are_replaced_in_place(pp_fn, size, expected):
    found = resized(pp_fn, size)
    assert expected in found
    if size != Size(None, None, None):
        ops = found.split("|")
        assert ops[0] == "decode()"
        assert len(ops) == 3 + pp_fn.count("keep(") + pp_fn.endswith("|x")


def test_every_combination():
    assert sizes((), (), ()) == [Size(None, None, None)]
    assert [str(s) for s in sizes((8, 16), (0.5, 1.0), ("area",))] == [
        "8,0.5,area", "8,1.0,area", "16,0.5,area", "16,1.0,area",
    ]  # fmt: skip


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(ValueError, match="resizes nothing"):
        resized("keep('image')", Size(8, None, None))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sizes((0,), (), ())
    with pytest.raises(ValueError, match=r"above 0 and at most 1, got 1\.5"):
        sizes((), (1.5,), ())
