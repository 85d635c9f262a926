"""Real processes for the tests, started cheaply: what is slow to import is imported once.

multiprocessing's fork server imports this module; every process is a fork of it, with a
log of its own, and starts JAX anew.
"""

import multiprocessing
import os
import socket
import sys
import threading
import time
import warnings
from pathlib import Path

# JAX warns of forks; no backend has started yet where this module is imported first.
warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)

import matplotlib.pyplot  # noqa: E402, F401
import orbax.checkpoint  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import tensorboardX  # noqa: E402, F401

import input_pipeline.pipeline  # noqa: E402, F401
import vitjax.train  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _child(function, log, devices, env, args):
    import jax

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    status = function(*args)
    sys.stdout.flush()
    sys.exit(status)


class Fork:
    """`function(*args)`, whose result is the exit status, in a process of its own."""

    def __init__(self, function, *args, log, devices=1, env=None):
        self.log = Path(log)
        self._process = CONTEXT.Process(
            target=_child, args=(function, str(log), devices, env or {}, args)
        )
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def alive(self):
        return self._process.is_alive()

    def status(self, timeout=120):
        """The exit status, negative for a signal; a process that hangs is killed."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"still there after {timeout} s:\n{self.text()}")
        return self._process.exitcode


def train(argv, hold=None):
    """The command; with `hold`, killed as soon as that path is there."""
    if hold is not None:
        threading.Thread(target=_die_at, args=(hold,), daemon=True).start()
    return vitjax.train.cli(argv)


def _die_at(pattern):
    folder, name = os.path.split(pattern)
    while not any(Path(folder).glob(name)):
        time.sleep(0.0002)
    os.kill(os.getpid(), 9)


def start(number, argv, folder, *, devices=1, holds=None):
    """`number` processes of one run, found by flags, with logs `folder`/log0, ..."""
    cluster = ["--coordinator_address", f"localhost:{free_port()}"]
    cluster += ["--num_processes", str(number), "--process_id"]
    several = lambda i: [*cluster, str(i)] if number > 1 else []
    return [
        Fork(
            train,
            [*argv, *several(i)],
            (holds or {}).get(i),
            log=Path(folder) / f"log{i}",
            devices=devices,
        )
        for i in range(number)
    ]


def finish(forks, timeout=120):
    return [fork.status(timeout) for fork in forks]
