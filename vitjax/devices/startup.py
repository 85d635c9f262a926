"""What this run computes on: finding processes and devices before the first array."""

import importlib.util
import logging
import os
import platform
import socket
import sys
from pathlib import Path

import jax
from absl import logging as absl_logging

from input_pipeline import home
from vitjax.devices import failures, peers

HEARTBEAT_SECONDS = 30
"""A process that has been silent for so long is taken for dead; JAX's default is 100."""

JOIN_SECONDS = 300
"""So long all processes of a run may take to start; it is JAX's default, too."""


def initialize_distributed(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes of this run, if there are any.

    With an address, that one. Else under SLURM, Open MPI, on a multi-host TPU or in an
    indexed job of Kubernetes, JAX finds the others by itself. On a plain single host
    nothing is called at all.
    """
    if coordinator_address is not None:
        if num_processes is None or process_id is None:
            raise ValueError(
                "--coordinator_address needs --num_processes and --process_id too"
            )
        if not coordinator_address.rpartition(":")[2].isdigit():
            raise ValueError(
                f"--coordinator_address must be HOST:PORT, got {coordinator_address!r}"
            )
        _join(coordinator_address, num_processes, process_id)
    elif num_processes is not None or process_id is not None:
        raise ValueError(
            "--num_processes and --process_id need --coordinator_address too"
        )
    elif _cluster_processes() > 1 or _on_tpu_vm() or _in_kubernetes_job():
        _join()


def _join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Initialize JAX's distributed runtime; what is None it finds by itself."""
    local_device_ids = None
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ and (
        coordinator_address is not None or _alone_on_its_host()
    ):
        # Left to itself under SLURM or Open MPI, JAX uses one device per process.
        local_device_ids = []  # all
    if coordinator_address is not None and process_id == 0:
        _refuse_taken_port(coordinator_address)
    first = coordinator_address or "the first process's host"
    alone = (
        f"the processes of this run have not all found each other at {first} within "
        f"{JOIN_SECONDS} s: see that each of them is started, with the same address and "
        "number of processes, and can reach it; then start all again"
    )
    peers.leave_on_abort(lambda: alone)  # which is how JAX tells
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            local_device_ids=local_device_ids,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        raise ValueError(f"{alone} ({str(error).splitlines()[0]})") from error


def _refuse_taken_port(address: str) -> None:
    """Raise ValueError if another program listens there: JAX would die of a signal."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", int(address.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"process 0 cannot listen at {address} ({error}): give all processes a "
                "free port in --coordinator_address"
            ) from error


def _cluster_processes() -> int:
    """Processes of this job as its scheduler's environment variables tell; 1 if none."""
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        size = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        if size > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            raise ValueError(
                "Open MPI 5 does not say where its first process is: add "
                "--coordinator_address HOST:PORT, of a host of the first process and a "
                "free port, --num_processes $OMPI_COMM_WORLD_SIZE and --process_id "
                "$OMPI_COMM_WORLD_RANK (mpirun ... sh -c 'python -m vitjax.train ...')"
            )
        return size
    return len([h for h in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if h])


def _alone_on_its_host() -> bool:
    """Whether SLURM or Open MPI started one process on each host."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS")
    if tasks is not None:
        return tasks == os.environ.get("SLURM_STEP_NUM_NODES")
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _in_kubernetes_job() -> bool:
    """An indexed job whose image has the package with which JAX asks for its peers."""
    names = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
    found = importlib.util.find_spec("kubernetes") is not None
    return found and all(name in os.environ for name in names)


def _on_tpu_vm() -> bool:
    """JAX asks the machine's metadata server for the other workers; it may be alone."""
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def describe() -> str:
    """One line: what JAX computes on."""
    devices = jax.devices()
    kind = devices[0].device_kind
    kind = platform.processor() or platform.machine() if kind == "cpu" else kind
    return (
        f"{len(devices)} x {devices[0].platform} ({kind}), "
        f"{jax.process_count()} process(es), jax {jax.__version__}"
    )


def idle_accelerator() -> str | None:
    """If JAX sees only CPUs beside an accelerator: one sentence with the remedy."""
    if jax.default_backend() != "cpu":
        return None
    found = failures.accelerator()
    if found is None:
        return None
    name, extra = found
    return (
        f"{name} is present, but JAX sees only CPUs: run {failures.install(extra)}, or "
        "go on without it with --allow_cpu"
    )


def enable_compilation_cache() -> None:
    """Keep compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = home.cache()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache / "vitjax/xla"))
    elif jax.process_index() == 0:
        absl_logging.warning(
            "there is no home folder: programs are compiled anew at each start; "
            "XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR may name a folder for them"
        )


def quiet_checkpoint_threads() -> None:
    """Leave out what orbax's and tensorstore's threads print of a failed checkpoint.

    The trainer reports the failure once. Orbax also logs each thread's traceback, asyncio
    the failures of the other arrays' writes, and tensorstore's late writes find the event
    loop closed, one by one.
    """
    absl_logging.get_absl_logger().addFilter(
        lambda record: "orbax" not in Path(record.pathname).parts
    )
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    sys.unraisablehook = lambda found: (
        None
        if str(found.exc_value) == "Event loop is closed"
        else sys.__unraisablehook__(found)
    )
