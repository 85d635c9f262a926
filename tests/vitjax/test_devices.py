"""Finding processes and accelerators."""

import os
import re
import subprocess
import sys

import jax
import pytest

from vitjax import devices


@pytest.mark.parametrize(
    ("path", "extra"),
    [("/proc/driver/nvidia/version", "cuda13"), ("/dev/nvidia0", "cuda13")],
)
def test_an_idle_accelerator_comes_with_a_pip_line_that_pip_accepts(
    monkeypatch, path, extra
):
    monkeypatch.setattr(devices.Path, "exists", lambda self: str(self) == path)
    message = devices.idle_accelerator()
    assert message is not None
    command = re.search("`(.*)`", message).group(1)
    assert command.endswith(f'pip install -e ".[{extra}]"')
    assert command.startswith(sys.executable)
    assert "--allow_cpu" in message


def test_libtpu_without_a_tpu_is_told_too(monkeypatch):
    monkeypatch.setattr(devices.Path, "exists", lambda self: False)
    found = {"libtpu": object()}
    monkeypatch.setattr(devices.importlib.util, "find_spec", found.get)
    assert ".[tpu]" in devices.idle_accelerator()
    monkeypatch.setattr(devices.importlib.util, "find_spec", {}.get)
    assert devices.idle_accelerator() is None


@pytest.fixture
def calls(monkeypatch):
    made = []

    def initialize(*args, local_device_ids, heartbeat_timeout_seconds):
        assert heartbeat_timeout_seconds == 30
        made.append((*(a for a in args if a is not None), local_device_ids))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JAX_LOCAL_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(devices, "_on_tpu_vm", lambda: False)
    return made


def test_a_plain_single_host_calls_nothing(calls):
    devices.initialize_distributed(None, None, None)
    assert calls == []


ALL = []  # of the devices; None leaves it to JAX, which takes one for each process
SLURM = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "0.0;tcp://a:1"}


@pytest.mark.parametrize(
    ("variables", "called"),
    [
        (SLURM, [(ALL,)]),
        (SLURM | {"SLURM_STEP_NUM_NODES": "1"}, [(None,)]),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, []),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "0"}, [(None,)]),
        (OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, [(ALL,)]),
        (OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, [(None,)]),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, []),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, [(None,)]),
        ({"TPU_WORKER_HOSTNAMES": "a"}, []),
        ({"KUBERNETES_SERVICE_HOST": "a"}, []),
        ({"KUBERNETES_SERVICE_HOST": "a", "JOB_COMPLETION_INDEX": "1"}, [(None,)]),
    ],
)
def test_a_cluster_is_left_to_jax(calls, monkeypatch, variables, called):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    devices.initialize_distributed(None, None, None)
    assert calls == called


def test_open_mpi_5_needs_the_flags(calls, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"--process_id \$OMPI_COMM_WORLD_RANK"):
        devices.initialize_distributed(None, None, None)


def test_an_address_needs_the_other_two_and_they_need_it(calls):
    devices.initialize_distributed("host:1", 2, 0)
    assert calls == [("host:1", 2, 0, ALL)]
    with pytest.raises(ValueError, match="needs --num_processes"):
        devices.initialize_distributed("host:1", None, None)
    with pytest.raises(ValueError, match="need --coordinator_address"):
        devices.initialize_distributed(None, 2, 1)


def test_the_compilation_cache_is_on_by_default_and_where_the_user_says(tmp_path):
    code = (
        "import jax; from vitjax import devices; devices.enable_compilation_cache();"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    for extra, expected in (
        ({"XDG_CACHE_HOME": str(tmp_path)}, str(tmp_path / "vitjax" / "xla")),
        ({"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, "elsewhere"),
    ):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env=env | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == expected


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ValueError, match="must be HOST:PORT, got 'localhost'"):
        devices.initialize_distributed("localhost", 2, 0)
