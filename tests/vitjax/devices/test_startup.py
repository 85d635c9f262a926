"""Finding processes and accelerators."""

import os
import re
import socket
import subprocess
import sys

import jax
import pytest

from tests.helpers import processes
from vitjax.devices import startup
from vitjax.devices.stopping import STATUS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("path", "extra"),
    [("/proc/driver/nvidia/version", "cuda13"), ("/dev/nvidia0", "cuda13")],
)
def test_an_idle_accelerator_comes_with_a_pip_line_that_pip_accepts(
    monkeypatch, path, extra
):
    monkeypatch.setattr(startup.Path, "exists", lambda self: str(self) == path)
    message = startup.idle_accelerator()
    assert message is not None
    command = re.search("`(.*)`", message).group(1)
    assert command.endswith(f'pip install -e ".[{extra}]"')
    assert command.startswith(sys.executable)
    assert "--allow_cpu" in message


def test_libtpu_without_a_tpu_is_told_too(monkeypatch):
    monkeypatch.setattr(startup.Path, "exists", lambda self: False)
    found = {"libtpu": object()}
    monkeypatch.setattr(startup.importlib.util, "find_spec", found.get)
    assert ".[tpu]" in startup.idle_accelerator()
    monkeypatch.setattr(startup.importlib.util, "find_spec", {}.get)
    assert startup.idle_accelerator() is None


@pytest.fixture
def calls(monkeypatch):
    made = []

    def initialize(
        *args, local_device_ids, initialization_timeout, heartbeat_timeout_seconds
    ):
        assert initialization_timeout == 300
        assert heartbeat_timeout_seconds == 30
        made.append((*(a for a in args if a is not None), local_device_ids))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(startup.peers, "leave_on_abort", lambda say: None)
    monkeypatch.setattr(startup, "_refuse_taken_port", lambda address: None)
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JAX_LOCAL_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(startup, "_on_tpu_vm", lambda: False)
    return made


def test_a_plain_single_host_calls_nothing(calls):
    startup.initialize_distributed(None, None, None)
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
    monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    startup.initialize_distributed(None, None, None)
    assert calls == called


def test_open_mpi_5_needs_the_flags(calls, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"--process_id \$OMPI_COMM_WORLD_RANK"):
        startup.initialize_distributed(None, None, None)


def test_an_address_needs_the_other_two_and_they_need_it(calls):
    startup.initialize_distributed("host:1", 2, 0)
    assert calls == [("host:1", 2, 0, ALL)]
    with pytest.raises(ValueError, match="needs --num_processes"):
        startup.initialize_distributed("host:1", None, None)
    with pytest.raises(ValueError, match="need --coordinator_address"):
        startup.initialize_distributed(None, 2, 1)


def test_the_compilation_cache_is_on_by_default_and_where_the_user_says(tmp_path):
    code = (
        "import jax; from vitjax.devices import startup; startup.enable_compilation_cache();"
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


def test_without_a_home_programs_are_not_kept(monkeypatch, caplog):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(startup.home, "cache", lambda: None)
    before = jax.config.jax_compilation_cache_dir
    startup.enable_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before
    [record] = caplog.records
    assert "no home folder: programs are compiled again" in record.getMessage()


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ValueError, match="must be HOST:PORT, got 'localhost'"):
        startup.initialize_distributed("localhost", 2, 0)


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as s:
        s.bind(("", 0))
        s.listen()
        address = f"localhost:{s.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"process 0 cannot listen at {address}"):
            startup.initialize_distributed(address, 2, 0)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_stays_alone_says_so(tmp_path, index):
    """JAX aborts there."""
    address = f"localhost:{processes.free_port()}"
    fork = processes.Fork(processes.join, address, index, 2, log=tmp_path / "log")
    assert fork.status(timeout=60) == STATUS, fork.text()
    found = f"have not all found each other at {address} within 2 s"
    assert found in fork.text()
