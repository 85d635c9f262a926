"""Evaluate a checkpoint: all metrics, per-class accuracy, calibration, probes, pictures.

`python -m vitjax.tools.evaluate --ckpt runs/quickstart`
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import places
from vitjax import markdown
from vitjax.config.files import parse_with_overrides
from vitjax.tools import command, probes

if TYPE_CHECKING:
    from vitjax.tools.opened import Opened
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

--evals also takes the config's probes of features, of the types fewshot, knn,
linear_probe and svc_probe. --fewshot, --knn and --linear_probe need no such section: they
fit on the training data (input.data), score the data of --evals (default: the evaluator
that classifies), and run alone. Weights need no head for them, and the classes may differ
from the head's.

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
    "--ckpt runs/quickstart --knn 20 --linear_probe\n--fewshot 1 5",
    "--ckpt runs/quickstart --predictions digits.csv",
)
NUM_SAMPLES = 10
SHOWN = ("prec@1", "prec@5", "loss", "ece", "macro_f1", "examples")  # in report.md


def evaluate(
    trained: "Trained",
    names: Sequence[str],
    out: Path,
    *,
    save_logits: bool = False,
    predictions: Path | None = None,
    sizes: Sequence[Any] = (),
    probes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Evaluate `trained`, a `vitjax.tools.trained.Trained`, and write the report.

    `names` are evaluators; empty means all that classify. `probes` are sections that run
    instead. `sizes` are `eval_sizes.Size`s, with a row of the report for each; () is the
    run's size. `predictions` is a file for a row of each example. Returns the content of
    report.json. Raises ValueError if there is nothing to evaluate. The files are moved
    to `out` once all are complete.
    """
    from vitjax.evaluators import schedule
    from vitjax.files import or_without
    from vitjax.tools import eval_sizes, example_rows, tables
    from vitjax.tools.opened import open_all

    command.check_folder("--out", out)
    tables.check("--predictions", predictions)
    chosen = names or schedule.classifiers(trained.experiment.evals)
    sections = probes or {name: trained.evaluator(name)[1] for name in chosen}
    opened = open_all(
        trained, sections, sizes=sizes, required=bool(names) or bool(probes)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    found: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    prefix = f".{out.name}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as partial:
        folder = Path(partial)
        for row, parts in opened.items():
            if not schedule.classifies(parts.section):
                params = parts.params_on_devices()
                # A probe reads no more of the state than its parameters.
                found[row] = dict(parts.evaluator.run(params))
                continue
            results[row], its, index, samples = _evaluated(row, parts)
            _draw(folder, row, trained, its, samples)
            if save_logits:
                _save_logits(folder / f"{row}_logits.npz", its)
            if predictions is not None:
                rows.append(example_rows.columns(row, its, index, parts.data[0]))
        if len(results) > 1 and len(sizes) > 1:
            with or_without("sizes.png"):
                eval_sizes.draw(folder / "sizes.png", results)
        report = _write(folder, trained, results, found)
        out.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.replace(out / path.name)
    if predictions is not None:
        tables.write(predictions, example_rows.joined(rows))
    return report


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


def _evaluated(name: str, opened: "Opened") -> tuple[dict[str, Any], Any, Any, Any]:
    """Return (entry of report.json, predictions, indices, first images with theirs)."""
    import numpy as np
    from flax.errors import FlaxError
    from tqdm import tqdm

    from vitjax.config import arguments
    from vitjax.tools import predictions as predictions_lib

    params, evaluator = opened.params_on_devices(), opened.evaluator
    names = opened.data[0].class_names
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
    logits, labels, index = (
        np.concatenate([part[key] for part in parts])
        for key in ("logits", "labels", "index")
    )
    predictions = predictions_lib.Predictions(logits, labels, names)
    own = arguments.parameters(type(evaluator))[0]["loss_name"].default
    loss_name = opened.section.get("loss_name", own)
    result = {
        **predictions_lib.summary(predictions, loss_name),
        "per_class": predictions_lib.per_class(predictions),
        "calibration": predictions_lib.calibration(predictions)[1],
        "confusion": predictions_lib.confusion(predictions).tolist(),
        "classification_report": predictions_lib.classification_report(predictions),
    }
    first = evaluator.samples(params, NUM_SAMPLES)
    few = predictions_lib.Predictions(first["logits"], first["labels"], names)
    return result, predictions, index, (first["image"], few)


def _save_logits(path: Path, predictions: Any) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez_compressed(file, logits=predictions.logits, labels=predictions.labels)


def _write(
    folder: Path,
    trained: "Trained",
    results: Mapping[str, Any],
    probed: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Write report.json and report.md; return the content of report.json."""
    report = {
        "checkpoint": trained.name,
        "step": trained.step,
        "parameters": trained.source,
        "evals": results,
        **({"probes": probed} if probed else {}),
    }
    (folder / "report.json").write_text(command.as_json(report) + "\n")
    columns = [
        key for key in SHOWN if any(key in result for result in results.values())
    ]
    shown = [
        (name, *(_number(result[key]) for key in columns))
        for name, result in results.items()
    ]
    parts = [f"{trained.name}, {trained.source}"]
    if results:
        parts.append(markdown.table(("evaluator", *columns), shown))
    if probed:
        lines = [
            (row, k, f"{x:.4g}") for row, of in probed.items() for k, x in of.items()
        ]
        parts.append(markdown.table(("probe", "metric", "value"), lines))
    for name, result in results.items():
        rows = [r for r in result["per_class"] if r["accuracy"] is not None]
        rows.sort(key=lambda row: row["accuracy"])
        few = rows[:5] if len(rows) > 10 else rows
        parts.append(f"{name}: the classes with the lowest accuracy")
        hardest = [(r["class"], r["examples"], f"{r['accuracy']:.4f}") for r in few]
        parts.append(markdown.table(("class", "examples", "accuracy"), hardest))
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")
    return report


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("evaluate", DESCRIPTION, EXAMPLES)
    command.add_ckpt(parser)
    command.add_evals(parser)
    command.add_out(
        parser, "DIR", "the report", "WORKDIR/evaluation-STEP; needed for a bucket"
    )
    command.add_json(parser)
    add = parser.add_argument
    add("--save_logits", action="store_true", help="keep the logits of every example")
    add("--predictions", type=places.local, metavar="FILE",
        help="write a row for each example: .csv, or .parquet (default: none)")  # fmt: skip
    add("--resolution", nargs="+", type=int, default=(), metavar="PIXELS",
        help="height and width of the model's images (default: the config's)")  # fmt: skip
    add("--crop_ratio", nargs="+", type=float, default=(), metavar="RATIO",
        help="share of the resized image's smaller side that is kept, above 0 and at "
        "most 1; 1.0 crops nothing of it (default: the config's)")  # fmt: skip
    add("--resize_method", nargs="+", default=(), metavar="METHOD",
        help="how pixels are resampled: bilinear, bicubic, area, lanczos3, ... "
        "(default: the config's)")  # fmt: skip
    probes.add_flags(parser)
    flags, overrides = parse_with_overrides(parser, argv)
    probes.check_flags(parser, flags)
    if flags.predictions is not None and probes.asked(flags):
        parser.error("--predictions are a head's, which a probe does not use")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    from vitjax.tools.eval_sizes import sizes
    from vitjax.weights import files

    command.check_out(flags.out, flags.ckpt)
    asked = bool(probes.asked(flags))
    trained = command.open_ckpt(flags, overrides, head=not asked)
    sections = {}
    if asked:
        names = flags.evals or [trained.evaluator()[0]]
        scored = {name: trained.evaluator(name)[1] for name in names}
        sections = probes.sections(flags, scored, trained.experiment.input["data"])
    file, chosen = files.split(flags.ckpt)
    of = "-".join(filter(None, (file.stem, *chosen.split("/"))))
    of = of if trained.step is None else str(trained.step)
    what = "probes" if asked else "evaluation"
    out = flags.out or trained.workdir / f"{what}-{of}{'-ema' if flags.ema else ''}"
    report = evaluate(
        trained,
        flags.evals,
        out,
        save_logits=flags.save_logits,
        predictions=flags.predictions,
        sizes=sizes(flags.resolution, flags.crop_ratio, flags.resize_method),
        probes=sections,
    )
    if flags.json:
        print(command.as_json(report))
        print(f"written: {os.path.relpath(out)}", file=sys.stderr)
    else:
        tell(out)


if __name__ == "__main__":
    sys.exit(main())
