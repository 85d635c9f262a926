"""Build the compiled parts of a run from a config: model, optimizer, state, steps."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from input_pipeline import device_ops, parts
from vitjax import optim, step, trees
from vitjax.config import arguments, names
from vitjax.config.experiment import Experiment
from vitjax.devices.sharding import batch_sharding, replicated
from vitjax.models import MODELS, vit
from vitjax.step import ema, loss_scale, mixup
from vitjax.step.losses import balanced_weights, check_class_weights, find_loss


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of a run, and the shapes and shardings of its state."""

    model: nn.Module  # with the attention chosen for the mesh's devices
    matmul_precision: str | None  # of JAX; None: what JAX takes without being told
    mesh: Mesh
    image_shape: tuple[int, ...]  # one example at the model's input
    trainable: int  # scalars of the parameters that `schedule` does not freeze
    tx: optax.GradientTransformation
    lr_fns: list[Callable[[Any], Any]]
    init: Callable[[], step.TrainState]
    shapes: Any  # the state as ShapeDtypeStructs
    shardings: Any
    batch: dict[str, jax.ShapeDtypeStruct]  # with its sharding
    train_step: Any  # jitted
    preview: Callable[..., Any]
    predict: Callable[..., Any]
    loop_key: Callable[[], jax.Array]

    @functools.cached_property
    def key(self) -> jax.Array:
        """The key, on the devices, into which every step folds its number."""
        return self.loop_key()

    @property
    def abstract_state(self) -> step.TrainState:
        """The state's shapes with their shardings."""
        return jax.tree.map(_placed, self.shapes, self.shardings)

    def lower(self) -> Any:
        """Lower the training step, for the devices of the mesh, which may be absent."""
        key = _placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(self.mesh))
        return self.train_step.lower(self.abstract_state, self.batch, key)


def _placed(shape: Any, home: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=home)


def make_model(e: Experiment) -> nn.Module:
    """Build the model. Raises ValueError if the config section `model` is wrong."""
    settings = dict(e.model)
    if e.init_head_bias is not None:
        settings["init_head_bias"] = e.init_head_bias
    return model_of(e.model_name, settings, e.num_classes)


