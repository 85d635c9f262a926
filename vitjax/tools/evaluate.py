"""Evaluate a checkpoint: all metrics, per-class accuracy, calibration, pictures.

`python -m vitjax.tools.evaluate --ckpt runs/quickstart`
"""

import functools
import os
import sys
import tempfile
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
DESCRIPTION = f"""\
Run the evaluators of a checkpoint's config that classify (all, or those named by
--evals) over every example, and write into --out:

  report.md, report.json   top-1, top-5, loss, calibration (ECE), macro F1; accuracy of
                           each class, confusion matrix, scikit-learn's classification
                           report (the last three in report.json only)
  NAME.png                 confusion matrix, accuracy per class, reliability diagram
  NAME_samples.png         the first ten examples, with label and prediction
  NAME_logits.npz          with --save_logits: logits and labels of every example
  sizes.png                with several sizes: top-1 of each

--resolution, --crop_ratio and --resize_method evaluate every combination of their values:
the smaller side is resized to resolution / crop_ratio, the middle is cropped, learned
position embeddings are resampled. A file of weights (.npz, .safetensors, .pth, a Hugging
Face folder) needs --config, which says what is evaluated and how images are prepared; a
.safetensors file that vitjax wrote has its own.

A missing data set ends the command before anything is written. If its evaluator has
required=False and --evals does not name it, it is left out with a warning.

{command.OVERRIDES}"""
EXAMPLES = (
    "--ckpt runs/quickstart",
    "--ckpt runs/vit_s16_i1k/best --evals val v2 real\n--save_logits",
    "--ckpt runs/vit_s16_i1k --resolution 224 256 288\n--crop_ratio 0.875 1.0",
    "--ckpt vit.npz --config configs/vit_s16_i1k.py",
)
NUM_SAMPLES = 10
SHOWN = ("prec@1", "prec@5", "loss", "ece", "macro_f1", "examples")  # in report.md


def evaluate(
    trained: "Trained",
    names: Sequence[str],
    out: Path,
    *,
    save_logits: bool = False,
    sizes: Sequence[Any] = (),
) -> dict[str, Any]:
    """Evaluate `trained`, a `vitjax.tools.trained.Trained`, and write the report.

    `names` are evaluators; empty means all that classify. `sizes` are
    `eval_sizes.Size`s, with a row of the report for each; () is the run's size. Returns
    the content of report.json. Raises ValueError if there is nothing to evaluate. The
    files are moved to `out` once all are complete.
    """
    from vitjax.files import or_without
    from vitjax.tools import eval_sizes

    command.check_folder("--out", out)
    opened = _opened(trained, names, sizes)
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    prefix = f".{out.name}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as partial:
        folder = Path(partial)
        for row, parts in opened.items():
            results[row], predictions, samples = _evaluated(row, *parts)
            _draw(folder, row, trained, predictions, samples)
            if save_logits:
                _save_logits(folder / f"{row}_logits.npz", predictions)
        if len(sizes) > 1:
            with or_without("sizes.png"):
                eval_sizes.draw(folder / "sizes.png", results)
        report = _write(folder, trained, results)
        out.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.replace(out / path.name)
    return report


def _opened(
    trained: "Trained", names: Sequence[str], sizes: Sequence[Any]
) -> dict[str, tuple[Any, ...]]:
    """Open the evaluator of each row of the report, by the row's name."""
    from vitjax import data as data_lib
    from vitjax.evaluators import schedule
    from vitjax.tools.eval_sizes import Size

    e = trained.experiment
    eval_data = functools.partial(
        data_lib.eval_data,
        class_names=trained.known_names(),
        num_classes=None if e.relabels else e.num_classes,
        tell=data_lib.once(lambda text: print(f"note: {text}", file=sys.stderr)),
    )
    opened = {}
    for name in names or schedule.classifiers(e.evals):
        for size in sizes or [Size(None, None, None)]:
            parts = _open(trained, name, size, eval_data, required=bool(names))
            if parts is not None:
                opened[f"{name}@{size}" if str(size) else name] = parts
    if not opened:
        raise ValueError(
            f"nothing to evaluate: the config of {trained.name} has no evaluator of the "
            "type 'classification' with a data set that is present; give another --config"
        )
    return opened


