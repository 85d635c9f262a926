"""Open the data of training and evaluation, and move its batches to the devices."""

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
    """Host batches as global arrays, prefetched; each iteration is one pass."""

    host_batches: Iterable[dict[str, np.ndarray]]
    mesh: jax.sharding.Mesh
    size: int = 2

    @property
    def class_names(self) -> Sequence[str] | None:
        """The names of the classes, or None if the data has none."""
        return getattr(self.host_batches, "class_names", None)

    def __iter__(self) -> Iterator[Mapping[str, jax.Array]]:
        from input_pipeline.prefetch import prefetch

        return prefetch(self.host_batches, batch_sharding(self.mesh), size=self.size)


def open_train(e: Experiment) -> tuple[Any, dict[str, int]]:
    """Return (training data, sizes) of a run: data_size, batch_size and total_steps.

    The data is an `input_pipeline.pipeline.TrainData`. Raises ValueError if the config
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
    """Yield the batches after `first_step` on the devices, `size` prefetched."""
    return iter(OnDevices(data.from_step(first_step), mesh, size))


def model_classes(data: Any, e: Experiment) -> dict[str, Any]:
    """Return the model's `class_names` and `num_classes`; None if a lookup relabels."""
    if e.relabels:
        return {"class_names": None, "num_classes": None}
    return {"class_names": data.class_names, "num_classes": e.num_classes}


def check_classes(
    found: int | None, e: Experiment, tell: Callable[[str], None]
) -> None:
    """Raise ValueError if the data has more classes than the model has outputs.

    The op onehot silently turns such labels into rows of zeros. `tell` gets a sentence
    if the data has fewer. There is no check if a lookup changes the labels.
    """
    if found is not None and found > e.num_classes and not e.relabels:
        raise ValueError(
            f"the data has {found} classes, but num_classes is {e.num_classes}: set it, "
            "and the depth of onehot(...), to at least as many"
        )
    if found is not None and found < e.num_classes and not e.relabels:
        tell(
            f"the data has {found} classes, but num_classes is {e.num_classes}: the "
            "model's other outputs learn no class"
        )


def processes() -> dict[str, int]:
    """Return this process's index and the number of processes, for input_pipeline."""
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
    note: Callable[[Any], None] = lambda prepared: None,
) -> Callable[..., tuple[OnDevices, int]]:
    """Return the evaluators' make_data(data=, pp_fn=, batch_size=) -> (batches, steps).

    It maps labels to those of the model, whose classes are given; see
    `input_pipeline.pipeline.make_eval`. `tell` gets one sentence on each mapping, `note`
    the `prepared` of each data set.
    """

    def make_data(**section: Any) -> tuple[OnDevices, int]:
        from input_pipeline import pipeline

        section |= {"class_names": class_names, "num_classes": num_classes}
        section |= processes()
        host_batches, steps = pipeline.make_eval(**section)
        for notice in host_batches.notices:
            tell(notice)
        note(host_batches.prepared)
        return OnDevices(host_batches, mesh), steps

    return make_data


def once(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Wrap `tell` to pass on each text once, and only on the first process."""
    seen: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in seen and jax.process_index() == 0:
            tell(text)
        seen.add(text)

    return tell_once


def as_before(
    data: Any, where: str, kept: Mapping[str, Any], tell: Callable[[str], None]
) -> Any:
    """Return the training data with the labels of a checkpoint's model.

    Args:
      data: an `input_pipeline.pipeline.TrainData`.
      where: the checkpoint, for messages.
      kept: the checkpoint's JSON item. Entries that an older version of vitjax did not
        write are not compared.
      tell: gets a sentence on each difference.

    Raises ValueError if the classes of the data differ.
    """
    from input_pipeline.sources.folder import FolderSource
    from input_pipeline.sources.relabel import OtherClasses

    cure = (
        f"restore the classes of {where}, or choose another --workdir "
        f"(--config.model_init={where} starts from those parameters)"
    )
    names = kept.get("class_names")
    if kept and "class_names" not in kept and isinstance(data.source, FolderSource):
        names = sorted(data.source.class_names)  # the order of that version
    if names is not None:
        try:
            relabelled = data.labelled_as(names)
        except OtherClasses as error:
            raise ValueError(
                f"the data has other classes than {where} was trained on: {error}; {cure}"
            ) from None
        if relabelled.source is not data.source:
            tell(f"the classes keep their labels from {where}")
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
            "written: from now on, epochs and the order of examples differ"
        )
    before, now = kept.get("prepared"), data.prepared
    if kept and _resized(before) != _resized(now):
        tell(
            f"the images were {_in_words(now)} before, but those of {where} were "
            f"{_in_words(before)}: from now on, it learns from other pixels"
        )
    if kept and "data_size" not in kept and getattr(data.source, "as_seen", False):
        tell(
            f"{where} was written by a version that read images as stored, not rotated by "
            "EXIF nor composited on white: --config.input.data.as_seen=False does the same"
        )
    return data


def _resized(prepared: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what was done to a data set's images, without its folder."""
    return {k: x for k, x in (prepared or {}).items() if k != "folder"}


def _in_words(prepared: Mapping[str, Any] | None) -> str:
    if prepared is None:
        return "not resized"
    how = ", ".join(f"{k}={x!r}" for k, x in sorted(_resized(prepared).items()))
    return f"resized ({how})"
