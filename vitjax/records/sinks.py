"""Where else measurements go: TensorBoard and Weights & Biases."""

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from vitjax.config import arguments
from vitjax.records.jsonl import JSONL, JsonlSink, MetricWriter, Sink


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """`import torch` fails in here, unless the process has it already.

    tensorboardX imports it for what we do not use: that takes seconds, and a torch that
    is broken would end a training that does not need it.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if absent:
            sys.modules.pop("torch", None)


class TensorBoardSink:
    """Event files under workdir/tensorboard; rows after `first_step` are purged.

    Written at once, by no thread that could die and leave the run waiting for it. Where
    they cannot be written there is a warning, and the run goes on without them.
    """

    def __init__(self, workdir: Path, first_step: int):
        with _without_torch():
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import RecordWriter

        folder = Path(workdir) / "tensorboard"
        self._proto: Any = event_pb2
        self._file: RecordWriter | None = None
        with self._or_without():
            folder.mkdir(exist_ok=True)
            # No start may overwrite another's file, also within one second.
            unique = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}"
            name = f"events.out.tfevents.{int(time.time())}.{unique}"
            self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
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
                self._file.write(event.SerializeToString())
                self._file.flush()

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with contextlib.suppress(OSError):  # what is buffered finds no room
                    self._file.close()
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


def check_wandb(section: Mapping[str, Any] | None) -> None:
    """Raise ValueError if the config's `wandb` section is wrong."""
    if section:
        arguments.check("wandb", WandbSink, section, ("workdir", "config"))


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
