"""Push what a run writes into its staging folder to a bucket, markers last."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging

from input_pipeline import bucket
from vitjax.mirror import steps
from vitjax.mirror.lock import Lock, Lost

_THREADS = 16  # files of a checkpoint on their way at a time
# Seconds of retries of a put. Another run takes the lock over after a minute without a
# beat, so none of this run's puts may still be tried then.
PATIENCE = 30.0
_LOOK = 1.0  # seconds between two looks for new checkpoints
# Parts of the names of what stays here: unfinished files, and the local lock.
_UNFINISHED = (".orbax-checkpoint-tmp", ".partial")


class Pusher:
    """The copy of one workdir in a bucket, made from its staging folder.

    Args:
      local: the staging folder.
      links: a folder of the same disk, for links to files that are being uploaded.
      there: the steps whose markers are in the bucket.
      old: those of them that go when this run has put a checkpoint of its own.
    """

    def __init__(
        self,
        folder: bucket.Bucket,
        local: Path,
        links: Path,
        lock: Lock,
        there: Collection[steps.Step],
        old: Collection[steps.Step] = (),
    ):
        self._folder, self._local, self._links = folder, local, links
        self._lock = lock
        self._there, self._old = set(there), set(old)
        self._seen: set[steps.Step] = set()  # here, at some time
        self._linked: dict[steps.Step, list[str]] = {}
        self._pushed: dict[str, tuple[int, int]] = {}  # name: size and time of change
        self._failing = False  # the last push failed, which has been told
        self._guard = threading.Lock()  # of `_linked`
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, seconds: float) -> None:
        """Push every so many seconds from now on, in a thread."""
        self._thread(_LOOK, self._look_or_wait)
        self._thread(seconds, self._push_or_warn)

    def stop(self) -> None:
        """End the threads; an upload in progress ends first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def push(self) -> None:
        """Put everything that has changed into the bucket.

        Raises bucket.BucketError if the bucket fails, and Lost.
        """
        # In this order: the rows of a step are on this disk before its checkpoint is.
        self._look()
        with self._guard:
            new = dict(self._linked)
        changed = self._changed()
        if changed or new:
            self._lock.beat()  # another run's files must not be written over
        self._put_small_files(changed)
        for step, names in sorted(new.items()):
            self._put_step(step, names)
        self._remove_old()

    def _thread(self, seconds: float, act: Callable[[], None]) -> None:
        def run() -> None:
            while not self._stop.wait(seconds):
                act()

        thread = threading.Thread(target=run, name="mirror", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _look(self) -> None:
        """Link the files of new checkpoints, before the run may remove them."""
        with self._guard:
            for step in steps.whole(self._local):
                self._seen.add(step)
                if step not in self._there and step not in self._linked:
                    names = steps.link(self._local, step, self._links)
                    if names is not None:
                        self._linked[step] = names

    def _look_or_wait(self) -> None:
        with contextlib.suppress(OSError):  # such as a full disk: the next push tells
            self._look()

    def _push_or_warn(self) -> None:
        try:
            self.push()
        except Lost:
            return  # the lock's own thread ends the run
        except (OSError, ValueError) as error:
            if not self._failing:
                logging.warning(
                    "%s; training goes on, and the next pushes try again", error
                )
            self._failing = True
        else:
            self._failing = False

    def _changed(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each small file that differs from what was put."""
        found = {}
        for name in steps.files(self._local):
            path = self._local / name
            if not path.is_file() or steps.step_of(name) or name == "lock":
                continue
            if any(part in name for part in _UNFINISHED):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
                if self._pushed.get(name) != state:
                    found[name] = state
        return found

    def _put_small_files(self, changed: Mapping[str, tuple[int, int]]) -> None:
        for name, state in changed.items():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                # Read whole first: a file that grows must not change under the put.
                self._folder.put(name, (self._local / name).read_bytes())
                self._pushed[name] = state

    def _put_step(self, step: steps.Step, names: list[str]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda n: self._folder.put(n, self._links / n), names))
        marker = steps.write_marker(self._links, names)
        self._lock.beat()
        self._folder.put(step.marker, marker)
        self._there.add(step)
        self._seen |= {old for old in self._old if old.place == step.place}
        with self._guard:
            del self._linked[step]
        shutil.rmtree(self._links / step.folder, ignore_errors=True)

    def _remove_old(self) -> None:
        """Remove from the bucket the steps that the run has removed; markers first."""
        gone = (self._there & self._seen) - set(steps.whole(self._local))
        for step in sorted(gone):
            # The newest one stays until a newer one has its marker.
            if step == max(x for x in self._there if x.place == step.place):
                continue
            self._lock.beat()
            remove(self._folder, step)
            self._there.remove(step)


def remove(folder: bucket.Bucket, step: steps.Step) -> None:
    """Remove a step's marker, then its files."""
    folder.remove([step.marker])
    folder.remove([x.key for x in folder.list(step.folder)])
