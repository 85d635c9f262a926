"""Convert weights between formats.

`python -m vitjax.tools.convert runs/vit model.safetensors --to timm`

The written file is read back and compared bit by bit before it gets its final name.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import home, places
from vitjax.tools import command

if TYPE_CHECKING:
    import numpy as np

# Only light imports here, so that --help is fast.
STATE_DICTS = (
    "timm",
    "huggingface",
    "torchvision",
    "mup_vit",
)  # vitjax.weights.FORMATS
# Format -> its file suffixes.
FORMATS = {
    "big_vision": (".npz",),
    **dict.fromkeys(STATE_DICTS, (".safetensors", ".pth", ".pt", ".bin")),
}
POSEMBS = ("learn", "sincos2d", "none")  # vitjax.models.vit.POSEMBS
DESCRIPTION = """\
Convert the weights of a ViT between big_vision, timm, torchvision, Hugging Face and
mup-vit. The written file is read back and compared to the bit.

IN is one of: the workdir of a run (its newest checkpoint), WORKDIR/checkpoints/STEP;
a file.npz of big_vision, or one tree inside it, file.npz:img; a state dict of timm,
torchvision, Hugging Face or mup-vit in .safetensors, .pth, .pt, .bin, .ckpt or .pth.tar,
or one of several in a file, file.pth:state_dict_ema; the folder of a Hugging Face model.

A state dict stores neither the number of heads nor the GELU. The number is known for the
usual widths. A .safetensors file from this tool also keeps the number of heads, the run's
config, the size of its images and the names of its classes."""
EXAMPLES = (
    "runs/vit_s16_i1k vit.npz --to big_vision",
    "runs/fixed vit.safetensors --to timm --grid 14 14",
    "vit_b_16.pth vit_b16.npz --to big_vision",
    "model_best.pth.tar:state_dict_ema vit.npz --to big_vision",
)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str,
    posemb: str | None = None,
    grid: Sequence[int] | None = None,
    scan: bool = False,
    force: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Write the weights of `source` to `target`; return the model's arguments.

    Args:
      source: a path as in `vitjax.weights.load`.
      target: a file; its suffix selects the kind.
      to: a key of FORMATS.
      posemb, grid: the model's position embeddings and its patches, as in
        `vitjax.weights.load`.
      scan: stack the blocks; for big_vision only.
      force: replace an existing file.
      **given: other arguments of `vitjax.weights.load` that the source does not answer:
        format, num_heads, pool_type.

    Raises ValueError, and leaves no file behind, if the conversion fails.
    """
    from vitjax import weights
    from vitjax.weights import files

    _check_target(Path(target), to, scan, force)
    source = files.local(source)
    # For another library, a constant table in a state dict is as good as a learned one.
    keep = posemb or (None if to == "big_vision" else "learn")
    params, config = weights.load(source, posemb=keep, grid=grid, **given)
    posemb = posemb or _posemb(params, config)
    meta = weights.metadata(source)
    return write(
        params, meta, target, to=to, posemb=posemb, grid=grid, scan=scan, force=force
    )


