"""Import the package `configs` of a config file's own project, or the shipped one."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitjax.config import shipped


class Call(NamedTuple):
    """One call of configs.common.parse_arg, and its result."""

    arg: str | None
    defaults: Mapping[str, Any]
    result: Mapping[str, Any]


@contextlib.contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Let the config file `path` import as in its own project, while this is open.

    The parent of the file's folder is the first on sys.path. `configs` has the modules
    of three folders `configs`, the first that has one: that in the file's folder, for a
    file in the project's root; that in the parent; the shipped one. A package of this
    name that was imported before is hidden.
    """
    beside = path.resolve().parent
    own = beside.parent
    hidden = {name: sys.modules.pop(name) for name in _loaded()}
    sys.path.insert(0, str(own))
    try:
        _import_configs(beside, own)
        yield
    finally:
        sys.path.remove(str(own))
        for name in _loaded():
            del sys.modules[name]
        sys.modules |= hidden


def record_parse_arg(calls: list[Call]) -> None:
    """Append each call of the opened configs.common.parse_arg to `calls`."""
    common = importlib.import_module("configs.common")
    parse_arg = getattr(common, "parse_arg", None)
    if parse_arg is None:
        return

    def recording(arg: str | None, **defaults: Any) -> Any:
        calls.append(Call(arg, defaults, {}))  # kept if parse_arg raises an error
        calls[-1] = Call(arg, defaults, parse_arg(arg, **defaults))
        return calls[-1].result

    vars(common)["parse_arg"] = recording


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "configs"]


def _import_configs(*folders: Path) -> None:
    """Put a package `configs` into sys.modules, of each folder's and the shipped one."""
    places = [folder / "configs" for folder in (*folders, shipped.root())]
    init = next(p / "__init__.py" for p in places if (p / "__init__.py").is_file())
    spec = importlib.util.spec_from_file_location(
        "configs", init, submodule_search_locations=list(map(str, places))
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = package
    spec.loader.exec_module(package)
