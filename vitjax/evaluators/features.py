"""Compute a model's features of whole data sets, for probes fitted on the host.

Shapes: n examples, f features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from input_pipeline import device_ops
from vitjax.devices.sharding import replicated
from vitjax.evaluators.classification import MakeData
from vitjax.step import check_scaled


def _feature(rows: Mapping[str, Array], key: str) -> Array:
    """Return a feature; ValueError if pp_fn and device_pp do not give it."""
    if key not in rows:
        raise ValueError(
            f"pp_fn and device_pp give {', '.join(sorted(rows))}, but a probe needs "
            f"{key!r}: end pp_fn with keep('image', 'label')"
        )
    return rows[key]


def take(out: Mapping[str, Any], feature: str) -> Float[Array, "b f"]:
    """Return one of a model's intermediates; ValueError unless it is (b, f)."""
    found = out.get(feature)
    if isinstance(found, jax.Array) and found.ndim == 2:
        return found
    known = [k for k, x in out.items() if isinstance(x, jax.Array) and x.ndim == 2]
    got = "no output" if found is None else "no single vector per image in"
    raise ValueError(
        f"feature: the model has {got} {feature!r}, only {', '.join(sorted(known))}"
    )


def standardiser(
    x: Float[np.ndarray, "n f"],
) -> Callable[[Float[np.ndarray, "m f"]], Float[np.ndarray, "m f"]]:
    """Return the map that gives each feature of `x` mean 0 and deviation 1, in float64."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-5
    return lambda rows: (rows - mean) / std


class Features:
    """The values of one of the model's intermediates, (b, f), with the classes."""

    def __init__(
        self,
        predict: Callable[[Any, Array], tuple[Array, Any]],
        make_data: MakeData,
        mesh: Mesh,
        *,
        batch_size: int,
        pp_fn: str,
        device_pp: str,
        feature: str,
        label_key: str | None,
    ):
        """Take the arguments of `Classification`; `feature` names the intermediate.

        The classes are those of `label_key`, as numbers or one-hot. None means "label",
        the data's own numbers, if pp_fn keeps it, and else "labels": a one-hot of the
        model's classes in device_pp would lose the data's further classes.
        """
        preprocess = device_ops.get_preprocess_fn(device_pp)

        def features(state: Any, batch: Mapping[str, Array]) -> tuple[Array, ...]:
            given = {k: v for k, v in batch.items() if k != "_mask"}
            rows = preprocess(given)
            image = _feature(rows, "image")
            check_scaled(image, "pp_fn or device_pp")
            _, out = predict(state, image)
            vectors = take(out, feature)
            if label_key is None and "label" in given:
                labels = given["label"]
            else:
                labels = _feature(rows, label_key or "labels")
            if labels.ndim == 1:
                return vectors, labels, batch["_mask"]
            seen = batch["_mask"] * (labels.max(axis=1) > 0)
            return vectors, labels.argmax(axis=1), seen

        self._features = jax.jit(features, out_shardings=replicated(mesh))
        self._make = lambda data: make_data(
            data=data, pp_fn=pp_fn, batch_size=batch_size
        )

    def open(self, *sections: Mapping[str, Any]) -> list[tuple[Any, int]]:
        """Return (batches, steps) of each data section; nothing is read yet.

        The classes may differ from the model's. Labels of all sections are matched by
        name to those of the first section.
        """
        made, names = [], None
        for section in sections:
            given = {"match_classes": names} if "match_classes" not in section else {}
            made.append(self._make({**section, **given}))
            names = getattr(made[0][0], "class_names", None)
        return made

    def of(
        self, state: Any, batches: Any
    ) -> tuple[Float[np.ndarray, "n f"], Int[np.ndarray, " n"]]:
        """Return the features and classes of all labelled examples in such batches."""
        x, y, _ = self.indexed(state, batches)
        return x, y

    def indexed(
        self, state: Any, batches: Any
    ) -> tuple[Float[np.ndarray, "n f"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return features, classes and indices in the data set, as `of` does."""
        rows = [jax.device_get(self._features(state, batch)) for batch in batches]
        x, y, mask = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        index = np.flatnonzero(mask > 0)
        return x[index], y[index], index


Labelled = tuple[np.ndarray, np.ndarray]  # features (n, f) and classes (n,)


class Probe:
    """The base class of evaluators that fit on `fit_data` and score on `data`."""

    def __init__(
        self,
        predict: Callable[[Any, Array], tuple[Array, Any]],
        make_data: MakeData,
        mesh: Mesh,
        *,
        data: Mapping[str, Any],
        fit_data: Mapping[str, Any],
        batch_size: int,
        pp_fn: str = "",
        device_pp: str = "",
        feature: str = "pre_logits",
        label_key: str | None = None,
    ):
        """Open the data and define the jitted function; nothing runs yet.

        Args:
          predict, make_data, mesh, batch_size, pp_fn, device_pp: see `Classification`;
            they apply to both data sets.
          data: keyword arguments of the source whose examples are scored.
          fit_data: keyword arguments of the source to fit on; it may be `data`.
          feature: name of one of the model's intermediates, (b, f).
          label_key: see `Features`.
        """
        self._features = Features(
            predict,
            make_data,
            mesh,
            batch_size=batch_size,
            pp_fn=pp_fn,
            device_pp=device_pp,
            feature=feature,
            label_key=label_key,
        )
        sections = [data] if fit_data is data else [fit_data, data]
        opened = self._features.open(*sections)
        self._batches = [batches for batches, _ in opened]
        self.steps = sum(steps for _, steps in opened)

    def fit_and_test(self, state: Any) -> tuple[Labelled, Labelled]:
        """Return `Features.of` both data sets, computed once if they are one."""
        found = [self._features.of(state, batches) for batches in self._batches]
        return found[0], found[-1]
