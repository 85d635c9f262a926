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
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: made.append(a))
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    monkeypatch.setattr(devices, "_on_tpu_vm", lambda: False)
    return made


def test_a_plain_single_host_calls_nothing(calls):
    devices.initialize_distributed(None, None, None)
    assert calls == []


@pytest.mark.parametrize(
    ("name", "value", "called"),
    [
        ("SLURM_STEP_NUM_TASKS", "2", True),
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("OMPI_COMM_WORLD_SIZE", "4", True),
        ("TPU_WORKER_HOSTNAMES", "a,b", True),
        ("TPU_WORKER_HOSTNAMES", "a", False),
    ],
)
def test_a_cluster_is_left_to_jax(calls, monkeypatch, name, value, called):
    monkeypatch.setenv(name, value)
    devices.initialize_distributed(None, None, None)
    assert calls == ([()] if called else [])


def test_an_address_needs_the_other_two_and_they_need_it(calls):
    devices.initialize_distributed("host:1", 2, 0)
    assert calls == [("host:1", 2, 0)]
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
