"""The folder of a run: its config and its lock."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from vitjax.config.experiment import learned_differences
from vitjax.files import write_whole
from vitjax.records.jsonl import read_rows

_PREPARED = "prepared"  # in config.json: no key, but what the data told


def has_progress(workdir: Path) -> bool:
    """Return whether a run has made a checkpoint or recorded a step in the workdir."""
    return any((Path(workdir) / "checkpoints").glob("*")) or any(
        row["step"] > 0 for row in read_rows(workdir)
    )


def refuse_other_config(workdir: Path, config: dict[str, Any]) -> None:
    """Raise ValueError if a run of another config has made progress in the workdir.

    `config` is plain JSON values. The config.json of a start that failed before its
    first step is ignored.
    """
    path = Path(workdir) / "config.json"
    if not path.exists() or not has_progress(workdir):
        return
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); give another --workdir"
        ) from None
    old.pop(_PREPARED, None)
    changed = learned_differences(old, config)
    if changed:
        raise ValueError(
            f"workdir {str(workdir)!r} was written by a different config "
            f"({'; '.join(changed)}); give the same config, or another --workdir, with "
            f"--config.resume={workdir} to continue from this one"
        )


def told(prepared: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the entry of config.json on data sets whose images were resized before.

    Args:
      prepared: what each data set tells of it; None if it tells nothing.
    """
    found = [dict(facts) for facts in prepared if facts is not None]
    distinct = [facts for i, facts in enumerate(found) if facts not in found[:i]]
    return {_PREPARED: distinct} if distinct else {}


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Write config.json, whole or not at all."""
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_whole(Path(workdir) / "config.json", text)


@contextlib.contextmanager
def locked(workdir: Path, force: bool = False) -> Iterator[None]:
    """Hold the workdir's lock, so that no second run writes there at the same time.

    On one host the lock ends with its process, even if the process is killed. On a file
    system without locks, the lock holds while the process that the file names is alive.
    Processes of other hosts cannot be checked, so their lock holds until `force`. An
    empty workdir is removed together with the lock.

    Raises ValueError, naming the process and its host, if another process has the lock.
    """
    workdir = Path(workdir)
    path, host = workdir / "lock", socket.gethostname()
    file, owned = _own(path)
    with file:
        file.seek(0)
        held, _, pid = file.read().strip().rpartition(" ")
        if held not in ("", host) and not force:
            raise ValueError(
                f"process {pid} of {held} has locked {workdir}: if it has ended, add "
                "--force"
            )
        if held == host and not owned and _alive(pid) and not force:
            raise ValueError(
                f"{_at_work(workdir, pid, host)} (this file system has no locks: if that "
                "process does not use this workdir, add --force)"
            )
        file.truncate(0)
        file.write(f"{host} {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                workdir.rmdir()


def _at_work(workdir: Path, pid: str, host: str) -> str:
    return (
        f"another run, process {pid} of {host}, uses {workdir}: stop it first, or choose "
        "another --workdir"
    )


def _alive(pid: str) -> bool:
    """Return whether another process of this host has that number."""
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # a process of another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _own(path: Path) -> tuple[TextIO, bool]:
    """Open and lock the lock file; return it and whether the lock was acquired.

    False if the file system has no locks, like some network file systems. Raises
    ValueError if another process of this host has the lock.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # another run just removed the workdir
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
        # The previous owner may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file, owned
        file.close()
