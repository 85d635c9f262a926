"""Read and preprocess photos exactly as an evaluation of the run does."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from input_pipeline import device_ops, ops, pipeline, sources, spec
from input_pipeline.sources import folder_layouts, image_files
from input_pipeline.stream import damaged

LUMA = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R BT.601, as in PIL


def find(paths: Iterable[str | Path]) -> list[Path]:
    """List the photos in paths, each once: files, and all images below folders.

    Raises ValueError for a folder without images.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        below = [path]
        if path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if _is_image(p, path)]
            if not below:
                raise ValueError(
                    f"the folder {str(path)!r} has no images "
                    f"({', '.join(folder_layouts.SUFFIXES)}): give another"
                )
        found |= dict.fromkeys(below)
    return list(found)


def _is_image(path: Path, folder: Path) -> bool:
    junk = any(map(folder_layouts.is_junk, path.relative_to(folder).parts))
    return folder_layouts.is_image(path.name) and path.is_file() and not junk


class Feed:
    """Preprocess photos with an evaluator's pp_fn and device_pp.

    Files are read with the `as_seen` of the evaluator's data set, by default True: EXIF
    and transparency are applied. If the data set holds arrays, pp_fn has no decode op.
    The photo's central square then first gets the size and the channels of the data
    set's images.
    """

    def __init__(self, section: Mapping[str, Any]):
        """Prepare the ops of `section`, the evaluator's section of a config.

        Raises ValueError for wrong ops, or if the data set's image size is needed but
        the data set is missing.
        """
        pipeline.hide_accelerators()
        pp_fn = section.get("pp_fn", "")
        self._on_host = ops.get_preprocess_fn(pp_fn)
        self._on_device = device_ops.get_preprocess_fn(section.get("device_pp", ""))
        self._as_seen = section.get("data", {}).get("as_seen", True)
        calls = spec.parse(pp_fn)
        self._to_decode = any(call.name in ops.DECODERS for call in calls)
        own = [call.source for call in calls if call.name == "decode"]
        self._decode = ops.get_preprocess_fn(own[0] if own else "decode")
        if not self._to_decode:
            height, width, self._channels = _image_shape(section)
            square = f"central_crop|resize(({height}, {width}), antialias=True)"
            self._to_square = ops.get_preprocess_fn(square)

    def read(self, path: str | Path) -> dict[str, np.ndarray]:
        """Return one example as it leaves the host.

        Raises ValueError if the file is not an image, or if pp_fn fails on it.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
        return self.of_bytes(content, path)

    def of_bytes(self, content: bytes, path: str | Path) -> dict[str, np.ndarray]:
        """Return the example of an image file's content; `path` is for messages."""
        try:
            data: Any = image_files.readable(content, as_seen=self._as_seen).numpy()
            pixels = self._pixels(data)
        except damaged.OpError as error:
            raise ValueError(
                f"{str(path)!r} is no image that can be decoded "
                f"({damaged.reason(error)}): expected {image_files.FORMATS}"
            ) from None
        image = data if self._to_decode else self._as_in_data_set(pixels)
        # The ops may also read a label and seeds.
        zero = np.zeros(2, np.int32)
        asked = {"label": np.int64(0), "seed": zero, "batch_seed": zero}
        try:
            fed = self._on_host({"image": image, **asked})
        except damaged.OpError as error:  # such as a crop larger than the photo
            height, width = pixels.shape[:2]
            raise ValueError(
                f"{str(path)!r}, of {height} x {width} pixels, cannot be prepared by the "
                f"evaluator's pp_fn ({damaged.reason(error)})"
            ) from None
        # As in the batches of an evaluation, bytes are dropped.
        arrays = {name: np.asarray(value) for name, value in fed.items()}
        return {name: x for name, x in arrays.items() if x.dtype != object}

    def batch(
        self, examples: Sequence[Mapping[str, np.ndarray]]
    ) -> Float[Array, "b y x ch"]:
        """Batch examples of `read` and apply device_pp; return the model's input."""
        stacked = {}
        for name in examples[0]:
            shapes = {x[name].shape for x in examples}
            if len(shapes) > 1:
                raise ValueError(
                    f"pp_fn of the evaluator gives {name!r} of several shapes, "
                    f"{sorted(shapes)}: end it with a crop or resize to one size, or "
                    "give one photo at a time"
                )
            stacked[name] = jnp.asarray(np.stack([x[name] for x in examples]))
        fed = self._on_device(stacked)
        if "image" not in fed:
            raise ValueError(
                "pp_fn and device_pp of the evaluator leave no 'image': name it in keep"
            )
        return jnp.asarray(fed["image"], jnp.float32)

    def _pixels(self, data: bytes) -> np.ndarray:
        return self._decode({"image": data})["image"].numpy()

    def _as_in_data_set(self, photo: np.ndarray) -> np.ndarray:
        """Fit the photo's middle to the size and channels of the data set's images."""
        small = self._to_square({"image": photo})["image"].numpy()
        if self._channels == 1:
            return np.rint(small @ np.array(LUMA))[..., None].astype(np.uint8)
        return small


def batches(
    section: Mapping[str, Any],
    paths: Sequence[Path],
    batch_size: int,
    broken: dict[Path, str],
) -> Iterator[tuple[list[Path], Float[Array, "b y x ch"]]]:
    """Yield (paths, images as fed) of readable photos, prepared by `Feed(section)`.

    An unreadable photo is added to `broken` and printed on stderr, with one sentence.
    All batches have the same size, so that a model is compiled once; the last is padded.
    """
    its = Feed(section)
    batch_size = min(batch_size, len(paths))
    held: list[tuple[Path, Any]] = []

    def flush() -> tuple[list[Path], Any]:
        filled = held + held[-1:] * (batch_size - len(held))
        images = its.batch([example for _, example in filled])
        done = [path for path, _ in held]
        held.clear()
        return done, images

    for path in tqdm(paths, unit="photo", disable=None if len(paths) > 1 else True):
        try:
            held.append((path, its.read(path)))
        except ValueError as error:
            broken[path] = str(error)
            tqdm.write(f"left out: {error}", file=sys.stderr)
        if len(held) == batch_size:
            yield flush()
    if held:
        yield flush()


def feed(path: str | Path, section: Mapping[str, Any]) -> Float[Array, "1 y x ch"]:
    """Return one photo as a batch of one; see `Feed`."""
    its = Feed(section)
    return its.batch([its.read(path)])


def _image_shape(section: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return height, width and channels of the images of an evaluator's data set."""
    try:
        batches, _ = pipeline.make_eval(
            data=section["data"], batch_size=1, pp_fn="keep('image')"
        )
    except sources.DataNotFound as error:
        raise ValueError(
            f"the evaluator needs the image size of its data set, but {error}; copy the "
            "data there, or give a pp_fn that resizes a photo, as in "
            "--config.evals.val.pp_fn='decode|central_crop|resize(32, antialias=True)'"
        ) from None
    _, height, width, channels = next(iter(batches))["image"].shape
    return height, width, channels
