"""Write measurements to TensorBoard and Weights & Biases."""

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
    """Context manager: `import torch` fails, unless torch is already imported.

    tensorboardX imports torch for features that are not used here. The import takes
    seconds, and a broken torch would end a training that does not need it.
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
    """The event files in workdir/tensorboard; rows after `first_step` are purged.

    Rows are written at once, without a thread that could die and block the run. If they
    cannot be written, there is a warning, and the run continues without event files.
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
            # Two starts within one second must not share a file.
            unique = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}"
            name = f"events.out.tfevents.{int(time.time())}.{unique}"
            self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        # TensorBoard drops the rows of earlier files from this step on.
        self._add(step=first_step + 1 if first_step else 0, session_log=start)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Write one scalar for each value, under its name."""
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
                with contextlib.suppress(OSError):  # no room for the buffer
                    self._file.close()
                self._file = None
            logging.warning(
                "TensorBoard's files cannot be written (%s): continuing without them; "
                "%s has every row",
                error,
                JSONL,
            )


class WandbSink:
    """The Weights & Biases sink; the workdir keeps the run id for resumed runs."""

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
        mode: Any = None,  # wandb's mode: online, offline or disabled
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
        # One separate thread: rows stay in order, and the run never waits for a server,
        # which may not answer.
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
                "wandb cannot be reached (%s): this run is recorded offline; upload it "
                "later with `wandb sync %s`",
                first,
                workdir / "wandb" / "offline-run-*",
            )
            wandb.teardown()  # its service holds the id of the failed start
            return wandb.init(**options, mode="offline")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Send one wandb step; rows that a resumed run already has are not sent again.

        Raises the error of `wandb.init`, if it has failed by now.
        """
        if self._run.done():
            self._run.result()
        self._thread.submit(self._log, step, dict(row))

    def _log(self, step: int, row: dict[str, float]) -> None:
        run = self._run.result()
        if step >= run.step:
            run.log(row, step=step)

    def close(self) -> None:
        """Send the remaining rows and finish. Raises any error of `wandb.init`."""
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
    """Make the writer of a run that starts from `first_step`.

    `wandb` is the config section: keyword arguments of `WandbSink`.
    """
    sinks: list[Sink] = [JsonlSink(workdir)]
    if tensorboard:
        sinks.append(TensorBoardSink(workdir, first_step))
    if wandb:
        sinks.append(WandbSink(workdir, config, **wandb))
    return MetricWriter(sinks)
