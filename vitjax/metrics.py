"""Where measurements go: metrics.jsonl, TensorBoard, wandb, and curves.png at the end."""

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from absl import logging

from vitjax.files import write_whole

JSONL = "metrics.jsonl"


@runtime_checkable
class Sink(Protocol):
    """One place that rows are written to."""

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Add one row."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of a workdir's metrics.jsonl; a torn last line is left out."""
    path = Path(workdir) / JSONL
    rows = []
    if not path.exists():
        return rows
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            # A killed process may leave half a row at the end, nowhere else.
            if number < len(lines):
                raise ValueError(
                    f"{path}, line {number} is not JSON: {line!r}"
                ) from None
    return rows


def cut_after(workdir: Path, step: int) -> None:
    """Drop the rows after `step` from metrics.jsonl: they will be written again."""
    path = Path(workdir) / JSONL
    if not path.exists():
        return
    rows = [row for row in read_rows(workdir) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(path, text)


def names_at(workdir: Path, step: int) -> set[str]:
    """Names of the metrics that metrics.jsonl has for a step."""
    return {name for row in read_rows(workdir) if row["step"] == step for name in row}


class JsonlSink:
    """metrics.jsonl: one object a row, {"step": int, name: value, ...}."""

    def __init__(self, workdir: Path):
        self._file = (Path(workdir) / JSONL).open("a")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Append one line; it is on disk when this returns."""
        # NaN and Infinity are not JSON; a string keeps the row readable elsewhere.
        values = {k: v if math.isfinite(v) else str(v) for k, v in row.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardSink:
    """Event files under workdir/tensorboard; rows after `first_step` are purged.

    Written at once, by no thread that could die and leave the run waiting for it. Where
    they cannot be written there is a warning, and the run goes on without them.
    """

    def __init__(self, workdir: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder = Path(workdir) / "tensorboard"
        self._proto: Any = event_pb2
        self._file: EventsWriter | None = None
        with self._or_without():
            folder.mkdir(exist_ok=True)
            # Its name has only seconds: no start may overwrite another's file.
            unique = f".{os.getpid()}.{secrets.token_hex(2)}"
            self._file = EventsWriter(str(folder / "events"), unique)
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        # TensorBoard forgets what earlier files have from this step on.
        self._add(step=first_step + 1 if first_step else 0, session_log=start)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """One scalar for each value, under its own name."""
        from tensorboardX.proto import summary_pb2

        proto: Any = summary_pb2
        values = [proto.Summary.Value(tag=k, simple_value=v) for k, v in row.items()]
        self._add(step=step, summary=proto.Summary(value=values))

    def close(self) -> None:
        """Close the event file."""
        with self._or_without():
            if self._file is not None:
                self._file.close()

    def _add(self, **fields: Any) -> None:
        with self._or_without():
            if self._file is not None:
                event = self._proto.Event(wall_time=time.time(), **fields)
                self._file.write_event(event)
                self._file.flush()

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            logging.warning(
                "TensorBoard's files cannot be written (%s): going on without them; "
                "%s has every row",
                error,
                JSONL,
            )


class WandbSink:
    """Weights & Biases; the run id is kept in the workdir, so that a resume goes on."""

    def __init__(
        self,
        workdir: Path,
        config: Mapping[str, Any],
        *,
        project: str,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Any = None,  # wandb's own: online, offline, disabled
        init_timeout: int | float = 30,
    ):
        import wandb

        keep = Path(workdir) / "wandb_id"
        if not keep.exists():
            keep.write_text(secrets.token_hex(4))
        options = {
            "project": project,
            "name": name,
            "entity": entity,
            "group": group,
            "tags": tags,
            "notes": notes,
            "config": dict(config),
            "dir": str(workdir),
            "id": keep.read_text().strip(),
            "resume": "allow",
        }
        settings = wandb.Settings(init_timeout=init_timeout)
        # A thread of its own, and one only: rows stay in order, and nobody waits for
        # a server, which may not answer.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wandb")
        self._run = self._thread.submit(
            self._start, Path(workdir), options, mode, settings
        )

    @staticmethod
    def _start(workdir: Path, options: dict[str, Any], mode: Any, settings: Any) -> Any:
        import wandb
        import wandb.errors

        try:
            return wandb.init(**options, mode=mode, settings=settings)
        except wandb.errors.Error as error:
            first = str(error).strip().split("\n")[0]
            logging.warning(
                "wandb cannot be reached (%s): this run is recorded offline; send it "
                "later with `wandb sync %s`",
                first,
                workdir / "wandb" / "offline-run-*",
            )
            wandb.teardown()  # its service still holds the id of the failed start
            return wandb.init(**options, mode="offline")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """One wandb step; rows that a resumed run already has are not sent again.

        Raises what `wandb.init` raised, once it has.
        """
        if self._run.done():
            self._run.result()
        self._thread.submit(self._log, step, dict(row))

    def _log(self, step: int, row: dict[str, float]) -> None:
        run = self._run.result()
        if step >= run.step:
            run.log(row, step=step)

    def close(self) -> None:
        """Send what is left, and finish the run. Raises what `wandb.init` raised."""
        self._thread.shutdown(wait=True)
        self._run.result().finish()


class MetricWriter:
    """Hands each row to every sink. On other processes than the first: to none."""

    def __init__(self, sinks: list[Sink]):
        self.sinks = sinks

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """One row of scalars under its step."""
        numbers = {name: float(value) for name, value in row.items()}
        for sink in self.sinks:
            sink.write(step, numbers)

    def close(self) -> None:
        """Close every sink."""
        for sink in self.sinks:
            sink.close()


def make_writer(
    workdir: Path,
    config: Mapping[str, Any],
    *,
    first_step: int,
    tensorboard: bool = True,
    wandb: Mapping[str, Any] | None = None,
) -> MetricWriter:
    """The writer of a run that goes on from `first_step`.

    `wandb` is the config section: keyword arguments of `WandbSink`.
    """
    sinks: list[Sink] = [JsonlSink(workdir)]
    if tensorboard:
        sinks.append(TensorBoardSink(workdir, first_step))
    if wandb:
        sinks.append(WandbSink(workdir, config, **wandb))
    return MetricWriter(sinks)


def series(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; values that are not finite are left out."""
    pairs = [
        (row["step"], row[name])
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def plot_curves(workdir: Path) -> Path:
    """Draw curves.png from metrics.jsonl: loss, evaluation, norms, learning rate."""
    from matplotlib.figure import Figure

    rows = read_rows(workdir)
    names = sorted({name for row in rows for name in row})
    panels = {
        "loss": ["training_loss", *[n for n in names if n.endswith("/loss")]],
        "accuracy": [n for n in names if "/prec@" in n],
        "gradient and update norm": ["l2_grads", "l2_updates"],
        "learning rate": [n for n in names if n.startswith("lr")],
    }
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (title, wanted) in zip(axes.flat, panels.items(), strict=True):
        drawn = 0
        for name in wanted:
            steps, values = series(rows, name)
            if steps:
                marker = "o" if "/" in name else None
                axis.plot(steps, values, label=name, marker=marker, markersize=3)
                drawn += 1
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if "norm" in title:
            # The first update is exactly zero, which a logarithm has no place for.
            axis.set_yscale("log", nonpositive="mask")
        if drawn:
            axis.legend(fontsize="small")
    path = Path(workdir) / "curves.png"
    figure.savefig(path, dpi=120)
    return path
