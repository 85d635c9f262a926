"""The architecture: who may import whom. Every import counts, also inside functions."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vitjax", "input_pipeline", "configs", "parity")

ALL = ("all rows above",)
# Rooms (a folder, or a file on top), and which others of their package they may import.
# Imports inside a room are free.
ROOMS = {
    "vitjax": [
        ("config", ()),
        ("trees files commands markdown", ()),
        ("command_line", ("config", "commands")),
        ("devices", ("config", "trees")),
        ("estimate", ("devices",)),
        ("models", ("config",)),
        ("optim", ("config", "trees")),
        ("step", ("config", "devices", "trees")),
        ("records", ("config", "devices", "trees", "files")),
        ("mirror", ("config", "devices", "files", "records")),
        ("checkpoints", ("config", "devices", "trees", "files", "mirror")),
        ("data", ("config", "devices")),
        ("weights", ("config", "models", "mirror", "checkpoints", "trees", "files")),
        ("evaluators", ("config", "step", "devices")),
        ("program", ("config", "models", "optim", "step", "devices", "trees")),
        ("memory", ("config", "devices", "estimate", "program")),
        ("synthetic", ("config", "devices", "program")),
        ("loop start", ALL),
        ("train", ALL),
        ("tools", ALL),
        ("library benchmark", ALL),
        ("__main__", ALL),
    ],
    "input_pipeline": [
        ("environment home places spec plans prefetch tracing parts warps", ()),
        ("bucket", ALL),
        ("layers", ALL),
        ("device_randaug", ALL),
        ("sources randaug device_ops", ALL),
        ("ops", ALL),
        ("stream", ALL),
        ("pipeline", ALL),
        ("look benchmark prepare", ALL),
        ("benchmark_bucket benchmark_memory benchmark_prepared", ALL),
    ],
    "parity": [
        ("reference", ()),
        ("sides", ALL),
        ("rungs", ALL),
        ("faults", ALL),
        ("report", ALL),
        ("speed gpu __main__", ALL),
    ],
}
# Package -> who may import it.
FENCES = {
    "torch": ("parity", "vitjax.weights"),
    "torchvision": ("parity", "vitjax.weights.libraries", "vitjax.weights.other_models"),
    "tensorflow": ("input_pipeline",),
    "tensorflow_datasets": ("input_pipeline",),
    "wandb": ("vitjax.records.sinks",),
    "tensorboardX": ("vitjax.records.sinks",),
    "obstore": ("input_pipeline.bucket",),
    "input_pipeline.bucket": ("input_pipeline", "vitjax"),
    "input_pipeline.device_ops": (
        "input_pipeline", "vitjax.program", "vitjax.evaluators", "vitjax.benchmark",
        "vitjax.start", "vitjax.train", "vitjax.tools", "parity",
        "vitjax.weights.normalisation",
    ),
    "input_pipeline.spec": (
        "input_pipeline", "vitjax.tools", "vitjax.weights.normalisation", "parity",
        "vitjax.config.names", "vitjax.library.training",
        "vitjax.weights.preprocessing",
    ),
    "input_pipeline.home": ("input_pipeline", "vitjax", "parity"),
    "input_pipeline.parts": ("input_pipeline", "vitjax"),
    "input_pipeline.places": ("input_pipeline", "vitjax", "parity"),
    "input_pipeline.environment": ("input_pipeline", "vitjax.devices"),
    "input_pipeline": (
        "input_pipeline", "vitjax.train", "vitjax.data", "vitjax.tools", "parity",
        "configs.everyday",
    ),
    "configs": ("configs", "vitjax.train", "vitjax.tools", "parity"),
    "vitjax": ("vitjax", "parity", "configs.pretrained"),
}  # fmt: skip
WITHOUT_TENSORFLOW = (
    "input_pipeline.bucket",
    "input_pipeline.bucket.errors",
    "input_pipeline.spec",
    "input_pipeline.device_ops",
    "input_pipeline.device_randaug",
    "input_pipeline.layers",
    "input_pipeline.plans",
    "input_pipeline.home",
    "input_pipeline.parts",
    "input_pipeline.places",
    "input_pipeline.warps",
)
# The packages that prepare a process, and the one module that they import to do so.
PREPARED_BY = {
    "input_pipeline": "input_pipeline.environment",
    "vitjax": "input_pipeline",
}
REFERENCE_MAY_IMPORT = {"torch", "numpy", "parity"} | set(sys.stdlib_module_names)


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


def _room(name):
    """(package, room) of a module or of a name in one."""
    return (*name.split("."), "")[:2]


def _may_import():
    """(package, room) -> the rooms of the package that it may import."""
    table = {}
    for package, rows in ROOMS.items():
        above = []
        for rooms, others in rows:
            others = [*above] if others is ALL else others
            table |= {(package, room): others for room in rooms.split()}
            above += rooms.split()
    return table


MODULES = dict(_modules())
MAY_IMPORT = _may_import()


@pytest.mark.parametrize("name", MODULES)
def test_every_import_is_allowed(name):
    for imported, top in _imports(MODULES[name]):
        fence = _longest(imported, FENCES)
        if fence is not None:
            allowed = FENCES[fence]
            assert imported == PREPARED_BY.get(name) or any(
                _under(name, p) for p in allowed
            ), (name, imported)
        ours, other = _room(name), _room(imported)
        if ours[0] == other[0] and ours != other and other in MAY_IMPORT:
            assert other[1] in MAY_IMPORT.get(ours, other), (name, imported)
        if name in WITHOUT_TENSORFLOW:
            assert not _under(imported, "tensorflow"), (name, imported)
        if _under(name, "parity.reference"):
            assert imported.split(".")[0] in REFERENCE_MAY_IMPORT, (name, imported)
            assert not _under(imported, "parity") or _under(
                imported, "parity.reference"
            ), (name, imported)
        if name in PREPARED_BY and top:  # nothing else happens at their import
            assert imported in (PREPARED_BY[name], "typing.TYPE_CHECKING", "typing.Any")


def test_every_module_is_in_a_room():
    rooms = {_room(name) for name in MODULES}
    assert {r for r in rooms if r[0] in ROOMS and r[1]} == MAY_IMPORT.keys()


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_trainer_loads_nothing_heavy_and_touches_no_device():
    """test_command.py shows the same of the tools."""
    heavy = {"torch", "sklearn", "matplotlib", "wandb", "tensorflow", "tensorboardX"}
    run(
        "import sys, vitjax\nassert not {'jax', 'flax'} & sys.modules.keys()\n"
        "vitjax.load, vitjax.create_model\n"
        "import vitjax.train, vitjax.benchmark\n"
        f"assert not {heavy} & sys.modules.keys(), {heavy} & sys.modules.keys()\n"
        "from absl import flags\n"
        "assert 'config' not in flags.FLAGS and 'workdir' not in flags.FLAGS\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )


def test_the_core_runs_where_tensorflow_is_missing():
    """A benchmark needs neither ml_collections nor orbax."""
    missing = ("tensorflow", "tensorflow_datasets", "ml_collections", "orbax")
    assert "img/s per device" in run(
        f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n"
        "import vitjax.models, vitjax.step, vitjax.optim, vitjax.step.losses\n"
        "from vitjax.benchmark import main\n"
        "sys.exit(main(['--model=mu/16', '--batch_size=4', '--image_size=32',"
        " '--steps=1']))"
    )


def test_every_signature_with_shapes_is_checked_in_tests():
    """The option --jaxtyping-packages names each module that annotates arrays."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    [given] = [x for x in options["ini_options"]["addopts"] if "--jaxtyping" in x]
    *checked, _ = given.partition("=")[2].split(",")
    annotated = [
        name
        for name, tree in MODULES.items()
        if any(module.startswith("jaxtyping.") for module, _ in _imports(tree))
    ]
    assert len(annotated) > 30
    for module in annotated:
        assert any(module == x or module.startswith(f"{x}.") for x in checked), module
    for prefix in checked:
        assert any(x == prefix or x.startswith(f"{prefix}.") for x in annotated), prefix
