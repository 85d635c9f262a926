"""One sentence for what JAX raises, and for a Ctrl-C while modules load."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vitjax import train
from vitjax.devices import failures
from vitjax.tools import command

ROOT = Path(__file__).resolve().parents[3]


def _out_of_memory():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda: jnp.zeros(1 << 48))().block_until_ready()
    return caught.value


def test_a_full_device_names_what_takes_less(monkeypatch, capsys):
    error = _out_of_memory()

    def full(*_, **__):
        raise error

    monkeypatch.delenv("VITJAX_TRACEBACK", raising=False)
    monkeypatch.setattr(train, "train_and_evaluate", full)
    monkeypatch.setattr(train.peers, "exit_within", lambda *_: None)
    assert train.cli(["--config", "configs/quickstart.py"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: the memory of a device is full: RESOURCE_EXHAUSTED: Out of memory"
    )
    assert "--config.accum_freq=2" in said
    assert "python -m vitjax.tools.plan --config configs/quickstart.py" in said
    assert command.run(full) == 1
    assert failures.LESS_MEMORY in capsys.readouterr().err


def test_other_errors_of_jax_and_ours():
    error = jax.errors.JaxRuntimeError("INTERNAL: a fault\nits details")
    assert failures.sentence(error) == "JAX stopped: INTERNAL: a fault"
    assert failures.sentence(ValueError("wrong")) == "wrong"
    assert failures.sentence(RuntimeError("ours")) is None
    assert failures.sentence(AssertionError("ours")) is None


# JAX finds no plugin of the first, tries the second, and does not know the third.
@pytest.mark.parametrize("platform", ["cuda", "tpu", "nosuch"])
def test_a_platform_that_is_not_there(platform):
    code = (
        "from vitjax.tools import command\n"
        "def work():\n    import jax\n    jax.devices()\n"
        "raise SystemExit(command.run(work))"
    )
    ran = _run(code, JAX_PLATFORMS=platform)
    if platform in ("cuda", "tpu") and ran.returncode == 0:
        pytest.skip(f"this machine has {platform}")
    assert (ran.returncode, ran.stdout) == (1, "")
    *others, line = ran.stderr.splitlines()
    assert not others or platform == "tpu"  # libtpu, where it is installed, logs
    assert line.startswith(f"error: JAX_PLATFORMS asks for '{platform}', which JAX ")
    assert "set it to cpu" in line or "pip install" in line
    assert "(set JAX_PLATFORMS" not in line


def test_ctrl_c_while_train_imports_jax(tmp_path):
    (tmp_path / "jax.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    code = (
        "import runpy, signal, sys\n"
        "sys.argv = ['train', '--config', 'quickstart']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "runpy.run_module('vitjax.train', run_name='__main__')"
    )
    ran = _run(code, PYTHONPATH=str(tmp_path))
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_raises_again_after_the_imports():
    own = signal.getsignal(signal.SIGINT)
    try:
        for before in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, before)
            failures.leave_on_interrupt()
            during = signal.getsignal(signal.SIGINT)
            assert (during is before) == (before == signal.SIG_IGN)
            failures.raise_on_interrupt()
            assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, own)


def _run(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "VITJAX_TRACEBACK"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_tool_can_be_left_while_it_loads():
    tools = Path(__file__).resolve().parents[3] / "vitjax" / "tools"
    commands = [p for p in tools.glob("*.py") if "__main__" in p.read_text()]
    assert len(commands) > 9
    for path in commands:
        begin = path.read_text().partition("failures.leave_on_interrupt()")
        assert begin[1], path
        assert "import vitjax" not in begin[0], path
        assert begin[0].count("from vitjax") == 1, path  # failures itself
