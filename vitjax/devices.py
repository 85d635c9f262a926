"""What this run computes on: finding processes and devices before the first array."""

import importlib.util
import os
import platform
import sys
from pathlib import Path

import jax


def initialize_distributed(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes of this run, if there are any.

    With an address, that one. Else under SLURM, Open MPI or on a multi-host TPU, JAX
    finds the others by itself. On a plain single host nothing is called at all.
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
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    elif num_processes is not None or process_id is not None:
        raise ValueError(
            "--num_processes and --process_id need --coordinator_address too"
        )
    elif _cluster_processes() > 1 or _on_tpu_vm():
        jax.distributed.initialize()


def _cluster_processes() -> int:
    """Processes of this job as its scheduler's environment variables tell; 1 if none."""
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len([h for h in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if h])


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
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists():
        name, extra = "an NVIDIA device", "cuda13"
    elif importlib.util.find_spec("libtpu") is not None:
        name, extra = "libtpu", "tpu"
    else:
        return None
    return (
        f"{name} is present, but JAX sees only CPUs: run "
        f'`{sys.executable} -m pip install -e ".[{extra}]"` in the checkout, or go on '
        "without it with --allow_cpu"
    )


def enable_compilation_cache() -> None:
    """Keep compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "vitjax/xla"))
