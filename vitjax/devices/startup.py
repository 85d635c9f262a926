"""Find the processes and devices of a run, before its first array."""

import importlib.util
import logging
import os
import platform
import socket
import sys
from pathlib import Path

import jax
from absl import logging as absl_logging

from input_pipeline import environment, home
from vitjax.devices import failures, peers

HEARTBEAT_SECONDS = 30
"""Seconds of silence after which a process counts as dead; JAX's default is 100."""

JOIN_SECONDS = 300
"""Seconds in which all processes of a run must start; equal to JAX's default."""


def initialize_distributed(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes of this run, if there are any.

    A given address is used. Without one, JAX finds the others under SLURM and Open MPI,
    on a multi-host TPU and in an indexed Kubernetes job. On a plain single host,
    nothing is initialized. Raises ValueError for incomplete or wrong arguments.
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
    """Initialize JAX's distributed runtime, which detects arguments that are None."""
    local_device_ids = None
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ and (
        coordinator_address is not None or _alone_on_its_host()
    ):
        # By default, JAX uses one device per process under SLURM or Open MPI.
        local_device_ids = []  # all
    if coordinator_address is not None and process_id == 0:
        _refuse_taken_port(coordinator_address)
    first = coordinator_address or "the first process's host"
    alone = (
        f"the processes of this run have not all found each other at {first} within "
        f"{JOIN_SECONDS} s: check that each is started with the same address and number "
        "of processes and can reach the address, then start all again"
    )
    peers.leave_on_abort(lambda: alone)  # JAX reports a failed join by abort
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
    """Raise ValueError if the port is in use, where JAX would die of a signal."""
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
    """Return the job's number of processes, from scheduler variables; 0 without any."""
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        size = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        if size > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            raise ValueError(
                "Open MPI 5 does not announce the host of its first process: add "
                "--coordinator_address HOST:PORT (that host and a free port), "
                "--num_processes $OMPI_COMM_WORLD_SIZE and --process_id "
                "$OMPI_COMM_WORLD_RANK (mpirun ... sh -c 'python -m vitjax.train ...')"
            )
        return size
    return len([h for h in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if h])


def _alone_on_its_host() -> bool:
    """Return whether SLURM or Open MPI started one process on each host."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS")
    if tasks is not None:
        return tasks == os.environ.get("SLURM_STEP_NUM_NODES")
    return os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _in_kubernetes_job() -> bool:
    """Return whether this is an indexed job in which JAX can find its peers.

    JAX needs the package kubernetes for that.
    """
    names = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
    found = importlib.util.find_spec("kubernetes") is not None
    return found and all(name in os.environ for name in names)


def _on_tpu_vm() -> bool:
    """Return whether this is a TPU host, possibly the only one of its run.

    JAX asks the metadata server for the other workers.
    """
    return environment.has_tpu() and importlib.util.find_spec("libtpu") is not None


def describe() -> str:
    """Return one line on the devices that JAX computes on."""
    devices = jax.devices()
    kind = devices[0].device_kind
    kind = platform.processor() or platform.machine() if kind == "cpu" else kind
    return (
        f"{len(devices)} x {devices[0].platform} ({kind}), "
        f"{jax.process_count()} process(es), jax {jax.__version__}"
    )


def idle_accelerator() -> str | None:
    """Return one sentence with the remedy if JAX does not see a present accelerator."""
    if jax.default_backend() != "cpu":
        return None
    found = failures.accelerator()
    if found is None:
        return None
    name, extra = found
    return (
        f"{name} is present, but JAX sees only CPUs: run {failures.install(extra)}, or "
        "train on the CPUs with --allow_cpu"
    )


def enable_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR, if it is set, takes precedence.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = home.cache()
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache / "vitjax/xla"))
    elif jax.process_index() == 0:
        absl_logging.warning(
            "no home folder: programs are compiled again at each start; set "
            "XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR to a folder to keep them"
        )


def quiet_checkpoint_threads() -> None:
    """Silence the messages of orbax's and tensorstore's threads on a failed checkpoint.

    The trainer reports the failure once. In addition, orbax logs each thread's
    traceback, asyncio logs the failed writes of the other arrays, and each late write
    of tensorstore reports a closed event loop.
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
