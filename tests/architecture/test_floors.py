"""The architecture: who may import whom. Every import counts, also inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vitjax", "input_pipeline", "configs", "parity")

# A module is on the floor of its longest entry here; imports go down or stay level.
FLOORS = {
    "parity": 4,
    "vitjax.tools": 4,
    "vitjax.train": 3,
    "vitjax.data": 3,
    "vitjax.step": 2,
    "vitjax.program": 2,
    "vitjax.tools.trained": 2,
    "vitjax.loop": 2,
    "vitjax.evaluators.schedule": 2,
    "vitjax.evaluators": 2,
    "vitjax.benchmark": 2,
    "vitjax.models": 1,
    "vitjax.optim": 1,
    "vitjax.records.jsonl": 1,
    "vitjax.records.sinks": 1,
    "vitjax.records.rows": 1,
    "vitjax.records.skipped": 1,
    "vitjax.records.progress": 1,
    "vitjax.records.pictures": 1,
    "vitjax.tools.predictions": 1,
    "vitjax.tools.prediction_pictures": 1,
    "vitjax.records.clock": 1,
    "vitjax.checkpoints.best": 1,
    "vitjax.checkpoints.checkpointer": 1,
    "vitjax.devices.stopping": 1,
    "vitjax.devices.peers": 1,
    "vitjax.checkpoints.checksums": 1,
    "vitjax.weights": 1,
    "vitjax.config.files": 1,
    "vitjax.config.experiment": 1,
    "vitjax.records.workdir": 1,
    "vitjax.devices.startup": 1,
    "vitjax.devices.agreement": 1,
    "vitjax.trees": 0,
    "vitjax.config.durations": 0,
    "vitjax.optim.schedules": 0,
    "vitjax.optim.shampoo": 0,
    "vitjax.step.loss_scale": 0,
    "vitjax.step.losses": 0,
    "vitjax.step.mixup": 0,
    "vitjax.step.ema": 0,
    "vitjax.tools.rollout": 0,
    "vitjax.devices.sharding": 0,
    "vitjax.config.lookup": 0,
    "vitjax.devices.failures": 0,
    "vitjax.files": 0,
    "vitjax.step.flops": 0,
    "vitjax.config.arguments": 0,
}
# Package -> who may import it.
FENCES = {
    "torch": ("parity", "vitjax.weights"),
    "torchvision": (
        "parity",
        "vitjax.weights.libraries",
        "vitjax.weights.other_models",
    ),
    "tensorflow": ("input_pipeline",),
    "tensorflow_datasets": ("input_pipeline",),
    "wandb": ("vitjax.records.sinks",),
    "tensorboardX": ("vitjax.records.sinks",),
    "input_pipeline.device_ops": (
        "input_pipeline",
        "vitjax.program",
        "vitjax.evaluators",
        "vitjax.benchmark",
        "vitjax.train",
        "vitjax.tools",
        "parity",
    ),
    "input_pipeline.home": ("input_pipeline", "vitjax", "parity"),
    "input_pipeline": (
        "input_pipeline",
        "vitjax.train",
        "vitjax.data",
        "vitjax.tools",
        "parity",
    ),
    "configs": ("configs", "vitjax.train", "vitjax.tools", "parity"),
    "vitjax": ("vitjax", "parity", "configs.transfer"),
}
WITHOUT_TENSORFLOW = (
    "input_pipeline.spec",
    "input_pipeline.device_ops",
    "input_pipeline.plans",
    "input_pipeline.threefry",
    "input_pipeline.home",
)
# The packages that prepare a process, and the one module that they import to do so.
PREPARED_BY = {
    "input_pipeline": "input_pipeline.environment",
    "vitjax": "input_pipeline",
}
REFERENCE_MAY_IMPORT = {"torch", "numpy", "parity"} | set(sys.stdlib_module_names)
HEAVY = {"torch", "sklearn", "matplotlib", "wandb", "tensorflow", "tensorboardX"}


def _modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text())


def _imports(tree):
    """(imported dotted name, is it at the top of the file) of every import."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def _under(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def _longest(name, table):
    return max((p for p in table if _under(name, p)), key=len, default=None)


MODULES = dict(_modules())


@pytest.mark.parametrize("name", MODULES)
def test_every_import_is_allowed(name):
    for imported, _ in _imports(MODULES[name]):
        fence = _longest(imported, FENCES)
        if fence is not None:
            allowed = FENCES[fence]
            assert imported == PREPARED_BY.get(name) or any(
                _under(name, p) for p in allowed
            ), (name, imported)
        floor, other = _longest(name, FLOORS), _longest(imported, FLOORS)
        if floor is not None and other is not None:
            assert FLOORS[other] <= FLOORS[floor], (name, imported)
        if name in WITHOUT_TENSORFLOW:
            assert not _under(imported, "tensorflow"), (name, imported)
        if _under(name, "parity.reference"):
            assert imported.split(".")[0] in REFERENCE_MAY_IMPORT, (name, imported)
            assert not _under(imported, "parity") or _under(
                imported, "parity.reference"
            ), (name, imported)
        if name in PREPARED_BY:  # nothing else happens at their import
            assert imported == PREPARED_BY[name]


@pytest.mark.parametrize("name", [m for m in MODULES if m.startswith("vitjax.")])
def test_every_module_of_vitjax_has_a_floor(name):
    assert _longest(name, FLOORS) is not None, f"add {name} to the table"


@pytest.mark.parametrize(
    "name",
    [
        "vitjax.train",
        "vitjax.benchmark",
        "vitjax.tools.convert",
        "vitjax.tools.attention_rollout",
        "vitjax.tools.evaluate",
        "vitjax.tools.plan",
        "vitjax.tools.plot",
        "vitjax.tools.predict",
        "vitjax.tools.profile",
    ],
)
def test_heavy_packages_wait_until_flags_are_parsed(name):
    """Checked in a fresh process: importing a command loads none of them."""
    code = f"import {name}, sys; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == []


def test_the_core_runs_where_tensorflow_is_missing():
    """And where ml_collections and orbax are, which a benchmark does not need."""
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'ml_collections', 'orbax'):\n"
        "    sys.modules[name] = None\n"
        "import vitjax.models, vitjax.step, vitjax.optim, vitjax.step.losses\n"
        "from vitjax.benchmark import main\n"
        "sys.exit(main(['--model=mu/16', '--batch_size=4', '--image_size=32',"
        " '--steps=1']))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    assert "img/s per device" in out.stdout


def test_importing_the_trainer_touches_neither_flags_nor_devices():
    code = (
        "import sys, vitjax.train, jax\n"
        "from absl import flags\n"
        "assert 'config' not in flags.FLAGS and 'workdir' not in flags.FLAGS\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
