"""A photo on the way into a run's model: exactly as an evaluation of the run feeds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from input_pipeline import device_ops, ops, pipeline, sources, spec

LUMA = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601, as in PIL
DECODES = ("decode", "decode_jpeg_and_inception_crop")


def feed(path: str | Path, section: Mapping[str, Any]) -> Float[Array, "1 y x ch"]:
    """The photo as one image of a batch, through an evaluator's pp_fn and device_pp.

    Where pp_fn decodes nothing, since the data set holds arrays, the photo is brought to
    the size and the channels of the data set's images first: its middle square, resized.

    Raises ValueError for what is no image, for a data set that must be asked and is not
    there, and for ops that do not get what they need.
    """
    pipeline.hide_accelerators()
    pp_fn = section.get("pp_fn", "")
    data, photo = _read(Path(path))
    if not any(call.name in DECODES for call in spec.parse(pp_fn)):
        data = _as_in_data_set(photo, section)
    # What else the ops may ask for: a class, and a seed for chance.
    zero = np.zeros(2, np.int32)
    features = {"image": data, "label": np.int64(0), "seed": zero, "batch_seed": zero}
    on_host = ops.get_preprocess_fn(pp_fn)(features)
    # As the batches of an evaluation: bytes do not travel.
    arrays = {name: np.asarray(value) for name, value in on_host.items()}
    batch = {k: jnp.asarray(v[None]) for k, v in arrays.items() if v.dtype != object}
    fed = device_ops.get_preprocess_fn(section.get("device_pp", ""))(batch)
    if "image" not in fed:
        raise ValueError("pp_fn and device_pp of the evaluator leave no 'image'")
    return jnp.asarray(fed["image"], jnp.float32)


def _read(path: Path) -> tuple[bytes, np.ndarray]:
    """The file's bytes, and its pixels (y, x, 3)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    try:
        pixels = ops.get_preprocess_fn("decode")({"image": data})["image"].numpy()
    except Exception:  # TensorFlow's own, which only the input pipeline knows
        raise ValueError(
            f"{str(path)!r} is no image that can be decoded: expected JPEG, PNG, GIF, BMP "
            "or WebP"
        ) from None
    return data, pixels


def _as_in_data_set(photo: np.ndarray, section: Mapping[str, Any]) -> np.ndarray:
    """The photo's middle, of the size and the channels of the data set's images."""
    try:
        batches, _ = pipeline.make_eval(
            data=section["data"], batch_size=1, pp_fn="keep('image')"
        )
    except sources.DataNotFound as error:
        raise ValueError(
            f"the evaluator takes images as its data set has them, and {error}; copy it "
            "there, or give a pp_fn that makes them of a photo, as in "
            "--config.evals.val.pp_fn='decode|central_crop|resize(32, antialias=True)'"
        ) from None
    _, height, width, channels = next(iter(batches))["image"].shape
    square = f"central_crop|resize(({height}, {width}), antialias=True)"
    small = ops.get_preprocess_fn(square)({"image": photo})["image"].numpy()
    if channels == 1:
        return np.rint(small @ np.array(LUMA))[..., None].astype(np.uint8)
    return small
