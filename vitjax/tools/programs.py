"""Write a model as a program for serving: from uint8 images to logits, weights inside."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import device_ops, parts, spec
from vitjax.files import write_whole
from vitjax.tools.trained import Trained

STABLEHLO_TOLERANCE = 2e-4  # relative to the largest logit
ONNX_TOLERANCE = 1e-5
# Only jax2onnx's program is needed: its other requirements would replace orbax-checkpoint.
ONNX_PACKAGES = "pip install onnx onnx-ir onnxruntime && pip install --no-deps jax2onnx"


def write(trained: Trained, to: str, out: Path, shape: tuple[int, int, int]) -> str:
    """Write the program of `trained` for images (b, *shape), any b, as `to`.

    Returns a description of the check: the program is run on batches of 1 and 3 images,
    and its logits are compared. Raises ValueError, and writes no file, if they differ.
    """
    if to == "onnx" and out.suffix != ".onnx":
        raise ValueError(f"onnx is written as .onnx, got {str(out)!r}")
    ops = pixels_to_input(trained.evaluator()[1])
    preprocess = device_ops.get_preprocess_fn(ops)
    params = jax.tree.map(jnp.asarray, trained.params)
    model: Any = trained.model
    if getattr(model, "attn_impl", None) in ("auto", "cudnn"):
        model = model.clone(attn_impl="flax")  # the program is for every platform

    def serve(images: Any) -> Any:
        labels = jnp.zeros(images.shape[0], jnp.int32)
        features = preprocess({"image": images, "label": labels})
        return model.apply({"params": params}, features["image"], train=False)[0]

    make, tolerance, use = {
        "stablehlo": (_stablehlo, STABLEHLO_TOLERANCE, _USE_STABLEHLO),
        "onnx": (_onnx, ONNX_TOLERANCE, _USE_ONNX),
    }[to]
    data, call = make(serve, shape)
    worst = 0.0
    for count in (1, 3):
        images = np.random.default_rng(count).integers(
            0, 256, (count, *shape), np.uint8
        )
        ours, theirs = jax.jit(serve)(images), call(images)
        top = float(jnp.abs(ours).max()) or 1.0
        worst = max(worst, float(jnp.abs(ours - theirs).max()) / top)
    if not worst <= tolerance:
        raise ValueError(
            f"the exported program's logits differ by {worst:.1e} of the largest, more "
            f"than {tolerance:.0e}: nothing is written"
        )
    write_whole(out, data)
    return (
        f"run on batches of 1 and 3 images of {' x '.join(map(str, shape))}, logits differ "
        f"by {worst:.1e}; {use.format(str(out))}"
    )


_USE_STABLEHLO = "jax.export.deserialize(open({!r}, 'rb').read()).call(images)"
_USE_ONNX = "onnxruntime.InferenceSession({!r}).run(None, {{'images': images}})"
Program = tuple[bytes, Callable[[np.ndarray], Any]]


def _stablehlo(serve: Callable[[Any], Any], shape: tuple[int, int, int]) -> Program:
    """Export with a symbolic batch size."""
    (batch,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    exported = jax.export.export(jax.jit(serve), platforms=("cpu", "cuda", "tpu"))(spec)
    data = exported.serialize()
    return bytes(data), jax.export.deserialize(data).call


def _onnx(serve: Callable[[Any], Any], shape: tuple[int, int, int]) -> Program:
    """Convert with jax2onnx; the program runs in onnxruntime."""
    # jax2onnx warns, with a traceback, of each plugin for a library that is absent.
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"onnx is written by jax2onnx and checked by onnxruntime ({error}): install "
            f"them by {ONNX_PACKAGES}, or give --to stablehlo"
        ) from None
    inputs = [jax.ShapeDtypeStruct(("b", *shape), jnp.uint8)]
    model = jax2onnx.to_onnx(
        serve, inputs, input_names=["images"], output_names=["logits"]
    )
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: session.run(["logits"], {"images": images})[0]


def pixels_to_input(section: Mapping[str, Any]) -> str:
    """Return the ops from resized uint8 pixels to the model's input in evaluation.

    Raises ValueError if one of them cannot run inside the program.
    """

    values = (
        "value_range",
        "normalize",
        "vgg_value_range",
        "clip_value_range",
        "lookup",
    )
    calls = spec.parse(section.get("pp_fn", ""))
    for call in calls:
        if parts.is_dotted(call.name):  # it may change more than sizes
            raise ValueError(
                f"{call.text!r} of pp_fn runs on the host only, and the exported program "
                "would lack it: give its effect in device_pp, or leave it out with "
                "--config.evals.NAME.pp_fn"
            )
    moved = [c for c in calls if c.name in values]
    for call in moved:
        if call.name in ("clip_value_range", "lookup"):
            raise ValueError(
                f"{call.text!r} of pp_fn runs on the host only, but the exported program "
                "needs it: use value_range(..., clip_values=True), or device_pp"
            )
    ops = [call.source for call in moved]
    return "|".join(filter(None, [*ops, section.get("device_pp")]))
