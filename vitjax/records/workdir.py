"""The folder of a run: which config it belongs to."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vitjax.config.experiment import learned_differences
from vitjax.files import write_whole
from vitjax.records.jsonl import read_rows


def refuse_other_config(workdir: Path, config: dict[str, Any]) -> None:
    """Raise ValueError if a run of another config has made progress in the workdir.

    `config` is plain JSON values. A start that failed before its first step leaves a
    config.json that counts for nothing.
    """
    path = Path(workdir) / "config.json"
    started = any((Path(workdir) / "checkpoints").glob("*")) or any(
        row["step"] > 0 for row in read_rows(workdir)
    )
    if not path.exists() or not started:
        return
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); give another --workdir"
        ) from None
    changed = learned_differences(old, config)
    if changed:
        raise ValueError(
            f"workdir {str(workdir)!r} was written by a different config "
            f"({'; '.join(changed)}); give another --workdir or the same config"
        )


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Write config.json whole or not at all."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_whole(Path(workdir) / "config.json", text)


@contextlib.contextmanager
def locked(workdir: Path, force: bool = False) -> Iterator[None]:
    """Hold the workdir's lock: no second run may write there at the same time.

    On one host the lock ends with its process, however that ends; where the file system
    has no locks, the process that the file names is looked for. Of another host's
    process nobody knows whether it is alive: its lock holds until `force`. A workdir in
    which nothing was written goes when the lock does.

    Raises ValueError, naming the process and its host, if another holds the lock.
    """
    workdir = Path(workdir)
    path, host = workdir / "lock", socket.gethostname()
    file, owned = _own(path)
    with file:
        file.seek(0)
        held, _, pid = file.read().strip().rpartition(" ")
        if held not in ("", host) and not force:
            raise ValueError(
                f"process {pid} of {held} has locked {workdir}: if it is no longer "
                "at work, add --force"
            )
        if held == host and not owned and _alive(pid) and not force:
            raise ValueError(
                f"{_at_work(workdir, pid, host)} (this file system has no locks: if that "
                "process is no run of this workdir, add --force)"
            )
        file.truncate(0)
        file.write(f"{host} {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty
                workdir.rmdir()


def _at_work(workdir: Path, pid: str, host: str) -> str:
    return (
        f"another run, process {pid} of {host}, is at work in {workdir}: stop it first, "
        "or give another --workdir"
    )


def _alive(pid: str) -> bool:
    """Whether a process of this host, not this one, has that number."""
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # of somebody else
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _own(path: Path) -> tuple[TextIO, bool]:
    """The lock's file, and whether no other process of this host can own it.

    False where the file system has no locks, as some network file systems.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # another run has just removed the workdir
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owned = True
        except BlockingIOError:
            file.seek(0)
            held, _, pid = file.read().strip().rpartition(" ")
            file.close()
            raise ValueError(
                _at_work(path.parent, pid, held or socket.gethostname())
            ) from None
        except OSError:
            owned = False
        # The one that we have opened may have been removed by its owner meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file, owned
        file.close()
