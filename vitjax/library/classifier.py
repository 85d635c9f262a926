"""A trained model with its preprocessing and class names: `vitjax.load`."""

import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from vitjax import trees
from vitjax.tools.trained import Trained, open_trained

if TYPE_CHECKING:
    from flax import linen as nn

_NO_IMAGES = "there are no images: give one at least"


class Prediction(NamedTuple):
    """One guess of a classifier."""

    label: int
    name: str  # of the class; the label if names are unknown
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model, its parameters, how it wants its images, and the names of its classes.

    Methods take `images`: a path, a PIL image, a uint8 array (y, x, channels), a list
    or an array (n, y, x, channels) of these, or a float array (n, y, x, channels),
    which is the model's input already.
    """

    trained: Trained
    batch_size: int = 32  # images that go through the model at a time

    def __repr__(self) -> str:
        """Return one line; the parameters would be thousands."""
        e, count = self.trained.experiment, trees.count(self.params)
        what = f"{e.model_name}, {count:,} parameters, {e.num_classes} classes"
        return f"Classifier({self.trained.name}: {what})"

    @property
    def model(self) -> "nn.Module":
        """The linen module: `apply({"params": params}, images, train=False)`."""
        return self.trained.model

    @property
    def params(self) -> Any:
        """The parameters, a tree of numpy arrays under big_vision's names."""
        return self.trained.params

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run, as plain values; for a file, what is known of it."""
        return self.trained.config

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the logits; None if unknown."""
        return self.trained.names_in_words()

    @property
    def preprocessing(self) -> tuple[str, str]:
        """The ops (pp_fn, device_pp) that make the model's input, on host and device."""
        section = self.trained.evaluator()[1]
        return section.get("pp_fn") or "", section.get("device_pp") or ""

    def preprocess(self, images: Any) -> np.ndarray:
        """Return the model's input, float32 (n, y, x, channels).

        Raises ValueError for a file that is not an image, or another kind of value.
        """
        return np.concatenate(list(self._batches(images)))

    def logits(self, images: Any) -> np.ndarray:
        """Return the logits, float32 (n, classes)."""
        return self._applied(images, lambda logits, out: logits)

    def predict(self, images: Any, top: int = 5) -> list[list[Prediction]]:
        """Return the `top` most probable classes of each image, the first one first.

        All classes if there are fewer than `top`. Raises ValueError if it is below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        logits = self.logits(images).astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        names = self.class_names or tuple(map(str, range(logits.shape[1])))
        order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [
            [Prediction(int(i), names[i], float(row[i])) for i in best]
            for row, best in zip(shares, order, strict=True)
        ]

    def features(self, images: Any, layer: str = "pre_logits") -> np.ndarray:
        """Return one of the model's intermediates, (n, ...); (n, width) by default.

        Raises ValueError, which lists the names, if the model has no such `layer`.
        """

        def chosen(logits: Any, out: dict[str, Any]) -> Any:
            if not isinstance(out.get(layer), jax.Array):
                names = sorted(k for k, x in out.items() if isinstance(x, jax.Array))
                raise ValueError(
                    f"the model has no layer {layer!r}: expected one of {', '.join(names)}"
                )
            return out[layer]

        return self._applied(images, chosen)

    def attention(self, images: Any) -> np.ndarray:
        """Return how much each patch gives to the class, (n, rows, columns).

        It is attention rollout (arXiv:2005.00928) to the class token, or to the mean
        patch of a model without one. Raises ValueError if the model has no attention.
        """
        from vitjax.tools.attention_rollout import attention_maps

        rows = self.preprocess(images)
        return np.stack(
            [attention_maps(self.trained, row[None])["rollout"] for row in rows]
        )

    def save(self, path: str | Path, to: str = "safetensors") -> str:
        """Write the model to a new file, and return how it was checked.

        `to` is a format of `vitjax.tools.export`; "safetensors" keeps the config and
        the class names, so that `load` needs nothing else. Raises ValueError for another
        format, or a file that exists.
        """
        from vitjax.tools.export import export

        return export(self.trained, to, Path(path))

    def _applied(self, images: Any, choose: Any) -> np.ndarray:
        found = []
        for batch in self._batches(images):
            missing = self.batch_size - len(batch)
            # One size is one compilation; a single batch keeps its own.
            short = found and missing
            filled = (
                np.concatenate([batch, *[batch[-1:]] * missing]) if short else batch
            )
            logits, out = self.trained.apply(filled)
            found.append(np.asarray(choose(logits, out))[: len(batch)])
        return np.concatenate(found)

    def _batches(self, images: Any) -> Iterator[np.ndarray]:
        """Yield the model's input in batches of `batch_size` at most."""
        if isinstance(images, jax.Array | np.ndarray) and images.ndim == 4:
            if not len(images):
                raise ValueError(_NO_IMAGES)
            if np.issubdtype(images.dtype, np.floating):
                for i in range(0, len(images), self.batch_size):
                    yield np.asarray(images[i : i + self.batch_size], np.float32)
                return
            images = list(np.asarray(images))
        if not isinstance(images, Sequence) or isinstance(images, str):
            images = [images]
        if not images:
            raise ValueError(_NO_IMAGES)
        feed = self._feed
        for i in range(0, len(images), self.batch_size):
            rows = [
                _example(feed, x, i + j)
                for j, x in enumerate(images[i : i + self.batch_size])
            ]
            yield np.asarray(feed.batch(rows))

    @functools.cached_property
    def _feed(self) -> Any:
        from vitjax.tools.photos import Feed  # imports TensorFlow

        return Feed(self.trained.evaluator()[1])


def _example(feed: Any, image: Any, number: int) -> dict[str, np.ndarray]:
    """Return the example of one image, by way of a PNG file if it is in memory."""
    from PIL import Image

    if isinstance(image, str | Path):
        return feed.read(image)
    if isinstance(image, np.ndarray | jax.Array):
        pixels = np.asarray(image)
        if pixels.ndim == 3 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        if pixels.dtype != np.uint8 or not (
            pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
        ):
            raise ValueError(
                f"image {number} is an array {pixels.dtype} {pixels.shape}: expected uint8 "
                "(y, x, 3), (y, x, 1) or (y, x), or the model's input, float (n, y, x, "
                "channels)"
            )
        image = Image.fromarray(pixels)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"image {number} is a {type(image).__name__}: expected a path, a PIL image or "
            "a uint8 array (y, x, channels)"
        )
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=0)
    return feed.of_bytes(content.getvalue(), f"image {number}")


def load(
    path: str | Path,
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    ema: bool = False,
    norm: str = "",
) -> Classifier:
    """Open a run, a checkpoint or a file of weights.

    Args:
      path: a workdir (its newest checkpoint), WORKDIR/best, WORKDIR/checkpoints/STEP,
        or a file or folder of vitjax, big_vision, timm, torchvision, Hugging Face or
        mup-vit.
      config: "FILE[:ARG]", a config that says how a file's images are prepared.
      overrides: "KEY=VALUE" each, such as "evals.val.pp_fn=...".
      ema: take the averaged parameters of a run with `ema`.
      norm: "half", "imagenet" or "clip", the normalisation of images, for a file of
        weights that does not tell it.

    Raises ValueError, with one sentence, if there is nothing to open or it does not fit.
    """
    return Classifier(
        open_trained(path, config=config, overrides=overrides, ema=ema, norm=norm)
    )
