"""Real processes for the tests, started cheaply: slow imports happen once.

multiprocessing's fork server imports this module; every process is a fork of it, with a
log of its own, and starts its own JAX.
"""

import atexit
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
    atexit._run_exitfuncs()  # JAX's; multiprocessing leaves them out
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

    def kill(self):
        self._process.kill()

    def status(self, timeout=400):
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
    return vitjax.train.main(argv)


def train_and_first_gone(argv):
    """The command; then, as soon as both have finished, the first process is gone."""
    import jax

    status = vitjax.train.main(argv)
    second_has_finished = Path(argv[argv.index("--workdir") + 1]) / "second"
    if jax.process_index() == 1:
        second_has_finished.touch()
        return status
    while not second_has_finished.exists():
        time.sleep(0.001)
    os._exit(status)


def train_then_float64(argv, out, steps):
    """The command; then, in the same processes, a second model throughout in float64."""
    status = vitjax.train.cli(argv)
    if status == 0:
        float64_curve(argv, out, steps)
    return status


def float64_curve(argv, out, steps):
    """The losses of the run that `argv` describes, by the trainer's own parts."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from input_pipeline import pipeline
    from vitjax import data as data_lib
    from vitjax import program
    from vitjax.config import experiment, files
    from vitjax.devices import sharding

    jax.config.update("jax_enable_x64", True)
    flags, overrides = vitjax.train.parse_flags(argv)
    overrides += ["model.dtype_mm=float64", f"total_steps={steps}"]
    e = experiment.from_config(files.load(flags.config, overrides).to_dict())
    mesh = sharding.make_mesh(e.mesh)
    data, data_size = pipeline.make_train(
        **e.input,
        seed=e.seed,
        start_step=0,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    made = program.build(
        e,
        mesh,
        element_spec=data.element_spec,
        batch_size=e.input["batch_size"],
        total_steps=steps,
        data_size=data_size,
    )
    wide = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x
    state = jax.jit(
        lambda state: jax.tree.map(wide, state), out_shardings=made.shardings
    )(made.init())
    losses = []
    batches = iter(data_lib.OnDevices(data, mesh))
    for _ in range(steps):
        state, metrics = made.train_step(state, next(batches), made.key)
        losses.append(float(metrics["training_loss"]))
        assert metrics["training_loss"].dtype == jnp.float64
    if jax.process_index() == 0:
        np.save(out, losses)


def agree():
    """Print the sum over the processes that JAX finds by itself."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from vitjax.devices import startup

    startup.initialize_distributed(None, None, None)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    mine = np.full(jax.local_device_count(), jax.process_index() + 1.0)
    split = NamedSharding(mesh, PartitionSpec("data"))
    total = jax.jit(jax.numpy.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(
        jax.make_array_from_process_local_data(split, mine)
    )
    print("sum", float(total), "processes", jax.process_count())
    return 0


def join(address, index, seconds):
    """Wait for the other one of two so long."""
    from vitjax.devices import startup

    startup.JOIN_SECONDS = seconds
    startup.initialize_distributed(address, 2, index)
    return 0


def fail(argv, index, error):
    """The command, in which at its first step process `index` fails alone."""
    import jax

    real = vitjax.train.loop.durations.due

    def due(step, *args, **kwargs):
        if step == 1 and jax.process_index() == index:
            raise error
        return real(step, *args, **kwargs)

    vitjax.train.loop.durations.due = due
    return vitjax.train.cli(argv)


def asked_twice(argv):
    """The first signal reaches JAX's service, the second ends the process."""
    import signal

    from vitjax.devices.stopping import StopSignal

    _sharded(argv)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        step = 0
        while not stop.due(step):
            step += 1
            time.sleep(0.05)
        print("due at", step, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return 0


def _sharded(argv):
    """({"w": an array over all processes}, this process's part), after joining them."""
    import jax
    import numpy as np

    from vitjax.devices import sharding, startup

    flags, _ = vitjax.train.parse_flags(argv)
    startup.initialize_distributed(
        flags.coordinator_address, flags.num_processes, flags.process_id
    )
    home = jax.NamedSharding(sharding.make_mesh([("data", -1)]), jax.P("data"))
    values = np.random.default_rng(0).normal(size=(4096, 8)).astype(np.float32)
    mine = np.split(values, 2)[jax.process_index()]
    return {"w": jax.make_array_from_process_local_data(home, mine)}, mine


def go_on_from_damaged(argv, workdir):
    """Two sharded checkpoints, the newer with a truncated file of the second process."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from vitjax.checkpoints.checkpointer import Checkpointer

    state, mine = _sharded(argv)
    checkpointer = Checkpointer(workdir)
    for step in (1, 2):
        checkpointer.save(step, state, {"at": step})
    checkpointer.finish()
    if jax.process_index() == 0:
        data = Path(workdir) / "checkpoints/2/state/ocdbt.process_1/d"
        file = max(data.iterdir(), key=lambda path: path.stat().st_size)
        os.truncate(file, file.stat().st_size // 2)
    multihost_utils.sync_global_devices("damaged")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found, meta = checkpointer.restore_newest(shapes)
    [shard] = found["w"].addressable_shards
    np.testing.assert_array_equal(shard.data, mine)
    print("went on from", meta["at"])
    checkpointer.close()
    return 0


def save_where_one_disk_is_full(argv, workdir, victim):
    """Three checkpoints, of whose second `victim` cannot write its part."""
    import resource

    import jax

    from vitjax.checkpoints.checkpointer import Checkpointer

    state, _ = _sharded(argv)
    checkpointer = Checkpointer(workdir)
    full = jax.process_index() == victim
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in (1, 2, 3):
        if step == 2 and full:
            checkpointer.poll(wait=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        checkpointer.save(step, state, {"at": step})
        while checkpointer._manager.is_saving_in_progress():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # of the log, too
        checkpointer.poll(wait=True)
    checkpointer.finish()
    checkpointer.close()
    return 0


def _die_at(pattern):
    """Kill this process when the path is there, and was not there before.

    What an earlier victim left is removed by the first process, after both have met.
    """
    folder, name = os.path.split(pattern)
    for is_there in (False, True):
        while any(Path(folder).glob(name)) != is_there:
            time.sleep(0.0002)
    os.kill(os.getpid(), 9)


def start(number, argv, folder, *, function=train, last=None):
    """`number` processes of one run, by flags, with logs `folder`/log0, log1, ...

    Each calls `function(flags, *last[its index])`.
    """
    cluster = ["--coordinator_address", f"localhost:{free_port()}"]
    cluster += ["--num_processes", str(number), "--process_id"]
    several = lambda i: [*cluster, str(i)] if number > 1 else []
    return [
        Fork(
            function,
            [*argv, *several(i)],
            *(last or {}).get(i, ()),
            log=Path(folder) / f"log{i}",
        )
        for i in range(number)
    ]


def finish(forks, timeout=400):
    return [fork.status(timeout) for fork in forks]
