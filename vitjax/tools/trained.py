"""Open the model of a run or of a weight file, for the tools.

    trained = open_trained("runs/vit_s16_i1k")      # or .../checkpoints/STEP, .../best
    trained = open_trained("vit.npz", config="configs/vit_s16_i1k.py")
    logits, out = trained.apply(image)              # float images, as the model gets them

This module does not handle data; the tools do.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jaxtyping import Array, Float

from vitjax import program, weights
from vitjax.checkpoints.read import locate, read_meta, read_params, run_folder
from vitjax.config import experiment as experiment_lib
from vitjax.config import files as config_files
from vitjax.config import names
from vitjax.config.arguments import lookup
from vitjax.evaluators import schedule
from vitjax.models import vit
from vitjax.tools import file_config
from vitjax.trees import flatten_with_names
from vitjax.weights import files, posemb
from vitjax.weights.checkpoint_model import from_config_json, settings_of, unlike
from vitjax.weights.describe import HeadsUnknown


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model and its parameters, from a run's checkpoint or from a file."""

    workdir: Path  # for a weight file: its folder
    name: str  # for messages: "runs/vit, step 12"
    step: int | None  # None for a weight file
    config: dict[str, Any]  # the run's, as plain values, with the overrides
    experiment: experiment_lib.Experiment
    model: nn.Module
    params: Any  # numpy
    source: str  # what `params` are: "params", or "ema", their average
    image_shape: tuple[int, ...] | None  # the training images'; None: unknown
    class_names: tuple[str, ...] | None = None  # the training data's; None: unknown

    def apply(self, image: Float[Array | np.ndarray, "b y x ch"]) -> Any:
        """Return (logits, intermediates) without dropout; jitted.

        Raises ValueError if the parameters do not fit the images' size.
        """
        if image.shape[1:] not in self._checked:
            self.check(image.shape[1:])
            self._checked.add(image.shape[1:])
        return self._apply(self.params, image)

    def check(self, image_shape: Sequence[int]) -> None:
        """Raise ValueError unless the parameters fit images of (height, width, ch)."""
        there = {name: x.shape for name, x in flatten_with_names(self.params)}
        for name, shape in self._shapes(tuple(image_shape)).items():
            if there.get(name) != shape:
                size = " x ".join(map(str, image_shape))
                raise ValueError(
                    f"{self.name} does not fit its model and images of {size}: {name} must "
                    f"have the shape {shape}, got {there.get(name, 'none')}"
                )

    def replace(self, **fields: Any) -> "Trained":
        """Return a copy whose model has other arguments, with the same parameters.

        `return_attn=True` replaces a fused attention by the one that returns its
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
        """Return name and section of an evaluator; by default one that classifies.

        The default is "val" if it classifies, else the first that does. Its pp_fn and
        device_pp define the model's input. Raises ValueError if there is none.
        """
        evals = {k: v for k, v in self.experiment.evals.items() if v is not None}
        if name is not None:
            return name, lookup(evals, name, "evaluator of the run")
        default = schedule.default_classifier(evals)
        if default is not None:
            return default, evals[default]
        raise ValueError(
            f"the config of {self.name} has no evaluator of the type 'classification', "
            "whose pp_fn and device_pp prepare the model's images; give one, as in "
            "--config.evals.val.pp_fn='decode|resize(224)|value_range(-1, 1)'"
        )

    def at_size(self, height: int, width: int) -> "Trained":
        """Return a copy for images of another size, with learned positions resampled.

        Their grid is `image_shape`'s, or a square if that is None. Raises ValueError if
        patches do not divide the size, or if the model has learned positions but is not
        a `vit`.
        """
        table, patch = self.params.get("pos_embedding"), self.patch_size
        if patch is None or getattr(table, "ndim", 3) != 3:  # `check` decides
            return self
        ph, pw = patch
        floor = getattr(self.model, "floor_patches", False)
        if (height % ph or width % pw) and not floor:
            raise ValueError(
                f"images of {height} x {width} do not divide into patches of {ph} x {pw}"
            )
        new, count = (height // ph, width // pw), 0 if table is None else table.shape[1]
        if table is None or count == new[0] * new[1]:
            return self
        if not isinstance(self.model, vit.ViT):
            raise ValueError(
                f"the positions of the model {self.experiment.model_name!r} are for one "
                f"size of images, got {height} x {width}"
            )
        old = None
        if self.image_shape is not None:
            old = (self.image_shape[0] // ph, self.image_shape[1] // pw)
        old = posemb.grid_of(count, old, f"pos_embedding of {self.name}")
        table = posemb.resample(np.asarray(table), old, new)
        params = {**self.params, "pos_embedding": table}
        return dataclasses.replace(self, params=params)

    @property
    def patch_size(self) -> tuple[int, int] | None:
        """Height and width of the model's patches; None if it has no such pair."""
        patch = getattr(self.model, "patch_size", None)
        return patch if isinstance(patch, tuple) and len(patch) == 2 else None

    def known_names(self) -> tuple[str, ...] | None:
        """Return the class names in the order of the labels; None if they are unknown.

        They come from the checkpoint or the file, else from the training data of the
        config, see `input_pipeline.sources.class_names.of_run`.
        """
        from input_pipeline.sources import class_names  # imports TensorFlow

        e = self.experiment
        return class_names.of_run(
            self.class_names,
            data=e.input["data"],
            relabels=e.relabels,
            file_classes=e.num_classes if self.step is None else None,
        )

    def names_in_words(self) -> tuple[str, ...] | None:
        """Return `known_names` as people read them: a synset of ImageNet in words."""
        from input_pipeline.sources.class_names import in_words  # imports TensorFlow

        names = self.known_names()
        return None if names is None else tuple(in_words(names))

    def metadata(self) -> dict[str, Any]:
        """Return the metadata for a file of the parameters: `vitjax.weights.METADATA`."""
        found = {key: getattr(self, key) for key in weights.METADATA}
        return {key: value for key, value in found.items() if value is not None}

    def for_images(self, pixels: int) -> "Trained":
        """Return a copy whose `image_shape` is a square of `pixels` per side.

        The channels are those of the training images, or else the number that fits the
        parameters' shapes. Raises ValueError if none fits.
        """
        known = self.image_shape
        errors = []
        for channels in (3, 1, 2, 4) if known is None else known[2:]:
            shape = (pixels, pixels, channels)
            try:
                self.check(shape)
                return dataclasses.replace(self, image_shape=shape)
            except ValueError as error:
                errors.append(error)
        raise errors[0]

    @functools.cached_property
    def _checked(self) -> set[tuple[int, ...]]:
        return set()

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(program.forward(self.experiment, self.model))

    def _shapes(self, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), image)["params"]
        return {name: x.shape for name, x in flatten_with_names(shapes)}


