"""Show what the training stream does: to one example op by op, or to a batch.

The step's ops are shown up to randaug, if it is one of them.
"""

import inspect
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import jax
import numpy as np
import tensorflow as tf

from input_pipeline import device_ops
from input_pipeline.look import charts
from input_pipeline.ops import OPS, Preprocess, op_of
from input_pipeline.pipeline import TrainData
from input_pipeline.spec import OpCall, build_keyed, parse
from input_pipeline.stream import batching, damaged, order

BATCH_SHOWN = 32
# Policies whose first argument is a number of layers, and which read their plan in
# order: the first n layers of many are those of a policy of n layers.
LAYERED = {"randaug": "num_layers", "randaug_tv": "num_ops"}


class Shown(NamedTuple):
    """One part of an example's story: an op, or a layer of an op."""

    op: str
    lines: list[str]  # the random draws
    features: dict[str, Any]  # after it


class Story(NamedTuple):
    """An example of an epoch, from its source to the batch."""

    name: str  # what the source calls it
    place: str  # its position in the stream
    raw: dict[str, Any]
    parts: list[Shown]


def tell(
    data: TrainData, pp: str, epoch: int, index: int, device_pp: str = ""
) -> Story:
    """Return everything that happens to example `index` of the stream in `epoch`.

    `pp` is the text of `data.preprocess`, and `device_pp` of the step's ops. Raises ValueError for an index or epoch out
    of range, or an example that cannot be read.
    """
    size = len(data.source)
    if not 0 <= index < size:
        raise ValueError(
            f"the index must be in 0 to {size - 1}, as the data has {size} examples, but "
            f"it is {index}"
        )
    if not 0 <= epoch < 2**32:
        raise ValueError(f"the epoch is counted from 0, but it is {epoch}")
    start, stop = data.span(epoch, index)
    _, indices = data.example_at(tf.range(start, stop, dtype=tf.int64))
    position = start + int(np.flatnonzero(indices.numpy() == index)[0])
    step, row = divmod(position, data.rows.batch_size)
    place = f"row {row} of the batch of step {step}, both counted from 0"
    if data.shuffle_buffer_size is not None:
        place += (
            " (with the global shuffle: with a buffer its place depends on the run)"
        )

    seeds = (
        order.example_seed(epoch, index, seed=data.seed),
        order.batch_seed(tf.constant(step, tf.int64), seed=data.seed),
    )
    explained = iter(data.preprocess.explain(data.preprocess.draw(*seeds)).values())

    def after(calls: list[OpCall], last: bool = False) -> dict[str, Any]:
        preprocess, read = Preprocess("|".join(map(_text, calls))), data.source.read
        place = tf.constant(epoch, tf.int64), tf.constant(index, tf.int64)
        asked = place[1], batching.chances(preprocess, *seeds, *place)
        try:
            if last:  # a graph, as in the stream, takes seconds for randaug
                inputs = tf.data.Dataset.from_tensors(asked)
                examples = batching.map_examples(inputs, preprocess, 1, read)
                example: Any = next(examples.as_numpy_iterator())
                return example
            features = batching.example_fn(preprocess, read)(*asked)
            return tf.nest.map_structure(lambda value: value.numpy(), features)
        except tf.errors.OpError as e:
            raise ValueError(
                f"{data.source.describe(index)} cannot be read: {damaged.reason(e)}"
            ) from None

    calls, steps = parse(pp), []
    for at, call in enumerate(calls):
        decided = op_of(call).takes in ("policy", "plan", "coin")
        lines = next(explained) if decided else []
        text, layers = _title(call), _layers(call)
        for number in range(1, layers):
            fewer = _with_layers(call, number)
            name = f"{text}, layer {number}"
            before = [*calls[:at], fewer]
            steps.append(Shown(name, lines[number - 1 : number], after(before)))
        name = f"{text}, layer {layers}" if layers > 1 else text
        features = after(calls[: at + 1], last=at + 1 == len(calls))
        steps.append(Shown(name, lines[max(layers - 1, 0) :], features))
    steps += _in_the_step(device_pp, steps[-1].features if steps else after([]))
    return Story(data.source.describe(index), place, after([]), steps)


def _in_the_step(device_pp: str, features: dict[str, Any]) -> list[Shown]:
    """Return the parts of the step's ops up to the last randaug."""
    calls = parse(device_pp)
    while calls and calls[-1].name != "randaug":
        calls.pop()
    steps = []
    for at, call in enumerate(calls):
        before, layers = calls[:at], _layers(call)
        text = f"{_title(call)}, in the step"
        lines: list[str] = []
        if call.name == "randaug":
            nth = sum(earlier.name == "randaug" for earlier in before)
            plan = features.get(f"randaug_plan_{nth}" if nth else "randaug_plan")
            policy, _, _ = build_keyed(call, device_ops.OPS["randaug"].make)
            lines = [] if plan is None else policy.explain(plan)
        for number in range(1, layers):
            shown = _on_devices([*before, _with_layers(call, number)], features)
            steps.append(
                Shown(f"{text}, layer {number}", lines[number - 1 : number], shown)
            )
        name = f"{text}, layer {layers}" if layers > 1 else text
        shown = _on_devices([*before, call], features)
        steps.append(Shown(name, lines[max(layers - 1, 0) :], shown))
    return steps