def tell(out: Path) -> None:
    """Print the report that `evaluate` wrote."""
    print(f"\n{(out / 'report.md').read_text()}\nwritten: {os.path.relpath(out)}")


def _draw(
    folder: Path,
    row: str,
    trained: "Trained",
    predictions: Any,
    samples: tuple[Any, Any],
) -> None:
    """Draw the two pictures of one evaluator."""
    from vitjax.files import or_without
    from vitjax.tools import prediction_pictures

    of = f"{row} of {trained.name}"
    if trained.source != "params":
        of += f" ({trained.source})"
    with or_without(f"{row}.png"):
        prediction_pictures.draw_report(folder / f"{row}.png", predictions, of)
    with or_without(f"{row}_samples.png"):
        prediction_pictures.draw_samples(folder / f"{row}_samples.png", *samples)


def _open(
    trained: "Trained",
    name: str,
    size: Any,
    eval_data: Callable[..., Any],
    required: bool,
) -> Any:
    """Return (parameters, evaluator, data, loss name, mesh); None if it is left out.

    Unless `required`, an optional evaluator without its data, and one of averaged
    parameters without --ema, are left out with a warning.
    """
    from input_pipeline.sources import DataNotFound
    from vitjax.config import arguments
    from vitjax.devices import sharding
    from vitjax.evaluators import schedule
    from vitjax.evaluators.classification import Classification
    from vitjax.tools import eval_sizes

    _, section = trained.evaluator(name)
    kind = section.get("type", "classification")
    if kind != "classification":
        raise ValueError(
            f"evaluator {name!r} must be of the type 'classification', which has logits, "
            f"got {kind!r}: name another in --evals"
        )
    if section.get("params") == "ema" and trained.source != "ema":
        sentence = f"{name} is for averaged parameters: give --ema"
        if required:
            raise ValueError(sentence)
        print(f"warning: {sentence}", file=sys.stderr)
        return None
    if size.resolution is not None:
        trained = trained.at_size(size.resolution, size.resolution)
    pp_fn = eval_sizes.resized(section.get("pp_fn", ""), size)
    section = {**section, "pp_fn": pp_fn} if pp_fn else section
    e = trained.experiment
    mesh = sharding.make_mesh(e.mesh)
    opened: list[Any] = []

    def make_data(**kw: Any) -> Any:
        batches, steps = eval_data(mesh)(**kw)
        opened.append(batches)
        return batches, steps

    def predict(params: Any, image: Any) -> Any:
        return trained.model.apply({"params": params}, image, train=False)

    given = {"batch_size": e.batch_size_eval or e.input["batch_size"]}
    try:
        evaluator = arguments.call(
            f"evals.{name}",
            Classification,
            given | schedule.own_arguments(section),
            predict=predict,
            make_data=make_data,
            mesh=mesh,
        )
    except DataNotFound as error:
        if required or section.get("required", True):
            raise
        print(f"warning: {name} is left out: {error}", file=sys.stderr)
        return None
    loss_name = section.get("loss_name", "sigmoid_xent")
    return trained.params, evaluator, opened[0], loss_name, mesh


