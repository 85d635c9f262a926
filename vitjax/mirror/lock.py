"""The lock of a workdir in a bucket: an object that its run writes again and again.

No clocks are compared. Another run watches the object, and takes it over if it has not
changed for a minute of its own clock.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable

from input_pipeline import bucket

NAME = "lock"
BEAT = 10.0  # seconds
PATIENCE = 60.0  # seconds without a change, after which a lock counts as dead


class Lost(ValueError):
    """Another run has taken the lock over."""


class Lock:
    """The lock of one run.

    Args:
      folder: the workdir.
      dead: the owner that is known to have ended, if any; its lock is taken at once.
    """

    def __init__(
        self,
        folder: bucket.Bucket,
        *,
        dead: str | None = None,
        beat: float = BEAT,
        patience: float = PATIENCE,
    ):
        self.owner = uuid.uuid4().hex
        self._folder, self._dead = folder, dead
        self._beat, self._patience = beat, patience
        self._version: bucket.Version | None = None
        self._writes = 0
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, tell: Callable[[str], None], *, force: bool = False) -> None:
        """Take the lock; `force` takes that of a run which may be alive.

        Waits up to the patience if there is a lock, and `tell`s so.

        Raises ValueError if another run is alive.
        """
        while True:
            found = self._folder.find(NAME)
            if found is None:
                if self._put(None):
                    return
                continue
            content, version = found
            whose = _parsed(content)
            if not force and whose.get("owner") != self._dead:
                self._watch(whose, version, tell)
            if self._put(version):
                return

    def _watch(
        self, whose: dict, version: bucket.Version, tell: Callable[[str], None]
    ) -> None:
        """Return when a lock has not changed for the patience, or is gone."""
        tell(
            f"{self._folder.url} is locked by {_who(whose)}: waiting up to "
            f"{self._patience:.0f} s to see whether that run is alive"
        )
        end = time.monotonic() + self._patience
        while time.monotonic() < end:
            time.sleep(min(self._beat / 4, self._patience / 10))
            found = self._folder.find(NAME)
            if found is None:
                return
            if found[1] != version:
                raise ValueError(
                    f"another run, {_who(_parsed(found[0]))}, uses {self._folder.url}: "
                    "stop it first, or choose another --workdir"
                )

    def _put(self, version: bucket.Version | None) -> bool:
        """Write the lock if it still is `version` (None: absent); False if it is not."""
        self._writes += 1
        content = json.dumps(
            {
                "owner": self.owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "writes": self._writes,
            }
        )
        try:
            self._version = self._replace(content.encode(), version)
        except (bucket.Changed, bucket.Exists):
            return False
        return True

    def _replace(
        self, content: bytes, version: bucket.Version | None
    ) -> bucket.Version:
        if version is None:
            return self._folder.put_if_absent(NAME, content)
        return self._folder.put_if_unchanged(NAME, content, version)

    def beat(self) -> None:
        """Write the lock again. Raises Lost if it is another run's by now."""
        with self._guard:
            if self._put(self._version):
                return
        found = self._folder.find(NAME)
        who = "nobody" if found is None else _who(_parsed(found[0]))
        raise Lost(
            f"the lock of {self._folder.url} is no longer this run's ({who} has it): "
            "nothing more is uploaded"
        )

    def keep(self, lost: Callable[[Lost], None]) -> None:
        """Write the lock at every beat from now on, in a thread; `lost` may end it all."""

        def run() -> None:
            while not self._stop.wait(self._beat):
                try:
                    self.beat()
                except Lost as error:
                    lost(error)
                    return
                except OSError:
                    continue  # the bucket does not answer: the next beat may succeed

        self._thread = threading.Thread(target=run, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """End the thread and remove the lock, if it is still this run's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.beat()
        self._folder.remove([NAME])


def _parsed(content: bytes) -> dict:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _who(whose: dict) -> str:
    return f"process {whose.get('pid', '?')} of {whose.get('host', 'an unknown host')}"
