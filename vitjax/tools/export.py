"""Export a model for other libraries, or as a program for serving.

`python -m vitjax.tools.export --ckpt runs/vit_s16_i1k --to timm vit.safetensors`
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax.config.files import parse_with_overrides
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
FORMATS = (
    "timm", "torchvision", "huggingface", "mup_vit", "big_vision", "safetensors",
    "stablehlo",
)  # fmt: skip
DESCRIPTION = f"""\
Write a checkpoint's model to OUT, a new file, whose suffix fits the format.

  timm, torchvision, huggingface, mup_vit   state dicts: .safetensors, .pth, .pt, .bin.
              The file is read back and compared to the bit. If the library is installed,
              its own class gets the weights, and the logits are compared.
  big_vision  .npz, parameters under big_vision's names
  safetensors .safetensors, parameters under vitjax's names, the config and the names of
              the classes, for any model; every tool and --config.model_init take it
  stablehlo   jax.export's serialised program, weights inside, for CPU, GPU and TPU: from
              uint8 images (b, height, width, channels), resized and cropped as in
              evaluation, to logits (b, classes), for any b. It is run and compared.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit_s16_i1k --to timm vit.safetensors",
    "--ckpt runs/vit_s16_i1k/best --to stablehlo vit.stablehlo",
)
TOLERANCE = 2e-4  # relative to the largest logit: float32, other summation order


