"""torchvision imports beside a torch that was built for the CPU only."""

import subprocess
import sys
from pathlib import Path

import pytest

from parity import torchvision_import

ROOT = Path(__file__).parents[2]

USED = (
    "from parity.torchvision_import import import_torchvision\n"
    "torchvision = import_torchvision()\n"
    "assert import_torchvision() is torchvision\n"
    "import torch\n"
    "from torchvision.transforms.v2 import functional\n"
    "image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)\n"
    "assert functional.rotate(image, 90).tolist() == image.rot90(1, (1, 2)).tolist()\n"
    "from torchvision.models import VisionTransformer\n"
)


def test_in_a_fresh_process_without_warnings():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", USED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_without_torchvision(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -e \"\.\[parity\]\""):
        torchvision_import.import_torchvision()
