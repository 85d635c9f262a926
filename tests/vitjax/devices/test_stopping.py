"""Signals: the first asks, the second kills."""

import os
import signal
import subprocess
import sys

import pytest

from vitjax.devices.stopping import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.due(1)
        os.kill(os.getpid(), number)
        assert stop.due(1)
        assert stop.due(2)
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capfd.readouterr().out


def test_the_second_signal_exits_at_once():
    code = (
        "import os, signal, time\n"
        "from vitjax.devices.stopping import StopSignal\n"
        "with StopSignal():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)
    assert done.returncode == 128 + signal.SIGTERM