def open_trained(
    path: str | Path,
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    ema: bool = False,
    norm: str = "",
    head: bool = True,
) -> Trained:
    """Open the model and the parameters of a checkpoint; a bucket's is copied first.

    Args:
      path: the workdir of a run (its newest checkpoint), its folder `best`,
        WORKDIR/checkpoints/STEP, or a file that `vitjax.weights.load` reads.
      config: "FILE[:ARG]", used instead of the checkpoint's config, except that the
        model remains the checkpoint's. A weight file's model is inferred from its
        shapes; the config supplies what they do not show (GELU, dtypes, constant
        positions). A file that stores none does without it for images of its own size;
        its evaluator is "val".
      overrides: "a.b=VALUE" each, applied to that config.
      ema: use the averaged parameters of a run with `ema`, not the last ones.
      norm: a name of `vitjax.weights.normalisation.NAMES`, used for the images in place
        of the config's normalisation. A file without a config needs it if nothing next
        to the file tells it.
      head: False if only features are used: weights without a head are admitted, and
        those with a head keep it, whatever num_classes the config has.

    Raises ValueError, in one sentence, if there is no checkpoint, it is damaged, or it
    does not fit the config's model.
    """
    shown, path = str(path), files.local(path)
    if weights.is_file(path):
        file = _open_file(path, config, overrides, ema, norm, head)
        return dataclasses.replace(file, name=shown)
    workdir, step = locate(path)
    source = "ema" if ema else "params"
    meta, (params, kept) = read_meta(path), read_params(path, source)
    if kept is None:
        raise ValueError(f"the checkpoint of step {step} of {workdir} has no config")
    plain, loaded = kept, _loaded(config)
    if config is not None:
        own = {key: kept[key] for key in ("model_name", "model") if key in kept}
        plain = {**loaded, "model_name": "vit", **own}
    own_head = file_config.own_head(shown, kept.get("num_classes"), plain, head)
    if norm:
        plain = file_config.normalised(plain, path, norm, overrides)
    return _made(
        plain,
        overrides,
        loaded,
        workdir=workdir,
        name=f"{shown}, step {step}",
        step=step,
        params=params,
        source=source,
        **own_head,
        **_known(meta),
    )


def _known(metadata: Mapping[str, Any]) -> dict[str, tuple[Any, ...] | None]:
    """Return `image_shape` and `class_names` of a checkpoint's metadata."""
    found = {key: metadata.get(key) for key in ("image_shape", "class_names")}
    return {key: tuple(x) if x else None for key, x in found.items()}


