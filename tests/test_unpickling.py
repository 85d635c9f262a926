"""Files of strangers run no code: what could, stands in three places and is restricted."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for name in ("vitjax", "input_pipeline", "configs", "parity")
    for path in (ROOT / name).rglob("*.py")
)  # fmt: skip
# Module -> what of it may be named, and in which files.
PICKLE = {
    "input_pipeline/array_files.py": {"Unpickler", "UnpicklingError"},
    "vitjax/weights/files.py": {"UnpicklingError"},
}
UNSAFE_MODULES = {"dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path):
    tree = ast.parse(path.read_text())
    imported, named = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            named.add(node.attr)
    assert not imported & UNSAFE_MODULES
    assert named <= PICKLE.get(str(path.relative_to(ROOT)), set())
    for name, keywords in calls(tree):
        assert name not in ("eval", "exec", "compile", "__import__")
        if name == "np.load":
            assert not ast.literal_eval(keywords["allow_pickle"])
        if name == "torch.load":
            assert ast.literal_eval(keywords["weights_only"])
