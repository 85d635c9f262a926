"""Files of strangers run no code: two modules name pickle, one imports by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path for name in ("vitjax", "input_pipeline", "configs", "parity")
    for path in (ROOT / name).rglob("*.py")
)  # fmt: skip
# Module -> names of pickle that it may use.
PICKLE = {
    "input_pipeline/sources/array_files.py": {"Unpickler", "UnpicklingError"},
    "vitjax/weights/torch_files.py": {"UnpicklingError"},
}
# The modules that import by a variable: a person's own parts, and the module that a literal
# table names. `vitjax.config.names.check_stored` refuses the names of a stranger's file, as
# tests/vitjax/config/test_names.py shows.
IMPORTS = {
    "input_pipeline/parts.py": "importlib.import_module(name)",
    "vitjax/__main__.py": "importlib.import_module(commands.COMMANDS[name])",
}
UNSAFE_MODULES = {"dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
UNSAFE_MODULES |= {"_pickle", "cPickle", "pickletools", "builtins"}
BUILTINS = ("eval", "exec", "compile", "__import__", "__builtins__")
# Function -> the keyword without which it unpickles, and the value that it must have.
RESTRICTED = {
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
UNSAFE = {
    "numpy.lib.format.read_array",
    "numpy.lib.npyio.load",
    "pandas.read_pickle",
    "pandas.io.pickle.read_pickle",
    "torch.serialization.load",
    "torch.hub.load",
}


def names(tree: ast.AST) -> dict[str, str]:
    """Return {name in the file: dotted name}, by imports and plain assignments."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found = dotted(node.value, known)
            if found.split(".")[0] in ("pickle", "numpy", "torch", "pandas"):
                known[node.targets[0].id] = found
    return known


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """Return the dotted name of `a.b.c`, "" if it is no chain of names."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, known)):
        return f"{base}.{node.attr}"
    return ""


def offences(text: str, pickle: set[str] = frozenset()) -> Iterator[str]:
    """Yield each part of a module's text that may run a stranger's code.

    `pickle` holds the names of pickle that it may use.
    """
    tree = ast.parse(text)
    known = names(tree)
    allowed = set()  # the functions of calls that are restricted
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            yield from (m for m in modules if m.split(".")[0] in UNSAFE_MODULES)
            if "pickle" in modules and isinstance(node, ast.ImportFrom):
                yield from (a.name for a in node.names if a.name not in pickle)
            if isinstance(node, ast.ImportFrom):
                found = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name for name in found if name in UNSAFE)
        if isinstance(node, ast.Call):
            name = dotted(node.func, known)
            keyword, value = RESTRICTED.get(name, (None, None))
            for given in node.keywords:
                if keyword is not None and given.arg == keyword:
                    constant = getattr(given.value, "value", None)
                    if constant is value:
                        allowed.add(node.func)
            if name == "importlib.import_module":
                module = getattr(node.args[0], "value", None) if node.args else None
                top = str(module).split(".")[0]
                if not isinstance(module, str) or top in {"pickle", *UNSAFE_MODULES}:
                    yield ast.unparse(node)
            if name == "getattr" and len(node.args) > 1:
                base = dotted(node.args[0], known)
                attribute = getattr(node.args[1], "value", None)
                full = f"{base}.{attribute}"
                if base == "pickle" or full in UNSAFE or full in RESTRICTED:
                    yield ast.unparse(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, known)
            if name.startswith("pickle.") and name.split(".")[1] not in pickle:
                yield name
            if name in UNSAFE or (name in RESTRICTED and node not in allowed):
                yield name
            if isinstance(node, ast.Name) and node.id in BUILTINS:
                yield node.id
            if isinstance(node, ast.Attribute) and node.attr in (
                "read_pickle",
                "__import__",
                "__builtins__",
            ):
                yield node.attr


def test_nothing_is_unpickled_or_evaluated():
    for path in FILES:
        name = str(path.relative_to(ROOT))
        found = list(offences(path.read_text(), PICKLE.get(name, set())))
        assert found == ([IMPORTS[name]] if name in IMPORTS else []), path


def test_the_exceptions_are_needed():
    for path in PICKLE:
        assert list(offences((ROOT / path).read_text())), path


REFUSED = [
    "import pickle\npickle.load(f)",
    "import pickle as p\np.loads(b)",
    "import pickle as p\nf = p.loads\nf(b)",
    "from pickle import load",
    "from pickle import Unpickler as Restricted, loads as read",
    "from pickle import *",
    "import pickle\np = pickle\np.load(f)",
    "import pickle\ngetattr(pickle, 'load')(f)",
    "import numpy\ngetattr(numpy, 'load')(f)",
    "import _pickle",
    "import cloudpickle.cloudpickle",
    "from joblib import load",
    "import numpy\nnumpy.load(f)",
    "import numpy as np\nnp.load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=True)",
    "import numpy as np\nnp.load(f, None, True)",
    "import numpy as np\nnp.load(f, allow_pickle=flag)",
    "import numpy as np\nnp.load(f, **{'allow_pickle': True})",
    "import numpy as n\nn.load(f, 'r')",
    "from numpy import load\nload(f)",
    "from numpy import load as read\nread(f)",
    "import numpy as np\nread = np.load\nread(f)",
    "import numpy as np\nmap(np.load, files)",
    "import numpy.lib.format as f\nf.read_array(x)",
    "import pandas as pd\npd.read_pickle(f)",
    "from pandas import read_pickle",
    "import torch\ntorch.load(f)",
    "import torch as t\nt.load(f, weights_only=False)",
    "def f():\n    from torch import load\n    return load(x)",
    "import torch\ntorch.hub.load('a/b')",
    "eval('1')",
    "run = exec",
    "__import__('pickle')",
    "import importlib\nimportlib.import_module('pickle')",
    "from importlib import import_module as get\nget(name)",
    "import builtins",
]
ALLOWED = [
    "import pickle\nclass A(pickle.Unpickler): pass",
    "from pickle import UnpicklingError",
    "import numpy as np\nnp.load(f, allow_pickle=False)",
    "import torch as t\nt.load(f, map_location='cpu', weights_only=True)",
    "import json\njson.load(f)",
    "import re\nre.compile('a')",
]


def test_unsafe_code_is_found_and_restricted_code_is_not():
    for text in REFUSED + ALLOWED:
        found = list(offences(text, {"Unpickler", "UnpicklingError"}))
        assert bool(found) == (text in REFUSED), text