def write(
    params: Mapping[str, Any],
    metadata: Mapping[str, Any],
    target: str | Path,
    *,
    to: str,
    posemb: str | None = None,
    grid: Sequence[int] | None = None,
    scan: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Convert numpy parameters, with `metadata` as `weights.metadata` returns it."""
    from vitjax import weights
    from vitjax.models import vit
    from vitjax.trees import count
    from vitjax.weights import files
    from vitjax.weights.formats import big_vision
    from vitjax.weights.state_dicts import loop_leaves

    target = Path(target)
    _check_target(target, to, scan, force)
    arguments = weights.model_arguments(params)
    options: dict[str, Any] = {"posemb": posemb, "grid": grid}
    if to == "big_vision":
        looped = "encoderblock" not in params["Transformer"]
        arrays = big_vision.flat(
            vit.loop_to_scan(params) if scan and looped else params
        )
    else:
        arrays = weights.to_state_dict(params, format=to, **options)
    options |= {key: arguments[key] for key in ("num_heads", "pool_type")}
    header = {
        "format": "pt",  # other readers of .safetensors expect it
        weights.WORD: json.dumps({**metadata, **options}),
    }
    partial = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        files.write(partial, arrays, header)
        _verify(partial, arrays, loop_leaves(params), to, options)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    _tell_normalisation(target, metadata.get("config"))
    return {**arguments, "posemb": posemb, "parameters": count(params)}


def _tell_normalisation(target: Path, config: Mapping[str, Any] | None) -> None:
    """Warn if nobody who reads the file will know how images are normalised."""
    from absl import logging

    from vitjax.weights import normalisation

    own = normalisation.of_config(config or {})
    found = normalisation.known(target)
    if own is not None and (found is None or not found.equals(own)):
        logging.warning(
            "%s does not keep the normalisation of images (%s): %s", target, own,
            "its readers need it" if found is None else f"its readers expect {found}",
        )  # fmt: skip


def _check_target(target: Path, to: str, scan: bool, force: bool) -> None:
    from vitjax.config.arguments import lookup

    suffixes = lookup(FORMATS, to, "format")
    if target.suffix not in suffixes:
        raise ValueError(
            f"{to} is written as {' or '.join(suffixes)}, got {str(target)!r}"
        )
    if scan and to != "big_vision":
        raise ValueError(f"--scan is for big_vision only, got --to {to}")
    if target.exists() and not force:
        raise ValueError(f"{str(target)!r} exists already; --force replaces it")
    command.check_parent(target)


def _posemb(params: Mapping[str, Any], config: Mapping[str, Any] | None) -> str | None:
    """Return the model's posemb by its parameters or its config; None if unknown."""
    if "pos_embedding" in params:
        return "learn"
    model = (config or {}).get("model") or {}
    return model.get("posemb")


def _verify(
    path: Path,
    arrays: Mapping[str, "np.ndarray"],
    leaves: Mapping[str, "np.ndarray"],
    to: str,
    options: Mapping[str, Any],
) -> None:
    """Raise ValueError unless the file holds the arrays and they convert back."""
    from vitjax import weights
    from vitjax.weights import files
    from vitjax.weights.state_dicts import loop_leaves

    stored, _ = files.read(path)
    _check_equal(arrays, stored, "was not stored as it was written")
    if to == "big_vision":
        back = weights.load(path)[0]
    else:
        back = weights.from_state_dict(stored, format=to, **options)
    _check_equal(leaves, loop_leaves(back), "does not come back from this format")


def _check_equal(
    expected: Mapping[str, "np.ndarray"], got: Mapping[str, "np.ndarray"], what: str
) -> None:
    for name in sorted(expected.keys() | got.keys()):
        a, b = expected.get(name), got.get(name)
        if (
            a is None
            or b is None
            or (a.dtype, a.shape) != (b.dtype, b.shape)
            or a.tobytes() != b.tobytes()
        ):
            raise ValueError(f"{name} {what}; the file is removed")


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = command.parser("convert", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add(
        "source",
        type=places.anywhere,
        metavar="IN",
        help="a run, or a file; see above",
    )
    add(
        "target",
        type=places.local_text,
        metavar="OUT",
        help="a new file: .npz, .safetensors, .pth, .pt, .bin",
    )
    add("--to", required=True, choices=FORMATS, metavar="FORMAT",
        help=f"format of OUT: {', '.join(FORMATS)}")  # fmt: skip
    add("--from", dest="format", choices=STATE_DICTS, metavar="FORMAT",
        help=f"format of IN, if it is a state dict: {', '.join(STATE_DICTS)} (default: from "
        "its keys)")  # fmt: skip
    add("--num_heads", type=int, metavar="N",
        help="heads of the model, if IN is a state dict of unusual width")  # fmt: skip
    add("--posemb", choices=POSEMBS, metavar="KIND",
        help=f"position embeddings of the model: {', '.join(POSEMBS)} (default: from "
        "IN or its run)")  # fmt: skip
    add("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"),
        help="patches of an image (224 pixels in patches of 16: 14 14); needed for "
        "constant position embeddings and for grids that are not square")  # fmt: skip
    add("--pool_type", choices=("tok", "gap", "map"), metavar="KIND",
        help="pooling of the model, if IN does not show whether it has a class token: "
        "tok, gap, map")  # fmt: skip
    add("--scan", action="store_true", help="stack the blocks (big_vision only)")
    add("--force", action="store_true", help="replace OUT if it exists")
    return parser.parse_args(home.expanded(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags))


def _work(flags: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # no accelerator is needed
    arguments = convert(**vars(flags))
    size = arguments.pop("parameters")
    off = ("pre_norm", "norm_after_pool", "distilled")  # printed only if set
    shown = {
        k: v for k, v in arguments.items() if v is not None and (v or k not in off)
    }
    listed = ", ".join(f"{k}={v!r}" for k, v in shown.items())
    print(
        f"{flags.target}: {flags.to}, {size:,} parameters, verified; a ViT of {listed}"
    )


if __name__ == "__main__":
    sys.exit(main())
