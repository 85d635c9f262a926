"""Open evaluators of a config on the parameters of a checkpoint."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from input_pipeline.sources import DataNotFound
from vitjax import data as data_lib
from vitjax.config import arguments
from vitjax.devices import sharding
from vitjax.evaluators import schedule
from vitjax.tools import eval_sizes
from vitjax.tools.eval_sizes import Size
from vitjax.tools.trained import Trained

KEPT = Size(None, None, None)  # the sizes of the run's pp_fn


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """An evaluator that is about to run."""

    evaluator: Any
    section: Mapping[str, Any]  # of the config
    data: Sequence[Any]  # the batches of each data set that it opened
    params: Any  # of the model, in numpy
    mesh: jax.sharding.Mesh

    def params_on_devices(self) -> Any:
        """Return the parameters on every device of the mesh."""
        return jax.device_put(self.params, sharding.replicated(self.mesh))


def open_all(
    trained: Trained,
    sections: Mapping[str, Mapping[str, Any]],
    *,
    sizes: Sequence[Size] = (),
    required: bool,
) -> dict[str, Opened]:
    """Open the evaluator of each section, by NAME or, with sizes, NAME@SIZE.

    Unless `required`, an optional evaluator without its data, and one of averaged
    parameters without --ema, are left out with a warning. Raises ValueError if nothing
    is left.
    """
    e = trained.experiment
    eval_data = functools.partial(
        data_lib.eval_data,
        class_names=trained.known_names(),
        num_classes=None if e.relabels else e.num_classes,
        tell=data_lib.once(lambda text: print(f"note: {text}", file=sys.stderr)),
    )
    found = {}
    for name, section in sections.items():
        for size in sizes or [KEPT]:
            parts = _open(trained, name, section, size, eval_data, required)
            if parts is not None:
                found[f"{name}@{size}" if str(size) else name] = parts
    if not found:
        raise ValueError(
            f"nothing to evaluate: the config of {trained.name} has no evaluator of the "
            "type 'classification' with a data set that is present; give another --config"
        )
    return found


def _open(
    trained: Trained,
    name: str,
    section: Mapping[str, Any],
    size: Size,
    eval_data: Callable[..., Any],
    required: bool,
) -> Opened | None:
    evaluator = schedule.evaluator_of(section)
    if section.get("params") == "ema" and trained.source != "ema":
        sentence = f"{name} is for averaged parameters: give --ema"
        if required:
            raise ValueError(sentence)
        print(f"warning: {sentence}", file=sys.stderr)
        return None
    e = trained.experiment
    if "fit_data" in arguments.parameters(evaluator)[0]:
        section = schedule.fed_as_classifier(dict(section), e.evals)
    elif getattr(trained.model, "num_classes", e.num_classes) is None:
        raise ValueError(
            f"{trained.name} has no head that names classes, which {name} needs: give "
            "--knn, --fewshot or --linear_probe"
        )
    if size.resolution is not None:
        trained = trained.at_size(size.resolution, size.resolution)
    pp_fn = eval_sizes.resized(section.get("pp_fn", ""), size)
    section = {**section, "pp_fn": pp_fn} if pp_fn else section
    mesh = sharding.make_mesh(e.mesh)
    batches: list[Any] = []

    def make_data(**kw: Any) -> Any:
        made, steps = eval_data(mesh)(**kw)
        batches.append(made)
        return made, steps

    def predict(params: Any, image: Any) -> Any:
        return trained.model.apply({"params": params}, image, train=False)

    rows = e.batch_size_eval or e.input.get("batch_size")
    given = {} if rows is None else {"batch_size": rows}
    try:
        made = arguments.call(
            f"evals.{name}",
            evaluator,
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
    return Opened(made, section, batches, trained.params, mesh)
