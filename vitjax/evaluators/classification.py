"""Compute top-1, top-5 and loss over a data set, with each example exactly once.

Shapes: b rows of a global batch, h w c image, k classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from input_pipeline import device_ops
from vitjax.devices.sharding import replicated
from vitjax.step import check_scaled
from vitjax.step.losses import find_loss

MakeData = Callable[..., tuple[Iterable[Mapping[str, Array]], int]]


class Classification:
    """The evaluator of a classifier; labels may be multi-hot, as ReaL's are.

    A row counts if its `_mask` is 1 and it has a label. It is a hit at 1 if the class
    of its largest logit is one of its labels, and at 5 if that holds for one of the
    five largest. Hits at 5 are counted for more than five classes only: with fewer,
    every row is one.
    """

    def __init__(
        self,
        predict: Callable[[Any, Array], tuple[Array, Any]],
        make_data: MakeData,
        mesh: Mesh,
        *,
        data: Mapping[str, Any],
        batch_size: int,
        pp_fn: str = "",
        device_pp: str = "",
        loss_name: str = "sigmoid_xent",
        label_key: str = "labels",
    ):
        """Open the data and define the jitted functions; nothing runs yet.

        Args:
          predict: predict(state, image) -> (logits, out).
          make_data: make_data(data=, pp_fn=, batch_size=) -> (global batches, steps).
          mesh: batches are split over all its axes.
          data: keyword arguments of a source of `input_pipeline.sources`.
          batch_size: global batch size, a multiple of the number of devices.
          pp_fn: host ops. device_pp: ops on the devices.
          loss_name: see `vitjax.step.losses.find_loss`.
          label_key: the feature with labels (b k), one-hot or multi-hot.
        """
        loss_of = find_loss(loss_name)
        preprocess = device_ops.get_preprocess_fn(device_pp)

        def outputs(state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            mask: Float[Array, " b"] = batch["_mask"]
            features = preprocess({k: v for k, v in batch.items() if k != "_mask"})
            for key in ("image", label_key):
                if key not in features:
                    raise ValueError(
                        f"the evaluator needs the feature {key!r}, but its pp_fn and "
                        f"device_pp give {', '.join(sorted(features))}"
                    )
            check_scaled(features["image"], "pp_fn or device_pp")
            labels: Float[Array, "b k"] = features[label_key]
            logits, _ = predict(state, features["image"])
            seen = mask * (labels.max(axis=1) > 0) > 0
            image = features["image"]
            return {"logits": logits, "labels": labels, "seen": seen, "image": image}

        def rows(state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            out = outputs(state, batch)
            logits, labels, seen = out["logits"], out["labels"], out["seen"]
            top = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
            hit = jnp.take_along_axis(labels, top, axis=1) > 0
            loss = loss_of(logits=logits, labels=labels, reduction=False)
            one = lambda x: jnp.where(seen, x, 0).astype(jnp.int32)
            at_5 = {"prec@5": one(hit.any(axis=1))} if logits.shape[-1] > 5 else {}
            return {
                "prec@1": one(hit[:, 0]),
                **at_5,
                # where, not times: the loss of a padded row may not be finite.
                "loss": jnp.where(seen, loss, 0.0),
                "seen": one(jnp.ones_like(seen)),
            }

        def sums(state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            return jax.tree.map(jnp.sum, rows(state, batch))

        self._outputs = jax.jit(outputs, out_shardings=replicated(mesh))
        self._rows = jax.jit(rows, out_shardings=replicated(mesh))
        self._sums = jax.jit(sums, out_shardings=replicated(mesh))
        self._batches, self.steps = make_data(
            data=data, pp_fn=pp_fn, batch_size=batch_size
        )

    def run(self, state: Any) -> Iterator[tuple[str, float]]:
        """Yield ("prec@1", x), ("prec@5", x) and ("loss", x), means over the examples.

        There is no prec@5 for five classes or fewer.

        Raises ValueError if no example has a label.
        """
        # Sums stay on the device until the end, so that no batch waits for the host.
        # Few batches are in flight, since each of them holds its images.
        parts = []
        for batch in self._batches:
            parts.append(self._sums(state, batch))
            jax.block_until_ready(parts[max(0, len(parts) - 3)])
        fetched = jax.device_get(parts)
        totals = {
            name: sum(part[name].item() for part in fetched)
            for name in ("prec@1", "prec@5", "loss", "seen")
            if name in fetched[0]
        }
        seen = totals.pop("seen")
        if not seen:
            raise ValueError("the evaluation set has no example with a label")
        for name, total in totals.items():
            yield name, total / seen

    def examples(self, state: Any) -> Iterator[dict[str, np.ndarray]]:
        """Yield the summands of `run` for each batch, as arrays (b,).

        "prec@1" and "prec@5" are 1 for a hit (the latter if `run` yields it), "loss" is the row's loss, and "seen" is 1
        for a row that counts. All are 0 for a row that does not count.
        """
        for batch in self._batches:
            yield jax.device_get(self._rows(state, batch))

    def outputs(self, state: Any) -> Iterator[dict[str, np.ndarray]]:
        """Yield "logits" and "labels" (b k) of the rows that count, for each batch.

        "index" (b) is the example's index in the data set.
        """
        start = 0
        for batch in self._batches:
            out = self._outputs(state, batch)
            seen, logits, labels = jax.device_get(
                (out["seen"], out["logits"], out["labels"])
            )
            yield {
                "logits": logits[seen],
                "labels": labels[seen],
                "index": start + np.flatnonzero(seen),
            }
            start += len(seen)

    def samples(self, state: Any, count: int) -> dict[str, np.ndarray]:
        """Return "image" (b h w c), "logits" and "labels" of the first rows that count.

        Images are the model's input. All rows are from the first batch.
        """
        out = jax.device_get(self._outputs(state, next(iter(self._batches))))
        seen = out.pop("seen")
        return {name: x[seen][:count] for name, x in out.items()}
