"""The model of a finished or a running run, for tools that ask it something.

    trained = open_trained("runs/vit_s16_i1k")      # or .../checkpoints/STEP, .../best
    logits, out = trained.apply(image)              # float images, as the model gets them

Knows nothing of data: the tools bring it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from vitjax import config as config_lib
from vitjax import experiment as experiment_lib
from vitjax import program
from vitjax.checkpoint import locate, read_meta, read_params
from vitjax.lookup import lookup
from vitjax.trees import flatten_with_names


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A run's model, with the parameters of one of its checkpoints."""

    workdir: Path
    step: int
    config: dict[str, Any]  # the run's, in plain values, with the overrides
    experiment: experiment_lib.Experiment
    model: nn.Module
    params: Any  # numpy
    source: str  # of `params` in the checkpoint: "params", or "ema", their average
    image_shape: tuple[int, ...] | None  # it was trained on; old checkpoints lack it
    class_names: tuple[str, ...] | None = None  # of its training data, likewise

    def apply(self, image: Float[Array | np.ndarray, "b y x ch"]) -> Any:
        """(logits, intermediates) without dropout; jitted.

        Raises ValueError for images of a size that the parameters are not for.
        """
        if image.shape[1:] not in self._checked:
            self.check(image.shape[1:])
            self._checked.add(image.shape[1:])
        return self._apply(self.params, image)

    def check(self, image_shape: Sequence[int]) -> None:
        """Raise ValueError unless the parameters are for images of (height, width, ch)."""
        there = {name: x.shape for name, x in flatten_with_names(self.params)}
        for name, shape in self._shapes(tuple(image_shape)).items():
            if there.get(name) != shape:
                size = " x ".join(map(str, image_shape))
                raise ValueError(
                    f"the checkpoint of step {self.step} of {self.workdir} does not fit "
                    f"its model and images of {size}: {name} is "
                    f"{there.get(name, 'missing')} there, and would be {shape}"
                )

    def replace(self, **fields: Any) -> "Trained":
        """The same with other arguments of the model, which has the same parameters.

        `return_attn=True` turns a fused attention into the one that shows its
        probabilities. Raises ValueError if the model has no such argument.
        """
        known = {f.name for f in dataclasses.fields(self.model)}
        for name in fields:
            if name not in known:
                raise ValueError(
                    f"the model {self.experiment.model_name!r} has no argument {name!r}"
                )
        if fields.get("return_attn") and "attn_impl" in known:
            fields = {"attn_impl": "flax", **fields}
        return dataclasses.replace(self, model=self.model.clone(**fields))

    def evaluator(self, name: str | None = None) -> tuple[str, Mapping[str, Any]]:
        """Name and section of an evaluator; by default of the first that classifies.

        Its pp_fn and device_pp say how the model is fed. Raises ValueError if there is
        none.
        """
        evals = {k: v for k, v in self.experiment.evals.items() if v is not None}
        if name is not None:
            return name, lookup(evals, name, "evaluator of the run")
        for key in sorted(evals, key=lambda key: key != "val"):
            if evals[key].get("type", "classification") == "classification":
                return key, evals[key]
        raise ValueError(
            f"the config of {self.workdir} has no evaluator of the type 'classification', "
            "whose pp_fn and device_pp would say how the model is fed; give one, as in "
            "--config.evals.val.pp_fn='decode|resize(224)|value_range(-1, 1)'"
        )

    @functools.cached_property
    def _checked(self) -> set[tuple[int, ...]]:
        return set()

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(lambda p, x: self.model.apply({"params": p}, x, train=False))

    def _shapes(self, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), image)["params"]
        return {name: x.shape for name, x in flatten_with_names(shapes)}


def open_trained(
    path: str | Path, *, overrides: Sequence[str] = (), ema: bool = False
) -> Trained:
    """The model and the parameters of a checkpoint.

    Args:
      path: the workdir of a run (its newest checkpoint), its folder `best`, or
        WORKDIR/checkpoints/STEP.
      overrides: "a.b=VALUE" each, on the config that the checkpoint keeps.
      ema: the averaged parameters of a run with `ema`, instead of the last ones.

    Raises ValueError, in one sentence, if there is no checkpoint, it is damaged, or the
    config does not make its model.
    """
    workdir, step = locate(path)
    source = "ema" if ema else "params"
    meta, (params, plain) = read_meta(path), read_params(path, source)
    if plain is None:
        raise ValueError(f"the checkpoint of step {step} of {workdir} keeps no config")
    config = ConfigDict(plain)
    with config.unlocked(), config.ignore_type():
        for text in overrides:
            config_lib.override(config, text)
    experiment = experiment_lib.from_config(config.to_dict())
    names = meta.get("class_names")
    return Trained(
        workdir=workdir,
        step=step,
        config=config_lib.plain(config),
        experiment=experiment,
        model=program.make_model(experiment),
        params=params,
        source=source,
        image_shape=tuple(meta["image_shape"]) if "image_shape" in meta else None,
        class_names=None if names is None else tuple(names),
    )
