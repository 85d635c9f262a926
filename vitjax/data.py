"""Host batches on the devices: how training and evaluation are fed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitjax.config import arguments
from vitjax.config.experiment import Experiment
from vitjax.devices.sharding import batch_sharding


@dataclasses.dataclass(frozen=True)
class OnDevices:
    """Host batches as global arrays, made ahead; each iteration is one pass."""

    host_batches: Iterable[dict[str, np.ndarray]]
    mesh: jax.sharding.Mesh
    size: int = 2

    @property
    def class_names(self) -> Sequence[str] | None:
        """Of the data's classes, if it has names."""
        return getattr(self.host_batches, "class_names", None)

    def __iter__(self) -> Iterator[Mapping[str, jax.Array]]:
        from input_pipeline.prefetch import prefetch

        return prefetch(self.host_batches, batch_sharding(self.mesh), size=self.size)


def open_train(e: Experiment) -> tuple[Any, dict[str, int]]:
    """(training data, sizes) of a run: data_size, batch_size and total_steps.

    The data is an `input_pipeline.pipeline.TrainData`. Raises ValueError where the
    section `input` is wrong.
    """
    from input_pipeline import pipeline

    data, data_size = arguments.call(
        "input",
        pipeline.make_train,
        e.input,
        seed=e.seed,
        start_step=0,
        **processes(),
    )
    sizes = {"data_size": data_size, "batch_size": e.input["batch_size"]}
    return data, sizes | {"total_steps": e.steps("total", **sizes)}


def train_batches(
    data: Any, first_step: int, mesh: jax.sharding.Mesh, size: int
) -> Iterator[Mapping[str, jax.Array]]:
    """The batches after `first_step` steps on the devices, `size` of them made ahead."""
    return iter(OnDevices(data.from_step(first_step), mesh, size))


def model_classes(data: Any, e: Experiment) -> dict[str, Any]:
    """`class_names` and `num_classes` of the model, None where a lookup changes labels."""
    if e.relabels:
        return {"class_names": None, "num_classes": None}
    return {"class_names": data.class_names, "num_classes": e.num_classes}


def check_classes(found: int | None, e: Experiment) -> None:
    """Raise ValueError if the data has labels that no output of the model is for.

    onehot makes rows of zeros of them, without a word. A lookup may have changed them.
    """
    if found is not None and found > e.num_classes and not e.relabels:
        raise ValueError(
            f"the data has {found} classes, but num_classes is {e.num_classes}: set it, "
            "and the depth of onehot(...), to at least as many"
        )


def processes() -> dict[str, int]:
    """This process among all, as the input pipeline's makers take it."""
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def eval_data(
    mesh: jax.sharding.Mesh,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    tell: Callable[[str], None] = lambda notice: None,
) -> Callable[..., tuple[OnDevices, int]]:
    """make_data(data=, pp_fn=, batch_size=) for evaluators: (batches, steps).

    Labels are mapped to those of the model, whose classes are given; see
    `input_pipeline.pipeline.make_eval`. `tell` is told how, in one sentence.
    """

    def make_data(**section: Any) -> tuple[OnDevices, int]:
        from input_pipeline import pipeline

        section |= {"class_names": class_names, "num_classes": num_classes}
        section |= processes()
        host_batches, steps = pipeline.make_eval(**section)
        for notice in host_batches.notices:
            tell(notice)
        return OnDevices(host_batches, mesh), steps

    return make_data


def once(tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, on the first process alone, and never the same text twice."""
    told: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in told and jax.process_index() == 0:
            tell(text)
        told.add(text)

    return tell_once


def as_before(
    data: Any, where: str, kept: Mapping[str, Any], tell: Callable[[str], None]
) -> Any:
    """Training data with the labels that the model of a checkpoint knows.

    Args:
      data: an `input_pipeline.pipeline.TrainData`.
      where: the checkpoint, for messages.
      kept: what it keeps beside the state; what an older version of vitjax did not keep
        is not compared.
      tell: is told of what differs.

    Raises ValueError if the data has other classes.
    """
    from input_pipeline.sources.folder import FolderSource
    from input_pipeline.sources.relabel import OtherClasses

    cure = (
        f"put the classes of {where} back, or give another --workdir (with "
        f"--config.model_init={where} it starts from those parameters)"
    )
    names = kept.get("class_names")
    if kept and "class_names" not in kept and isinstance(data.source, FolderSource):
        names = sorted(data.source.class_names)  # that version's order
    if names is not None:
        try:
            relabelled = data.labelled_as(names)
        except OtherClasses as error:
            raise ValueError(
                f"the data has other classes than {where} was trained on: {error}; {cure}"
            ) from None
        if relabelled.source is not data.source:
            tell(f"the classes keep the labels that they have in {where}")
            data = relabelled
    before, now = kept.get("data_classes"), data.num_classes
    if None not in (before, now) and before != now:
        raise ValueError(
            f"the data has {now} classes, but {where} was trained on {before}; {cure}"
        )
    before, now = kept.get("data_size"), data.total_examples
    if before not in (None, now):
        tell(
            f"the data has {now:,} examples, but had {before:,} when {where} was "
            "written: from here on, epochs and the order of examples differ"
        )
    if kept and "data_size" not in kept and getattr(data.source, "as_seen", False):
        tell(
            f"{where} is of a version that read images as they are stored, neither turned "
            "nor composed on white: --config.input.data.as_seen=False goes on so"
        )
    return data
