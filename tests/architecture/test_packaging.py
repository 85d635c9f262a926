"""What a wheel holds and where it runs; every dependency is used and pinned."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import configs
import input_pipeline
import parity
import vitjax
from constraints import keep, write

PACKAGES = {"vitjax", "input_pipeline", "configs", "parity"}
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = sorted((ROOT / "constraints").glob("python*.txt"))
# Distribution -> import name, where they differ; None: used without an import.
IMPORT_NAMES = {
    "absl-py": "absl",
    "importlib-resources": None,  # by tensorflow-datasets
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-datasets": "tensorflow_datasets",
    "google-crc32c": "google_crc32c",
    "ml-collections": "ml_collections",
}


def _canonical(requirement):
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


def _used():
    names = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.split(".")[0])
    return names


def test_the_four_packages_share_a_parent():
    homes = {
        Path(m.__file__).resolve().parent.parent
        for m in (vitjax, input_pipeline, configs, parity)
    }
    assert homes == {ROOT}


def test_nothing_is_required_that_is_not_used():
    used = _used()
    for requirement in PROJECT["dependencies"]:
        name = _canonical(requirement)
        name = IMPORT_NAMES.get(name, name)
        assert name is None or name in used, requirement


def test_nothing_is_used_that_is_not_required():
    extras = PROJECT["optional-dependencies"]
    named = ("bucket", "huggingface", "parity", "transformers")
    optional = [requirement for name in named for requirement in extras[name]]
    # An export is compared with timm where it is installed.
    optional += [r for r in extras["dev"] if r.startswith("timm")]
    # No extra can name jax2onnx: it needs an older orbax-checkpoint than the pinned one.
    optional += ["jax2onnx", "onnxruntime"]
    required = {_canonical(r) for r in PROJECT["dependencies"] + optional}
    known = {IMPORT_NAMES.get(name, name) for name in required}
    assert _used() - set(sys.stdlib_module_names) - PACKAGES <= known


def _pins(path):
    pins = write.parse_pins(path.read_text())
    return {_canonical(name): version for name, version in pins.items()}


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_and_no_library_of_cuda(path):
    """torch and jax name the CUDA libraries that they need, and need different ones."""
    wanted = list(PROJECT["dependencies"])
    for extra in ("bucket", "parity", "huggingface", "dev", "transformers"):
        wanted += PROJECT["optional-dependencies"][extra]
    names = _pins(path).keys()
    assert {_canonical(r) for r in wanted} <= names
    assert [n for n in names if n.startswith(("nvidia", "cuda", "jax-cuda"))] == []


def test_the_pins_are_what_is_tested():
    running = "python{}.{}.txt".format(*sys.version_info[:2])
    [path] = [path for path in PINS if path.name == running]
    for name, version in _pins(path).items():
        if name in keep.FAMILY:  # make test keeps those that are installed
            continue
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert installed.split("+")[0] == version, name


def test_all_files_name_the_same_supported_pythons():
    minors = sorted(int(path.stem.removeprefix("python3.")) for path in PINS)
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PROJECT["requires-python"] == f">=3.{minors[0]},<3.{minors[-1] + 1}"
    makefile = (ROOT / "Makefile").read_text()
    assert f"SUPPORTED := {' '.join(f'3.{minor}' for minor in minors)}\n" in makefile


def _applies(requirement, extras):
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""})


def _brought(requirements):
    """Return all that these bring, by the metadata of the installed packages."""
    waiting = [r for r in map(Requirement, requirements) if _applies(r, ())]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        key = _canonical(requirement.name), frozenset(requirement.extras)
        if key not in seen:
            seen.add(key)
            lines = importlib.metadata.requires(requirement.name) or ()
            waiting += [
                r for r in map(Requirement, lines) if _applies(r, requirement.extras)
            ]
    return {name for name, _ in seen}


def test_quickstart_fetches_no_torch():
    brought = _brought(PROJECT["dependencies"])
    assert {"jaxlib", "tensorstore"} <= brought  # the search is recursive
    assert not any(name in keep.FAMILY or name.startswith("nvidia") for name in brought)


# A user's project, whose packages have the names of ours; configs has no common.
PROJECT_FILES = {
    "configs/__init__.py": "mine = True",
    "configs/sizes.py": "epochs = 7",
    "configs/run.py": """