def _open_file(
    path: str | Path,
    config: str | None,
    overrides: Sequence[str],
    ema: bool,
    norm: str,
    head: bool,
) -> Trained:
    if ema:
        raise ValueError(
            f"{path} is a file, which has no averaged parameters: leave out --ema"
        )
    plain = loaded = _loaded(config)
    given = dict(plain.get("model") or {})
    settled = config_files.overridden(plain, overrides).to_dict()
    model = settled.get("model") or {}
    options: dict[str, Any] = {"grid": settled.get("model_init_grid")}
    if model.get("pool_type") == "tok" or model.get("registers"):
        options["pool_type"] = model.get("pool_type")
    notices: dict[str, None] = {}  # a dict, to log each once if the file is read twice
    options["say"] = notices.setdefault
    try:
        params, stored = _load(path, model.get("num_heads"), **options)
    finally:
        for notice in notices:
            logging.warning("%s", notice)
    if config is None:
        plain = dict(
            file_config.of_file(path, params, norm, head) if stored is None else stored
        )
        given = dict(plain.get("model") or {})
    if norm or (config is not None and stored is None):
        plain = file_config.normalised(plain, path, norm, overrides)
    if stored is not None and stored.get("model_name", "vit") != "vit":
        own = {key: stored[key] for key in ("model_name", "model") if key in stored}
        count = stored.get("num_classes")
        own_head = file_config.own_head(str(path), count, plain, head)
        return _of_file(path, plain | own, params, overrides, loaded, **own_head)
    if plain.get("model_name", "vit") != "vit":
        raise ValueError(
            f"a file of weights needs a config whose model_name is 'vit', got "
            f"{plain['model_name']!r}"
        )
    found = weights.model_arguments(params)
    own_head = file_config.own_head(str(path), found.pop("num_classes"), plain, head)
    given.pop("variant", None)
    if found["posemb"] == "none":  # constants are not parameters
        found.pop("posemb")
    if stored is None:
        # The config overrides the format's defaults, and config.json overrides both.
        given = (
            settings_of(path, stored, found["pre_norm"])
            | given
            | from_config_json(path)
        )
    plain = {**plain, "model": given | found}
    trained = _of_file(path, plain, params, overrides, loaded, **own_head)
    if isinstance(trained.model, vit.ViT):
        for notice in unlike(path, stored, trained.model):
            logging.warning("%s", notice)
    return trained


def _load(path: str | Path, num_heads: int | None, **options: Any) -> tuple[Any, Any]:
    """Call `weights.load`, with the config's `num_heads` if the file has none."""
    try:
        return weights.load(path, **options)
    except HeadsUnknown as error:
        if num_heads is None:
            raise ValueError(f"{error}, as --config.model.num_heads=N") from None
        return weights.load(path, num_heads=num_heads, **options)


def _of_file(
    path: str | Path,
    plain: dict[str, Any],
    params: Any,
    overrides: Sequence[str],
    loaded: dict[str, Any],
    **own_head: Any,
) -> Trained:
    known = _known(weights.metadata(path))
    if len(known["class_names"] or ()) != plain.get("num_classes"):
        known["class_names"] = None  # the names belong to another head
    return _made(
        plain,
        overrides,
        loaded,
        workdir=files.split(path)[0].parent,
        name=str(path),
        step=None,
        params=params,
        source="params",
        **own_head,
        **known,
    )


def _loaded(config: str | None) -> dict[str, Any]:
    if config is None:
        return {}
    loaded, notices = config_files.from_big_vision(config_files.load(config))
    for notice in notices:
        logging.warning("%s", notice)
    return config_files.plain(loaded)


def _made(
    plain: dict[str, Any], overrides: Sequence[str], loaded: Any, **fields: Any
) -> Trained:
    """Make a `Trained` of its fields; `classes` are the model's, if not the config's.

    `loaded` is the part of the config that is --config's.
    """
    config = config_files.overridden(plain, overrides).to_dict()
    allowed = names.named(loaded) | config_files.named_in(overrides)
    workdir = None if fields["step"] is None else run_folder(fields["workdir"])
    names.check_stored(config, allowed, fields["name"], workdir=workdir)
    config = names.full_names(config)
    experiment = experiment_lib.from_config(config)
    model: Any = program.make_model(experiment)
    classes = fields.pop("classes", experiment.num_classes)
    if classes != experiment.num_classes:
        model = model.clone(num_classes=classes)
    return Trained(
        config=config_files.plain(config),
        experiment=experiment,
        model=model,
        **fields,
    )
