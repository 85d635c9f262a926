"""Export a model for other libraries, or as a program for serving.

`python -m vitjax.tools.export --ckpt runs/vit_s16_i1k --to timm vit.safetensors`
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import places
from vitjax.config.arguments import unknown
from vitjax.config.files import parse_with_overrides
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.models.vit import ViT
    from vitjax.tools.trained import Trained

# Only light imports here, so that --help is fast.
PROGRAMS = ("stablehlo", "onnx")
FORMATS = (
    "timm", "torchvision", "huggingface", "mup_vit", "big_vision", "safetensors",
    *PROGRAMS,
)  # fmt: skip
DESCRIPTION = f"""\
Write a checkpoint's model to OUT, a new file, whose suffix fits the format.

  timm, torchvision, huggingface, mup_vit   state dicts: .safetensors, .pth, .pt, .bin.
              The file is read back and compared to the bit. If the library is installed,
              its own class gets the weights, and the logits are compared.
  huggingface OUT without a suffix: a folder for transformers' from_pretrained and
              AutoImageProcessor: the weights, the model's config with the names of the
              classes, and how the evaluator's pp_fn and device_pp prepare images
  big_vision  .npz, parameters under big_vision's names
  safetensors .safetensors, parameters under vitjax's names, the config and the names of
              the classes, for any model; every tool and --config.model_init take it
  stablehlo   jax.export's serialised program, weights inside, for CPU, GPU and TPU: from
              uint8 images (b, height, width, channels), resized and cropped as in
              evaluation, to logits (b, classes), for any b. It is run and compared.
  onnx        the same program for onnxruntime, by jax2onnx

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/vit_s16_i1k --to timm vit.safetensors",
    "--ckpt runs/vit_s16_i1k --to huggingface vit",
    "--ckpt runs/vit_s16_i1k/best --to stablehlo vit.stablehlo",
)
TOLERANCE = 2e-4  # relative to the largest logit: float32, other summation order


def export(trained: "Trained", to: str, out: Path) -> str:
    """Write and check `trained`, a `vitjax.tools.trained.Trained`.

    `to` is one of FORMATS. Returns a description of the check. Raises ValueError, and
    leaves no file behind, if the export fails.
    """
    if to not in FORMATS:
        raise unknown(to, FORMATS, "format")
    if out.exists():
        raise ValueError(f"{out} exists already: give a new name")
    command.check_parent(out)
    from vitjax.tools import programs

    if to == "huggingface" and not out.suffix:
        return _folder(trained, out)
    if to in PROGRAMS:
        return programs.write(trained, to, out, _size(trained))
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


def _vit(trained: "Trained", to: str) -> "ViT":
    """Return the model; ValueError unless it is a ViT, which state dicts can hold."""
    from vitjax.models.vit import ViT

    if not isinstance(trained.model, ViT):
        raise ValueError(
            f"{to} cannot hold a model {trained.experiment.model_name!r}: give --to "
            "safetensors, stablehlo or onnx, which hold any"
        )
    return trained.model


def _state_dict(trained: "Trained", to: str, out: Path) -> str:
    """Write a state dict by vitjax.tools.convert, and compare the library's logits."""
    from vitjax.tools import convert
    from vitjax.weights import files, other_models

    model = _vit(trained, to)
    height, width, channels = _size(trained)
    rows, columns = model.patch_size
    convert.write(
        trained.params,
        trained.metadata(),
        out,
        to=to,
        posemb=model.posemb,
        grid=(height // rows, width // columns),
    )
    if to in ("big_vision", "mup_vit"):
        return "read back and compared to the bit"
    try:
        theirs = functools.partial(other_models.logits, to, model, files.read(out)[0])
        return _compared(trained, to, theirs, (height, width, channels))
    except BaseException:  # Ctrl-C too: no file stays that was not compared
        out.unlink()
        raise


def _folder(trained: "Trained", out: Path) -> str:
    """Write a folder of Hugging Face's files; compare the logits of its own class."""
    from vitjax.tools import pretrained_folder
    from vitjax.weights import other_models

    _vit(trained, "huggingface")
    shape = _size(trained)
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.partial-", dir=out.parent
    ) as name:
        folder = Path(name) / out.name
        pretrained_folder.write(trained, folder, shape)
        theirs = lambda images: other_models.run(
            other_models.from_pretrained(folder), images
        )
        checked = _compared(trained, "huggingface", theirs, shape)
        folder.rename(out)
    return checked


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("export", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    add = parser.add_argument
    add("--to", required=True, choices=FORMATS, metavar="FORMAT",
        help=f"format of OUT: {', '.join(FORMATS)}")  # fmt: skip
    command.add_image_size(parser, "the checkpoint does not store it")
    add(
        "out",
        type=places.local,
        metavar="OUT",
        help="a new file; a folder for huggingface",
    )
    flags, overrides = parse_with_overrides(
        parser, sys.argv[1:] if argv is None else argv
    )
    if flags.image_size is not None and flags.image_size < 1:
        parser.error(f"--image_size must be at least 1, got {flags.image_size}")

    def work() -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")  # no accelerator is needed

        trained = command.open_ckpt(flags, overrides)
        if flags.image_size is not None:
            trained = trained.for_images(flags.image_size)
        checked = export(trained, flags.to, flags.out)
        print(f"{flags.out}: {flags.to}; {checked}")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