from ml_collections import ConfigDict
from configs import mine, sizes
from configs.common import parse_arg

def get_config(arg=None):
    return ConfigDict(parse_arg(arg, epochs=sizes.epochs))
""",
    "quickstart.py": """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"near": True})
""",
    "parity/__init__.py": "raise ImportError('the other parity')",
}
IN_THE_PROJECT = """
import sys
import configs.sizes as own
import vitjax.train, vitjax.benchmark, vitjax.models
from vitjax import start
from vitjax.__main__ import main
from vitjax.config.files import load

start.check_packages()
names = ("vit_s16_i1k", "vit_s16_i1k.py", "configs/vit_s16_i1k.py", "configs/vit_s16_i1k")
assert len({load(name).to_json() for name in names}) == 1
assert load("vit_s16_i1k:preset=fixed").model.rep_size is False
assert load("vit_i1k").model.variant == "B/16"  # it imports another config
assert load("configs/run.py").epochs == load("run").epochs == 7
assert load("quickstart").near
assert sys.modules["configs.sizes"] is own and "configs.common" not in sys.modules
try:
    main(["parity", "--help"])
except SystemExit as stop:
    assert stop.code == 0
print(vitjax.__file__)
"""


def test_a_wheel_runs_in_a_project_with_packages_of_the_same_names(tmp_path):
    source = tmp_path / "source"  # without an earlier build
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--no-build-isolation", "-w", tmp_path / "dist", source]
    subprocess.run(command, check=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
        [scripts] = [name for name in names if name.endswith("entry_points.txt")]
        assert "vitjax = vitjax.__main__:main" in archive.read(scripts).decode()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"vitjax", "input_pipeline"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shipped = {name.removeprefix("vitjax/shipped/") for name in names}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in shipped
    for name, text in PROJECT_FILES.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    out = subprocess.run(
        [sys.executable, "-c", IN_THE_PROJECT],
        cwd=tmp_path / "project",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "usage: " in out.stdout
    assert Path(out.stdout.splitlines()[-1]).is_relative_to(tmp_path)


def test_the_project_names_nothing_outside_itself():
    folders = (*PACKAGES, "constraints", "tests")
    code = {p for folder in folders for p in (ROOT / folder).rglob("*.py")}
    pages = {*(ROOT / "docs").iterdir(), ROOT / "README.md", ROOT / "Makefile"}
    for path in code - {Path(__file__).resolve()} | pages:
        text = path.read_text()
        for word in ("DESIGN.md", "shared/", "/work/", "/root/"):
            assert word not in text, path


PRODUCT = PACKAGES - {"configs"}


def test_the_architecture_has_the_first_sentence_of_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed, room = {}, ""
    for line in text.splitlines():
        if found := re.fullmatch(r"### (\S+/)", line):
            room = found[1]
        elif found := re.match(r"- `(\w+\.py)`: (.+)", line):
            listed[room + found[1]] = found[2]
    files = [p for package in PRODUCT for p in (ROOT / package).rglob("*.py")]
    said = {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in files}
    said = {path: ast.get_docstring(tree) for path, tree in said.items() if tree.body}
    first = {path: " ".join(s.partition("\n\n")[0].split()) for path, s in said.items()}
    assert listed.keys() == first.keys()
    assert [p for p, line in listed.items() if not first[p].startswith(line)] == []


def test_the_readmes_map_has_every_room_and_no_other():
    drawn = (ROOT / "README.md").read_text().split("## Map")[1].split("```")[1]
    below = [path for package in PRODUCT for path in (ROOT / package).rglob("*")]
    rooms = {path.name for path in below if path.is_dir()} - {"__pycache__"}
    others = {p.name for p in [*ROOT.iterdir(), *(ROOT / "tests").iterdir()]}
    named = set(re.findall(r"(\w+)/", drawn))
    assert rooms - {"formats", "keys"} <= named <= rooms | others
