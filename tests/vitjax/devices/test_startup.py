"""Finding processes and accelerators."""

import os
import re
import socket
import sys

import jax
import pytest

from input_pipeline import environment
from tests.helpers import processes
from vitjax.devices import startup
from vitjax.devices.stopping import STATUS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", ["/proc/driver/nvidia/version", "/dev/nvidia0"])
def test_an_idle_accelerator_comes_with_a_pip_line_that_pip_accepts(monkeypatch, path):
    monkeypatch.setattr(environment.Path, "exists", lambda self: str(self) == path)
    message = startup.idle_accelerator()
    assert message is not None
    command = re.search("`(.*)`", message).group(1)
    assert command.endswith('pip install -e ".[cuda13]"')
    assert command.startswith(sys.executable)
    assert "--allow_cpu" in message


def test_an_idle_tpu_is_named_and_libtpu_alone_is_not(monkeypatch):
    """libtpu without a TPU compiles for TPUs that are elsewhere."""
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    found = {"libtpu": object()}
    monkeypatch.setattr(startup.importlib.util, "find_spec", found.get)
    assert startup.idle_accelerator() is None
    monkeypatch.setattr(environment, "has_tpu", lambda: True)
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
    for arguments, words in (
        (("host:1", None, None), "needs --num_processes"),
        ((None, 2, 1), "need --coordinator_address"),
        (("localhost", 2, 0), "must be HOST:PORT, got 'localhost'"),
    ):
        with pytest.raises(ValueError, match=words):
            startup.initialize_distributed(*arguments)


@pytest.fixture
def cache_dir():
    """A function that returns JAX's folder of programs, which is put back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache_or_where_the_user_says(
    cache_dir, monkeypatch, tmp_path
):
    before = cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")  # JAX reads it itself
    startup.enable_compilation_cache()
    assert cache_dir() == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    startup.enable_compilation_cache()
    assert cache_dir() == str(tmp_path / "vitjax" / "xla")


def test_without_a_home_programs_are_not_kept(cache_dir, monkeypatch, caplog):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(startup.home, "cache", lambda: None)
    before = cache_dir()
    startup.enable_compilation_cache()
    assert cache_dir() == before
    [record] = caplog.records
    assert "no home folder: programs are compiled again" in record.getMessage()


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
