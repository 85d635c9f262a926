"""A training step for a loop of one's own, with batches from anywhere."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from input_pipeline import spec
from vitjax import program as program_lib
from vitjax import step as step_lib
from vitjax import trees
from vitjax.config import experiment
from vitjax.devices.sharding import batch_sharding, make_mesh
from vitjax.library.classifier import Classifier
from vitjax.library.create import create_model, sections_of
from vitjax.tools.trained import Trained
from vitjax.weights import normalisation

# What a call leaves out; the other keys have the config's defaults.
DEFAULTS: dict[str, Any] = {
    "lr": 1e-3,
    "wd": 1e-4,
    "optax_name": "scale_by_adam",
    "grad_clip_norm": 1.0,
    "schedule": {"decay_type": "cosine", "warmup_percent": 0.1},
    "loss": "softmax_xent",
}
# The keys of a config that act on a step; the others belong to a run.
SETTINGS = experiment.OPTIMIZER_KEYS | {
    "seed",
    "init_head_bias",
    "loss",
    "label_smoothing",
    "class_weights",
    "mixup",
    "accum_freq",
    "ema",
    "loss_scale",
    "mesh",
    "sharding_strategy",
}
Batch = Mapping[str, np.ndarray]
Elements = Mapping[str, tuple[tuple[int, ...], np.dtype]]


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """The compiled functions of a training; `make_training` makes one.

    Batches are a mapping or a pair: images, uint8 (pixels) or float (the model's
    input), (b, y, x, channels); and labels, whole numbers (b,), or float rows (b,
    classes). Torch tensors on the CPU are read in place.
    """

    program: program_lib.Program
    config: dict[str, Any]  # plain values
    mesh: jax.sharding.Mesh
    elements: Elements  # shape and dtype of each feature of one example
    start: Any = None  # parameters to start from, by name; None: all are fresh

    def __repr__(self) -> str:
        """Return one line."""
        count = trees.count(self.program.shapes.params)
        what = f"{self.config['model_name']}, {count:,} parameters"
        classes, steps = self.config["num_classes"], self.config["total_steps"]
        return f"Training({what}, {classes} classes, {steps} steps)"

    def init(self) -> step_lib.TrainState:
        """Return the state before the first step, on the devices."""
        state = self.program.init()
        if self.start is None:
            return state

        def place(name: str, fresh: Any) -> Any:
            if name not in self.start:
                return fresh
            return jax.device_put(self.start[name].astype(fresh.dtype), fresh.sharding)

        params = trees.map_with_names(place, state.params)
        state = dataclasses.replace(state, params=params)
        if state.ema is None:
            return state
        copy = jax.jit(step_lib.copied, out_shardings=self.program.shardings.ema)
        return dataclasses.replace(state, ema=copy(params))

    def step(
        self, state: step_lib.TrainState, batch: Any
    ) -> tuple[step_lib.TrainState, dict[str, jax.Array]]:
        """Return (state, metrics) after one update; `state` itself is used up.

        The metrics are big_vision's: training_loss, l2_grads, l2_params, l2_updates.
        They are arrays on the device: reading one waits for the step. Raises ValueError
        for a batch unlike the first, whose number of examples is free, or a label that
        is no class.
        """
        features = _features(batch)
        _check_like(features, self.elements, self.config["num_classes"])
        sharding = batch_sharding(self.mesh)
        if self.mesh.size > 1 and self.mesh.devices.flat[0].platform == "cpu":
            # Threads of several steps would wait for each other in all-reduces.
            jax.block_until_ready(state.step)
        rows = {
            name: jax.make_array_from_process_local_data(sharding, x)
            for name, x in features.items()
        }
        return self.program.train_step(state, rows, self.program.key)

    def classifier(
        self,
        state: step_lib.TrainState,
        class_names: Sequence[str] | None = None,
        *,
        ema: bool = False,
    ) -> Classifier:
        """Return the classifier of a state, to predict, look at attention, and save.

        `ema` takes the averaged parameters. Raises ValueError for a training without
        them, or another number of names than classes.
        """
        classes = self.config["num_classes"]
        if ema and state.ema is None:
            raise ValueError(
                "the training has no averaged parameters: give make_training ema={...}, "
                "or leave out ema=True"
            )
        if class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"class_names must be {classes}, one for each class, got "
                f"{len(class_names)}"
            )
        params = jax.device_get(state.ema if ema else state.params)
        return Classifier(
            Trained(
                workdir=Path("."),
                name="the training",
                step=int(state.step),
                config=self.config,
                experiment=experiment.from_config(self.config),
                model=self.program.model,
                params=params,
                source="ema" if ema else "params",
                image_shape=self.program.image_shape,
                class_names=None if class_names is None else tuple(class_names),
            )
        )


def make_training(
    model: str | Mapping[str, Any] | nn.Module | Classifier,
    batch: Any,
    *,
    total_steps: int,
    num_classes: int | None = None,
    data_size: int | None = None,
    keep_head: bool = False,
    pp_fn: str = "",
    norm: str = "",
    **settings: Any,
) -> Training:
    """Make the compiled step that trains a model on batches like `batch`.

    Args:
      model: a name or a config as for `create_model`, a module that it made, or a
        `Classifier`, whose parameters are the start; its head starts fresh.
      batch: the first batch, for its shapes only; see `Training`.
      total_steps: the length of the schedule.
      num_classes: None means the model's.
      data_size: examples per epoch, for durations in epochs.
      keep_head: start from the `Classifier`'s head too, for the same classes.
      pp_fn: the host ops that `Classifier.predict` prepares images with; "" resizes
        them to those of the batch, after a central square crop if these are square.
      norm: normalisation of uint8 images: "half" (-1 to 1, the default), "imagenet" or
        "clip". A `Classifier` has its own.
      **settings: keys of a config that act on a step, those of SETTINGS: lr, wd,
        optax_name, schedule, mixup, loss, ema, accum_freq, mesh, ... The defaults are
        Adam at 1e-3 with decay 1e-4, a cosine after a tenth of warm-up, and gradients
        clipped to a norm of 1.

    Raises ValueError, with one sentence, for a wrong setting, or batch.
    """
    _check_settings(settings, total_steps, data_size)
    spec.parse(pp_fn)
    features = _features(batch)
    start, how = None, normalisation.named(norm or "half")
    if isinstance(model, Classifier):
        start = {
            name: leaf
            for name, leaf in trees.flatten_with_names(model.params)
            if keep_head or not name.startswith("head")
        }
        if not norm:
            how = normalisation.of_ops(*model.preprocessing) or how
        sections = sections_of(model.model)
    else:
        made = (
            model if isinstance(model, nn.Module) else create_model(model, num_classes)
        )
        sections = sections_of(made)
    classes = num_classes or sections["num_classes"]
    config = _config(features, sections, classes, how.op, pp_fn)
    config |= {**DEFAULTS, **settings, "total_steps": total_steps}
    e = experiment.from_config(config)
    if e.class_weights == "balanced":
        raise ValueError(
            "class_weights='balanced' needs the labels of all data, which batches do not "
            f"tell: give a list of {classes} numbers, one for each class"
        )
    mesh = make_mesh(e.mesh)
    elements = {k: (x.shape[1:], x.dtype) for k, x in features.items()}
    batch_size = len(features["image"]) * jax.process_count()
    program = program_lib.build(
        e,
        mesh,
        element_spec=elements,
        batch_size=batch_size,
        total_steps=total_steps,
        data_size=data_size or batch_size,
    )
    if start is not None:
        _check_start(start, program.shapes.params, keep_head)
    return Training(program, config, mesh, elements, start)


def _check_settings(
    settings: Mapping[str, Any], total_steps: int, data_size: int | None
) -> None:
    """Raise ValueError for a key or a length that does nothing, or cannot be used."""
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    for key in settings:
        if key in experiment.TOP_LEVEL - SETTINGS:
            raise ValueError(
                f"make_training does not use the config key {key!r}, which belongs to a "
                f"run: leave it out (known: {', '.join(sorted(SETTINGS))})"
            )
    epochs = [key for key in _keys(settings) if key.endswith("_epochs")]
    if epochs and data_size is None:
        raise ValueError(
            f"{epochs[0]} needs data_size, the number of examples per epoch"
        )


def _config(
    features: Batch, sections: dict[str, Any], classes: int, op: str, pp_fn: str
) -> dict[str, Any]:
    """Return the config of a training, whose evaluator says how images are prepared."""
    height, width, channels = features["image"].shape[1:]
    ops = [op] if features["image"].dtype == np.uint8 else []
    if "label" in features:
        ops.append(f"onehot({classes}, key='label', key_result='labels')")
    decode = "decode" if channels == 3 else f"decode({channels})"
    size = f"resize(({height}, {width}), antialias=True)"
    if height == width:  # images of this size stay as they are
        size = f"resize_small({height}, antialias=True)|central_crop({height})"
    val = {
        "type": "classification",
        "pp_fn": pp_fn or f"{decode}|{size}|keep('image', 'label')",
        "device_pp": f"{op}|keep('image')",
        "log_percent": 1.0,
    }
    return {
        **sections,
        "num_classes": classes,
        "input": {"data": {}, "batch_size": len(features["image"])},
        "device_pp": "|".join([*ops, "keep('image', 'labels')"]),
        "evals": {"val": val},
    }


def _keys(settings: Mapping[str, Any]) -> list[str]:
    """Return all keys of nested settings."""
    below = [_keys(x) for x in settings.values() if isinstance(x, Mapping)]
    return [*settings, *(key for keys in below for key in keys)]


def _features(batch: Any) -> dict[str, np.ndarray]:
    """Return "image" and "label" (whole numbers) or "labels" (rows) of a batch."""
    if isinstance(batch, Mapping):
        image = batch.get("image")
        labels = batch.get("labels", batch.get("label"))
    else:
        try:
            image, labels = batch
        except (TypeError, ValueError):
            image = labels = None
    if image is None or labels is None:
        raise ValueError(
            "a batch must be {'image': images, 'label': labels} or (images, labels), got "
            f"{sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__}"
        )
    image, labels = np.asarray(image), np.asarray(labels)
    if image.ndim != 4 or image.shape[-1] > 4:
        swapped = image.ndim == 4 and image.shape[1] <= 4
        cure = ": use images.permute(0, 2, 3, 1)" if swapped else ""
        raise ValueError(
            f"images must be (batch, height, width, channels), got {image.shape}{cure}"
        )
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        return {"image": image, "label": labels.astype(np.int32, copy=False)}
    return {"image": image, "labels": labels.astype(np.float32, copy=False)}


def _check_like(features: Batch, first: Elements, classes: int) -> None:
    """Raise ValueError unless a batch is like the first one, and its labels classes."""
    found = {k: (x.shape[1:], x.dtype) for k, x in features.items()}
    if found != first:
        raise ValueError(
            f"a batch must be like the first one, of {_told(first)} per example, got "
            f"{_told(found)}: prepare all batches alike"
        )
    labels = features.get("label")
    if labels is not None and labels.size:
        low, high = labels.min(), labels.max()
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must be 0 to {classes - 1}, the classes of the model, got "
                f"{low if low < 0 else high}"
            )


def _told(elements: Elements) -> str:
    return ", ".join(f"{k} {dtype} {shape}" for k, (shape, dtype) in elements.items())


def _check_start(start: Mapping[str, np.ndarray], shapes: Any, keep_head: bool) -> None:
    """Raise ValueError if a parameter does not fit; the head is free unless kept."""
    for name, leaf in trees.flatten_with_names(shapes):
        there = start.get(name)
        if there is None and name.startswith("head") and not keep_head:
            continue
        if there is None or there.shape != leaf.shape:
            raise ValueError(
                f"the classifier's {name} is {None if there is None else there.shape}, "
                f"but the model needs {leaf.shape}: give images of the classifier's size"
                + (", and its num_classes" if keep_head else "")
            )