def _evaluated(
    name: str, params: Any, evaluator: Any, data: Any, loss_name: str, mesh: Any
) -> tuple[dict[str, Any], Any, Any]:
    """Return (entry of report.json, predictions, first images with predictions)."""
    import jax
    import numpy as np
    from flax.errors import FlaxError
    from tqdm import tqdm

    from vitjax.devices.sharding import replicated
    from vitjax.tools import predictions as predictions_lib

    params = jax.device_put(params, replicated(mesh))
    bar = tqdm(
        evaluator.outputs(params),
        desc=name,
        total=evaluator.steps,
        unit="batch",
        disable=None,  # no bar unless stderr is a terminal
    )
    try:
        parts = list(bar)
    except FlaxError as error:
        why = " ".join(str(error).split()).partition(" (https:")[0]
        raise ValueError(f"{name}: the images do not fit the model: {why}") from error
    logits, labels = (
        np.concatenate([part[key] for part in parts]) for key in ("logits", "labels")
    )
    predictions = predictions_lib.Predictions(logits, labels, data.class_names)
    result = {
        **predictions_lib.summary(predictions, loss_name),
        "per_class": predictions_lib.per_class(predictions),
        "calibration": predictions_lib.calibration(predictions)[1],
        "confusion": predictions_lib.confusion(predictions).tolist(),
        "classification_report": predictions_lib.classification_report(predictions),
    }
    first = evaluator.samples(params, NUM_SAMPLES)
    few = predictions_lib.Predictions(
        first["logits"], first["labels"], data.class_names
    )
    return result, predictions, (first["image"], few)


def _save_logits(path: Path, predictions: Any) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez_compressed(file, logits=predictions.logits, labels=predictions.labels)


def _write(
    folder: Path, trained: "Trained", results: Mapping[str, Any]
) -> dict[str, Any]:
    """Write report.json and report.md; return the content of report.json."""
    report = {
        "checkpoint": trained.name,
        "step": trained.step,
        "parameters": trained.source,
        "evals": results,
    }
    (folder / "report.json").write_text(command.as_json(report) + "\n")
    columns = [
        key for key in SHOWN if any(key in result for result in results.values())
    ]
    shown = [
        (name, *(_number(result[key]) for key in columns))
        for name, result in results.items()
    ]
    parts = [
        f"{trained.name}, {trained.source}",
        command.table(("evaluator", *columns), shown),
    ]
    for name, result in results.items():
        rows = [r for r in result["per_class"] if r["accuracy"] is not None]
        rows.sort(key=lambda row: row["accuracy"])
        few = rows[:5] if len(rows) > 10 else rows
        parts.append(f"{name}: the classes with the lowest accuracy")
        hardest = [(r["class"], r["examples"], f"{r['accuracy']:.4f}") for r in few]
        parts.append(command.table(("class", "examples", "accuracy"), hardest))
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")
    return report


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("evaluate", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    command.add_norm(parser)
    command.add_evals(parser)
    command.add_out(parser, "DIR", "the report", "WORKDIR/evaluation-STEP")
    command.add_json(parser)
    add = parser.add_argument
    add("--save_logits", action="store_true", help="keep the logits of every example")
    add("--resolution", nargs="+", type=int, default=(), metavar="PIXELS",
        help="height and width of the model's images (default: the config's)")  # fmt: skip
    add("--crop_ratio", nargs="+", type=float, default=(), metavar="RATIO",
        help="share of the resized image's smaller side that is kept, above 0 and at "
        "most 1; 1.0 crops nothing of it (default: the config's)")  # fmt: skip
    add("--resize_method", nargs="+", default=(), metavar="METHOD",
        help="how pixels are resampled: bilinear, bicubic, area, lanczos3, ... "
        "(default: the config's)")  # fmt: skip
    flags, overrides = parse_with_overrides(
        parser, sys.argv[1:] if argv is None else argv
    )

    def work() -> None:
        from vitjax.tools.eval_sizes import sizes
        from vitjax.tools.trained import open_trained
        from vitjax.weights import files

        chosen = sizes(flags.resolution, flags.crop_ratio, flags.resize_method)
        trained = open_trained(
            flags.ckpt,
            config=flags.config,
            overrides=overrides,
            ema=flags.ema,
            norm=flags.norm,
        )
        file, asked = files.split(flags.ckpt)
        of = "-".join(filter(None, (file.stem, *asked.split("/"))))
        of = of if trained.step is None else str(trained.step)
        name = f"evaluation-{of}{'-ema' if flags.ema else ''}"
        out = flags.out or trained.workdir / name
        report = evaluate(
            trained, flags.evals, out, save_logits=flags.save_logits, sizes=chosen
        )
        if flags.json:
            print(command.as_json(report))
            print(f"written: {os.path.relpath(out)}", file=sys.stderr)
        else:
            tell(out)

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
