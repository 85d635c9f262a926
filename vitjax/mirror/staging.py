"""Run in a workdir of a bucket: fetch, lock, push, and the last push."""

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from input_pipeline import bucket, home
from vitjax.devices.stopping import Stopped, StopSignal
from vitjax.mirror import fetch, lock, push
from vitjax.records.workdir import locked

# In a folder of the user's cache: the staging folder, the links of the files that are
# being uploaded, and the owner of the lock that its run had.
_LOCAL, _LINKS, _OWNER = "workdir", "links", "owner"


@contextlib.contextmanager
def staged(
    url: str, *, seconds: float, keeps_old: bool, force: bool = False
) -> Iterator[Path]:
    """Give a local folder in the place of a workdir in a bucket.

    At the end, also after an error, everything is pushed and the folder removed.

    Args:
      seconds: between two pushes.
      keeps_old: old checkpoints stay in the bucket, as the run's config says; else each
        goes when newer ones are there.
      force: take the lock of a run that may be alive.

    Raises:
      ValueError: another run uses the workdir, here or elsewhere; or the bucket fails.
        After the run, the message says where the files are.
    """
    base = _base(url)
    local, links = base / _LOCAL, base / _LINKS
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(base, force))
        folder = bucket.Bucket.open(url)
        folder.check()
        owner = base / _OWNER
        dead = owner.read_text() if owner.exists() else None
        held = lock.Lock(folder, dead=dead)
        held.acquire(lambda text: print(text, flush=True), force=force)
        owner.write_text(held.owner)
        held.keep(_end)
        try:
            for path in (local, links):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
            good, left = fetch.fetch(folder, local)
            # What a dead run left: under the lock, nobody else is writing it.
            held.beat()
            folder.remove(left)
        except BaseException:
            with contextlib.suppress(ValueError, OSError):
                held.release()
            raise
        old = [] if keeps_old else good
        brief = bucket.Bucket.open(url, patience=push.PATIENCE)
        pusher = push.Pusher(brief, local, links, held, good, old)
        pusher.start(seconds)
        print(f"{url} is mirrored from {local} every {seconds:g} s", flush=True)
        try:
            yield local
        except Stopped:
            # A second signal ends the process at once.
            _finish(pusher, held, folder, base)
            raise
        except BaseException:
            # The error of the run is the one to report.
            with contextlib.suppress(Unfinished):
                _finish(pusher, held, folder, base)
            raise
        else:
            with StopSignal(f"ends when all is in {url}"):
                _finish(pusher, held, folder, base)
            print(f"all records and checkpoints are in {url}", flush=True)


class Unfinished(ValueError):
    """The last push failed; the message says where the files are."""


def _finish(
    pusher: push.Pusher, held: lock.Lock, folder: bucket.Bucket, base: Path
) -> None:
    """Push what is left, give the lock back, and remove what is in `base`."""
    pusher.stop()
    try:
        _push_all(pusher)
        held.release()
    except (ValueError, OSError) as error:
        raise Unfinished(
            f"{error}; what {folder.url} lacks is in {base / _LOCAL}: copy it there when it "
            "can be written again, before the run is started again"
        ) from error
    for name in (_LOCAL, _LINKS):
        shutil.rmtree(base / name, ignore_errors=True)
    (base / _OWNER).unlink()


def _push_all(pusher: push.Pusher) -> None:
    """Push what is left; tries again as long as all of this package tries a request."""
    end = time.monotonic() + bucket.PATIENCE
    while True:
        try:
            pusher.push()
            return
        except bucket.Faulty:
            if time.monotonic() > end:
                raise


def _base(url: str) -> Path:
    cache = home.cache()
    if cache is None:
        raise ValueError(
            f"a workdir in a bucket, {url}, needs a local folder: set XDG_CACHE_HOME to "
            "one, with room for its checkpoints"
        )
    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return cache / "vitjax" / "workdirs" / name


def _end(error: lock.Lost) -> None:
    """End the process: another run writes the workdir now."""
    sys.stdout.flush()
    os.write(2, f"\nerror: {error}\n".encode())
    os._exit(1)