def model_of(name: str, settings: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Build a model from its name and the config section `model`, its `settings`.

    Raises ValueError if there is no such model, or if the section is wrong.
    """
    found = names.find(MODELS, name, "models")
    if inspect.isclass(found) and issubclass(found, nn.Module):
        model = arguments.make_module(found, num_classes, dict(settings))
    else:
        with parts.explained(f"the model {name!r}", parts.SLIPS):
            model = arguments.call("model", found, settings, num_classes=num_classes)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the model {name!r} must be a linen module, got {type(model).__name__}"
        )
    if "train" not in inspect.signature(model.__call__).parameters:
        raise ValueError(
            f"the model {name!r} must be called as (images, train=True or False), "
            f"but its __call__ takes {inspect.signature(model.__call__)}"
        )
    return model


def matmul_precision(e: Experiment, platform: str) -> str | None:
    """Return JAX's precision of float32 products in a program for a platform.

    None stands for "highest" on accelerators. JAX's own default there is TF32 or
    bfloat16, and float32 on a CPU, which has nothing else.
    """
    if e.matmul_precision is None and platform != "cpu":
        return "highest"
    return e.matmul_precision


def forward(e: Experiment, model: nn.Module) -> Callable[[Any, Any], Any]:
    """Return apply(params, images), for JAX's first device, at the run's precision."""
    precision = matmul_precision(e, jax.default_backend())
    apply = lambda p, x: model.apply({"params": p}, x, train=False)
    return step.at_precision(precision, apply)


def compiler_options(e: Experiment, device_kind: str) -> dict[str, Any]:
    """Return XLA's options for the training step on a kind of device."""
    # XLA would write most products as Triton kernels, without bias and GELU.
    own = {"xla_gpu_enable_triton_gemm": False}
    own = own if device_kind.startswith("NVIDIA") else {}
    return {**own, **(e.compiler_options or {})}


def _check_answer(e: Experiment, model: nn.Module, image_shape: Sequence[int]) -> None:
    """Raise ValueError unless a person's own model answers as the run needs it to."""
    image = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
    key = jax.random.key(0)
    what = f"the model {e.model_name!r}"
    with parts.explained(what):
        variables = jax.eval_shape(lambda x: model.init(key, x, train=False), image)
    if set(variables) != {"params"}:
        raise ValueError(
            f"{what} must keep all its variables in 'params', which a step trains, got "
            f"{', '.join(sorted(variables)) or 'none'}"
        )
    with parts.explained(what):
        answer = jax.eval_shape(
            lambda v, x: model.apply(v, x, train=False), variables, image
        )
    pair = isinstance(answer, tuple) and len(answer) == 2
    if not pair or not isinstance(answer[1], Mapping):
        raise ValueError(
            f"{what} must return (logits, out), where out is a dict of intermediates, "
            f"which may be empty, got {_told(answer)}"
        )
    shape = getattr(answer[0], "shape", None)
    if shape != (2, e.num_classes):
        raise ValueError(
            f"{what} must return logits of shape (b, {e.num_classes}) for b images, got "
            f"{_told(answer[0])} for 2 images"
        )


def _told(answer: Any) -> str:
    shape = getattr(answer, "shape", None)
    return f"a {type(answer).__name__}" if shape is None else f"an array of {shape}"


def _batch(
    element_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    batch_size: int,
    mesh: Mesh,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch on the devices, where int64 labels become int32."""
    home = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (batch_size, *shape), jax.dtypes.canonicalize_dtype(dtype), sharding=home
        )
        for name, (shape, dtype) in element_spec.items()
    }


def _image_shape(
    e: Experiment, device_pp: Callable[..., Any], batch: dict[str, jax.ShapeDtypeStruct]
) -> tuple[int, int, int]:
    """Return the shape of one image of a batch at the model's input.

    Raises ValueError if `device_pp` does not make images and labels of it.
    """
    prepare = step.make_prepare(device_pp)
    image, labels = jax.eval_shape(prepare, (batch, None), None)
    if labels.shape != (image.shape[0], e.num_classes):
        raise ValueError(
            f"labels have shape {labels.shape[1:]}, but num_classes is "
            f"{e.num_classes}; change onehot(...) in input.pp or device_pp"
        )
    shape: Any = image.shape[1:]
    return shape


def _class_weights(
    e: Experiment, labels: Callable[[], np.ndarray] | None
) -> Sequence[float] | None:
    """Return the weights of the classes in the loss. ValueError if they are wrong."""
    weights = e.class_weights
    if weights == "balanced":
        if e.relabels:
            raise ValueError(
                "class_weights='balanced' counts the labels of the data, which lookup in "
                "input.pp changes: give class_weights as a list"
            )
        return None if labels is None else balanced_weights(labels(), e.num_classes)
    if isinstance(weights, str):
        raise arguments.unknown(weights, ["balanced"], "class_weights")
    if weights is not None:
        check_class_weights(weights, e.num_classes)
    return weights


def check(e: Experiment) -> nn.Module:
    """Check what needs no data, and return the model. Raises ValueError."""
    optim.check_section(e.optimizer)
    find_loss(e.loss)
    if e.matmul_precision is not None:
        arguments.lookup(step.PRECISIONS, e.matmul_precision, "matmul_precision")
    device_ops.get_preprocess_fn(e.device_pp)
    device_ops.check_once(e.input.get("pp") or "", e.device_pp)
    if e.mixup is not None:
        arguments.check("mixup", mixup.check, e.mixup)
    if e.ema is not None:
        arguments.check("ema", ema.make_update, e.ema)
    if e.loss_scale is not None:
        arguments.check("loss_scale", loss_scale.make, e.loss_scale)
        if e.optimizer.get("sam") is not None:
            raise ValueError(
                "loss_scale cannot be combined with sam, because it does not scale sam's "
                "second gradient; set one of them to None, or dtype_mm to bfloat16"
            )
    return make_model(e)


def _train_step(
    e: Experiment,
    model: nn.Module,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    both_pp: Mapping[str, Any],
    class_weights: Sequence[float] | None,
    frozen: Any,
    shardings: Any,
) -> Any:
    device = mesh.devices.flat[0]
    return step.make_train_step(
        model,
        tx,
        loss=e.loss,
        mesh=mesh,
        mixup=e.mixup,
        accum_freq=e.accum_freq,
        **both_pp,
        label_smoothing=e.label_smoothing,
        class_weights=class_weights,
        frozen=frozen,
        ema=e.ema,
        state_sharding=shardings,
        matmul_precision=matmul_precision(e, device.platform),
        compiler_options=compiler_options(e, device.device_kind),
    )


def build(
    e: Experiment,
    mesh: Mesh,
    *,
    element_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    batch_size: int,
    total_steps: int,
    data_size: int,
    labels: Callable[[], np.ndarray] | None = None,
) -> Program:
    """Build the program of the experiment `e`. Allocates nothing.

    The devices of `mesh` may be absent, as those of `vitjax.devices.chips` are; then
    the program can only be lowered and compiled.

    Args:
      element_spec: shape and dtype of each feature of one example, from the host.
      batch_size: the global batch size.
      total_steps: length of the run. data_size: examples per epoch.
      labels: returns the label of every training example, for class_weights="balanced".
        None plans a program without its data, with equal weights.
    """
    step.check_batch_size(batch_size, mesh, e.accum_freq)
    model = check(e)
    weights = _class_weights(e, labels)
    augment, device_pp = device_ops.in_two(e.device_pp)
    batch = _batch(element_spec, batch_size, mesh)
    whole = device_ops.get_preprocess_fn(e.device_pp)
    image_shape = _image_shape(e, whole, batch)
    if parts.is_dotted(e.model_name):
        _check_answer(e, model, image_shape)
    params = step.param_shapes(model, image_shape)
    frozen = optim.frozen_mask(params, e.optimizer.get("schedule"))
    tx, lr_fns = optim.make_optimizer(
        params,
        total_steps=total_steps,
        batch_size=batch_size,
        data_size=data_size,
        **e.optimizer,
    )
    # Jitted: device_put cannot place a key on the devices of other processes.
    keys = jax.jit(
        lambda: tuple(jax.random.split(jax.random.key(e.seed))),
        out_shardings=replicated(mesh),
    )
    device = mesh.devices.flat[0]
    if isinstance(model, vit.ViT):
        model = vit.with_attention(model, device, image_shape)
    precision = matmul_precision(e, device.platform)
    init, shapes, shardings = step.init_state(
        model,
        tx,
        image_shape,
        mesh=mesh,
        sharding_strategy=e.sharding_strategy,
        ema=e.ema is not None,
        loss_scale=e.loss_scale,
        matmul_precision=precision,
    )
    both_pp = {"augment": augment, "device_pp": device_pp}
    train_step = _train_step(e, model, tx, mesh, both_pp, weights, frozen, shardings)
    return Program(
        model=model,
        matmul_precision=precision,
        mesh=mesh,
        image_shape=image_shape,
        trainable=trees.count(
            jax.tree.map(lambda f, p: None if f else p, frozen, params)
        ),
        tx=tx,
        lr_fns=lr_fns,
        init=lambda: init(keys()[0]),
        shapes=shapes,
        shardings=shardings,
        batch=batch,
        train_step=train_step,
        preview=step.make_preview(mesh=mesh, mixup=e.mixup, **both_pp),
        predict=step.at_precision(precision, step.make_eval_step(model)),
        loop_key=lambda: keys()[1],
    )