def export(trained: "Trained", to: str, out: Path) -> str:
    """Write and check `trained`, a `vitjax.tools.trained.Trained`.

    Returns a description of the check. Raises ValueError, and leaves no file behind, if
    the export fails.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: give a new name")
    command.check_parent(out)
    if to == "stablehlo":
        return _stablehlo(trained, out)
    if to == "safetensors":
        return _safetensors(trained, out)
    return _state_dict(trained, to, out)


def _size(trained: "Trained") -> tuple[int, int, int]:
    if trained.image_shape is None:
        raise ValueError(
            f"{trained.name} does not store the size of its images: give --image_size"
        )
    height, width, channels = trained.image_shape
    return height, width, channels


def _images(shape: Sequence[int], count: int) -> Any:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, *shape)).astype(np.float32)


def _state_dict(trained: "Trained", to: str, out: Path) -> str:
    """Write a state dict by vitjax.tools.convert, and compare the library's logits."""
    from vitjax.models.vit import ViT
    from vitjax.tools import convert
    from vitjax.weights import files, other_models

    if not isinstance(trained.model, ViT):
        raise ValueError(
            f"{to} cannot hold a model {trained.experiment.model_name!r}: give --to "
            "safetensors or stablehlo, which hold any"
        )
    height, width, channels = _size(trained)
    rows, columns = trained.model.patch_size
    convert.write(
        trained.params,
        trained.metadata(),
        out,
        to=to,
        posemb=trained.model.posemb,
        grid=(height // rows, width // columns),
    )
    if to in ("big_vision", "mup_vit"):
        return "read back and compared to the bit"
    try:
        theirs = functools.partial(
            other_models.logits, to, trained.model, files.read(out)[0]
        )
        return _compared(trained, to, theirs, (height, width, channels))
    except BaseException:  # Ctrl-C too: no file stays that was not compared
        out.unlink()
        raise


def _compared(
    trained: "Trained",
    to: str,
    other: Callable[[Any], Any],
    shape: tuple[int, int, int],
) -> str:
    """Compare the logits with the library's own, `other(images)`, and describe it."""
    import jax
    import numpy as np

    from vitjax.weights import libraries

    read = "read back and compared to the bit; "
    images = _images(shape, 2)
    try:
        theirs = other(images)
    except libraries.Unusable as error:  # the file is still correct
        return f"{read}not tried in {to}, as {error}"
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{to}'s own class refuses the weights: {why}") from error
    ours = jax.device_get(trained.apply(images)[0])
    top = float(np.abs(ours).max()) or 1.0
    difference = float(np.abs(ours - theirs).max()) / top
    if difference <= TOLERANCE:
        return f"{read}{to}'s own logits differ by {difference:.1e} of the largest"
    if to == "torchvision" and trained.model.gelu != "exact":
        return (
            f"{read}torchvision's class has the exact GELU, this model the tanh "
            f"approximation: its logits differ by {difference:.1e} of the largest"
        )
    raise ValueError(
        f"{to}'s own logits differ by {difference:.1e} of the largest, more than "
        f"{TOLERANCE:.0e}: nothing is written"
    )


def _safetensors(trained: "Trained", out: Path) -> str:
    import json

    import numpy as np

    from vitjax.trees import flatten_with_names
    from vitjax.weights import WORD, files

    if out.suffix != ".safetensors":
        raise ValueError(f"safetensors is written as .safetensors, got {str(out)!r}")
    arrays = {k: np.asarray(v) for k, v in flatten_with_names(trained.params)}
    metadata = {"names": WORD, **trained.metadata()}
    # Other readers expect "pt".
    header = {"format": "pt", WORD: json.dumps(metadata)}
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        files.write(partial, arrays, header)
        back, _ = files.read(partial)
        for name, x in arrays.items():
            if back[name].tobytes() != x.tobytes():
                raise ValueError(f"{name} was not stored as it was written")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return "read back and compared to the bit"


def _pixels_to_input(section: Mapping[str, Any]) -> str:
    """Return the ops from resized uint8 pixels to the model's input in evaluation.

    Raises ValueError if one of them cannot run inside the program.
    """
    from input_pipeline import spec

    values = (
        "value_range",
        "normalize",
        "vgg_value_range",
        "clip_value_range",
        "lookup",
    )
    moved = [c for c in spec.parse(section.get("pp_fn", "")) if c.name in values]
    for call in moved:
        if call.name in ("clip_value_range", "lookup"):
            raise ValueError(
                f"{call.text!r} of pp_fn runs on the host only, but the exported program "
                "needs it: use value_range(..., clip_values=True), or device_pp"
            )
    return "|".join(filter(None, [*(c.text for c in moved), section.get("device_pp")]))


def _stablehlo(trained: "Trained", out: Path) -> str:
    """Export with a symbolic batch size; run and compare for two sizes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from input_pipeline import device_ops

    shape = _size(trained)
    preprocess = device_ops.get_preprocess_fn(_pixels_to_input(trained.evaluator()[1]))
    params = jax.tree.map(jnp.asarray, trained.params)

    def serve(images: Any) -> Any:
        labels = jnp.zeros(images.shape[0], jnp.int32)
        features = preprocess({"image": images, "label": labels})
        model: Any = trained.model
        return model.apply({"params": params}, features["image"], train=False)[0]

    (batch,) = jax.export.symbolic_shape("b")
    spec = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    exported = jax.export.export(jax.jit(serve), platforms=("cpu", "cuda", "tpu"))(spec)
    data = exported.serialize()
    loaded = jax.export.deserialize(data)
    worst = 0.0
    for count in (1, 3):
        images = np.random.default_rng(count).integers(
            0, 256, (count, *shape), np.uint8
        )
        ours, theirs = jax.jit(serve)(images), loaded.call(images)
        top = float(jnp.abs(ours).max()) or 1.0
        worst = max(worst, float(jnp.abs(ours - theirs).max()) / top)
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the exported program's logits differ by {worst:.1e} of the largest, more "
            f"than {TOLERANCE:.0e}: nothing is written"
        )
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return (
        f"run on batches of 1 and 3 images of {' x '.join(map(str, shape))}, logits differ "
        f"by {worst:.1e}; jax.export.deserialize(open({str(out)!r}, 'rb').read()).call(images)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("export", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    command.add_norm(parser)
    add = parser.add_argument
    add("--to", required=True, choices=FORMATS, metavar="FORMAT",
        help=f"format of OUT: {', '.join(FORMATS)}")  # fmt: skip
    command.add_image_size(parser, "the checkpoint does not store it")
    add("out", type=Path, metavar="OUT", help="a new file")
    flags, overrides = parse_with_overrides(
        parser, sys.argv[1:] if argv is None else argv
    )
    if flags.image_size is not None and flags.image_size < 1:
        parser.error(f"--image_size must be at least 1, got {flags.image_size}")

    def work() -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")  # no accelerator is needed
        from vitjax.tools.trained import open_trained

        trained = open_trained(
            flags.ckpt,
            config=flags.config,
            overrides=overrides,
            ema=flags.ema,
            norm=flags.norm,
        )
        if flags.image_size is not None:
            trained = trained.for_images(flags.image_size)
        checked = export(trained, flags.to, flags.out)
        print(f"{flags.out}: {flags.to}; {checked}")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