def _on_devices(calls: list[OpCall], features: dict[str, Any]) -> dict[str, Any]:
    """Return one example's features after ops of the step."""
    batch = _numbers(
        {name: np.asarray(value)[None] for name, value in features.items()}
    )
    after = jax.jit(device_ops.get_preprocess_fn("|".join(map(_text, calls))))(batch)
    return {name: np.asarray(value)[0] for name, value in after.items()}


def _numbers(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in batch.items() if np.issubdtype(v.dtype, np.number)}


def _text(call: OpCall) -> str:
    """Return the full text of the op, for a spec."""
    arguments = [*map(repr, call.args), *(f"{k}={v!r}" for k, v in call.kwargs.items())]
    return f"{call.name}({', '.join(arguments)})"


def _title(call: OpCall) -> str:
    """Return the op as it was written, or in full if that text was shortened."""
    return _text(call) if call.text.endswith("...") else call.text


def _layers(call: OpCall) -> int:
    """Return how many layers the op shows one by one; 0 if it has none."""
    if call.name not in LAYERED:
        return 0
    name = LAYERED[call.name]
    default = inspect.signature(OPS[call.name].make).parameters[name].default
    return call.args[0] if call.args else {name: default, **call.kwargs}[name]


def _with_layers(call: OpCall, number: int) -> OpCall:
    if call.args:
        return call._replace(args=(number, *call.args[1:]))
    return call._replace(kwargs={**call.kwargs, LAYERED[call.name]: number})


def report(story: Story, epoch: int, index: int) -> str:
    """Return the story as lines of text."""
    lines = [f"example {index} in epoch {epoch}: {story.name}", story.place, ""]
    lines += [f"as read: {_sizes(story.raw)}"]
    for number, shown in enumerate(story.parts, start=1):
        lines.append(f"{number}. {shown.op}")
        lines += [f"     {line}" for line in shown.lines]
        lines.append(f"   -> {_sizes(shown.features)}")
    return "\n".join(lines)


def _sizes(features: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_size(value)}"
        for name, value in sorted(features.items())
        if name != "_id"
    )


def _size(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    value = np.asarray(value)
    if value.ndim == 0:
        return f"{value}"
    sides = " x ".join(map(str, value.shape))
    if not np.issubdtype(value.dtype, np.number) or not value.size:
        return f"{value.dtype} {sides}"
    return f"{value.dtype} {sides} of {value.min():g} to {value.max():g}"


def panels(story: Story) -> list[tuple[str, str, np.ndarray]]:
    """Return (title, text, image) of each part after which there is an image.

    Steps that neither change the image nor draw for it, such as keep, are left out.
    """
    shown: list[tuple[str, str, np.ndarray]] = []
    first = story.raw.get("image")
    decoded = any(part.op.split("(")[0] == "decode" for part in story.parts)
    if isinstance(first, bytes) and not decoded:  # to compare with its crop
        first = Preprocess("decode")({"image": first})["image"].numpy()
    if _is_image(first):
        shown.append(("as read", "", first))
    for part in story.parts:
        image = part.features.get("image")
        if not _is_image(image):
            continue
        same = shown and np.array_equal(shown[-1][2], image)
        if not same or part.lines:
            shown.append((part.op, "\n".join(part.lines), image))
    return shown


def _is_image(value: Any) -> TypeGuard[np.ndarray]:
    """Return whether `value` can be shown: grey or coloured, and not bytes."""
    return isinstance(value, np.ndarray) and (
        value.ndim == 2 or (value.ndim == 3 and value.shape[-1] in (1, 3, 4))
    )


def draw_story(path: Path, story: Story, epoch: int, index: int) -> None:
    """Draw the image after each part. Raise ValueError if there never is one."""
    images = panels(story)
    if not images:
        raise ValueError("the preprocessing leaves no image to draw: leave out --out")
    title = f"example {index} in epoch {epoch}\n{story.place}"
    charts.draw_images(path, title, images, columns=6)


def draw_batch(path: Path, data: TrainData, device_pp: str = "") -> None:
    """Draw the first images of the first training batch.

    They are drawn as they leave the host or, with randaug in `device_pp`, after it.
    """
    batch = next(iter(data))
    size = len(next(iter(batch.values())))
    augment, _ = device_ops.in_two(device_pp)
    if augment is not None:
        first = {name: value[:BATCH_SHOWN] for name, value in batch.items()}
        done = jax.device_get(jax.jit(augment)(_numbers(first)))
        batch = {**first, **done}
    if "image" not in batch or not _is_image(batch["image"][0]):
        raise ValueError("the preprocessing leaves no image to draw in the batch")
    images = batch["image"][:BATCH_SHOWN]
    titles = [""] * len(images)
    for key in ("label", "labels"):
        if key in batch:
            titles = [caption(label, data.class_names) for label in batch[key]]
    panels = [(t, "", image) for t, image in zip(titles, images, strict=False)]
    of = f"{len(images)} of " if len(images) < size else ""
    title = f"{of}the {size} images of the first training batch"
    charts.draw_images(path, title, panels, columns=8)


def caption(label: Any, class_names: tuple[str, ...] | None) -> str:
    """Return a number's class, or the one or two largest classes of a row of shares."""
    if np.ndim(label) == 0:
        classes = [int(label)]
    else:
        classes = [
            int(k) for k in np.argsort(-label, kind="stable")[:2] if label[k] > 0
        ]
    if any(k < 0 for k in classes) or not classes:
        return "no label"
    return " + ".join(class_names[k] if class_names else str(k) for k in classes)
