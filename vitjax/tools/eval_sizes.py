"""Change an evaluation's resolution, crop ratio or resize method."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline import spec
from vitjax.files import write_picture

RESIZES = ("resize", "resize_small", "resize_long")


class Size(NamedTuple):
    """The size of an evaluation's images; None keeps the value of the run's pp_fn."""

    resolution: int | None  # pixels per side of the model's input
    crop_ratio: float | None  # resolution / smaller side after resizing
    method: str | None  # a method of tf.image.resize

    def __str__(self) -> str:
        return ",".join(str(x) for x in self if x is not None)


def sizes(
    resolutions: Sequence[int], crop_ratios: Sequence[float], methods: Sequence[str]
) -> list[Size]:
    """Return every combination; an empty list counts as [None].

    Raises ValueError for an impossible resolution or ratio.
    """
    for resolution in resolutions:
        if resolution < 1:
            raise ValueError(f"--resolution must be at least 1, got {resolution}")
    for ratio in crop_ratios:
        if not 0 < ratio <= 1:
            raise ValueError(f"--crop_ratio must be above 0 and at most 1, got {ratio}")
    lists: list[Sequence[Any]] = [resolutions, crop_ratios, methods]
    return [Size(*row) for row in itertools.product(*(x or [None] for x in lists))]


def resized(pp_fn: str, size: Size) -> str:
    """Replace the resize and central crop of an op string.

    The new ops are resize_small(resolution / crop_ratio) and central_crop(resolution).
    Fields of `size` that are None, and antialiasing, keep their old values. Raises
    ValueError if there is neither a resize nor a central crop, or no known resolution.
    """
    if size == Size(None, None, None):
        return pp_fn
    calls = spec.parse(pp_fn)
    at = [i for i, c in enumerate(calls) if c.name in (*RESIZES, "central_crop")]
    if not at:
        raise ValueError(
            f"{pp_fn!r} resizes nothing: another size needs a resize or a central_crop "
            "in pp_fn, as in 'decode|resize_small(256)|central_crop(224)'"
        )
    crop = small = None
    kept: dict[str, Any] = {}
    for call in (calls[i] for i in at):
        value = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
        if call.name == "central_crop":
            crop = value
            continue
        names = ("method", "antialias")
        kept = dict(zip(names, call.args[1:], strict=False))
        kept |= {k: v for k, v in call.kwargs.items() if k in names}
        small = value
    old = crop if crop is not None else small
    old = old if isinstance(old, int) else min(old) if old else None
    resolution = size.resolution or old
    if resolution is None:
        raise ValueError(f"{pp_fn!r} has no size: give --resolution")
    ratio = size.crop_ratio
    if ratio is None:
        ratio = old / small if isinstance(small, int) and old else 1.0
    if size.method is not None:
        kept["method"] = size.method
    elif calls[at[0]].name == "resize" and "method" not in kept:
        kept["method"] = "bilinear"  # resize and resize_small have other defaults
    options = "".join(f", {k}={v!r}" for k, v in kept.items())
    new = [f"resize_small({round(resolution / ratio)}{options})"]
    new.append(f"central_crop({resolution})")
    before = [_text(c) for c in calls[: at[0]]]
    after = [_text(c) for i, c in enumerate(calls) if i > at[0] and i not in at]
    return "|".join([*before, *new, *after])


def draw(path: Path, results: Mapping[str, Any]) -> None:
    """Draw the top-1 of each row of a report, in order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.35 * len(results)), layout="constrained")
    axis = figure.subplots()
    shares = [result["prec@1"] for result in results.values()]
    bars = axis.barh(range(len(shares)), shares, color="tab:blue")
    axis.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    axis.set_yticks(range(len(shares)), list(results), fontsize=8)
    axis.invert_yaxis()
    margin = 0.1 * (max(shares) - min(shares)) + 0.01
    axis.set_xlim(max(0, min(shares) - 3 * margin), max(shares) + 2 * margin)
    axis.set(xlabel="prec@1", title="evaluator@resolution,crop ratio,method")
    write_picture(path, figure, dpi=110)


def _text(call: spec.OpCall) -> str:
    parts = [repr(a) for a in call.args]
    parts += [f"{k}={v!r}" for k, v in call.kwargs.items()]
    return f"{call.name}({', '.join(parts)})"
