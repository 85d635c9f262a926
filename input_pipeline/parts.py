"""Find parts that a person has written: models, ops, sources and others, by dotted name.

"mine.vit2" is what the module `mine` registers as "vit2", or else its attribute vit2. A
module registers parts in a function that fills empty tables:

    def register_parts(tables):
        tables.ops["posterize"] = posterize

Nothing is kept between two look-ups, except in Python's own sys.modules. Importing a
module runs its code, so names of a stranger need `vitjax.config.names.check_stored`
first. Standard library only.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Kind of part -> its name in messages. The kinds are the fields of `Tables`.
KINDS = {
    "models": "model",
    "ops": "op",
    "device_ops": "device op",
    "sources": "kind of data",
    "evaluators": "evaluator",
    "losses": "loss",
    "optimizers": "optimizer",
}
# The attribute that is used where a name is a module, as in big_vision's configs.
_INSIDE = {"models": "Model", "evaluators": "Evaluator"}
# Errors that are slips of a programmer, where a ValueError may be meant for people.
SLIPS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    TypeError,
)
_OURS = ("vitjax", "input_pipeline", "configs", "parity")


class NotFound(ValueError):
    """No folder has this module."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """What one module registers: a part by its name, for each kind."""

    models: dict[str, Any] = dataclasses.field(default_factory=dict)
    ops: dict[str, Any] = dataclasses.field(default_factory=dict)
    device_ops: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluators: dict[str, Any] = dataclasses.field(default_factory=dict)
    losses: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizers: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_dotted(name: Any) -> bool:
    """Return whether a name is of the form module.attribute, as "mine.vit2"."""
    return isinstance(name, str) and "." in name and is_module_name(name)


def is_module_name(name: Any) -> bool:
    """Return whether a module can have this name, as "mine" or "mine.ops"."""
    return isinstance(name, str) and all(map(str.isidentifier, name.split(".")))


@contextlib.contextmanager
def looking_in(*folders: str) -> Iterator[None]:
    """Let imports also look in these folders, after all others."""
    new = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(new)
    importlib.invalidate_caches()  # a file may have been written a moment ago
    try:
        yield
    finally:
        for folder in new:
            sys.path.remove(folder)


def load(name: str) -> types.ModuleType:
    """Import a module from Python's path or the current folder.

    Raises NotFound if there is none, and ValueError with file and line if its own code
    fails.
    """
    if name in sys.modules:
        return sys.modules[name]
    with looking_in(os.getcwd()):
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            gone = getattr(error, "name", None) or " "
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(
                f"{gone}."
            ):
                raise _not_found(gone) from None
            raise ValueError(
                f"the module {name!r} cannot be imported: {_told(error)}"
            ) from error


def registered(name: str) -> Tables:
    """Return what the module `name` registers; empty tables if it registers nothing.

    Raises ValueError, besides those of `load`, if its `register_parts` fails.
    """
    module, tables = load(name), Tables()
    register = getattr(module, "register_parts", None)
    if register is None:
        return tables
    try:
        register(tables)
    except Exception as error:
        raise ValueError(
            f"register_parts of the module {name!r} fails: {_told(error)}"
        ) from error
    for kind, what in KINDS.items():
        for part in getattr(tables, kind):
            if not (isinstance(part, str) and part.isidentifier()):
                raise ValueError(
                    f"the module {name!r} registers the {what} {part!r}, whose name must "
                    "be letters, digits and _"
                )
    return tables


def find(name: str, kind: str) -> Any:
    """Return the part of a dotted name. `kind` is a key of KINDS.

    A model or an evaluator may also be named by its module, which then has a `Model` or
    an `Evaluator`. Raises ValueError, in one sentence, if there is no such part.
    """
    parent, _, attribute = name.rpartition(".")
    module = load(parent)
    found = getattr(registered(parent), kind).get(attribute)
    if found is None:
        found = getattr(module, attribute, None)
    if found is None and hasattr(module, "__path__"):
        with contextlib.suppress(NotFound):
            found = load(name)
    what = KINDS[kind]
    if isinstance(found, types.ModuleType):
        if kind not in _INSIDE:
            raise ValueError(
                f"the {what} {name!r} is a module: name one in it, as in {name}.NAME"
            )
        found = getattr(found, _INSIDE[kind], None)
        if found is None:
            raise ValueError(f"the module {name!r} has no {_INSIDE[kind]}")
    if found is None:
        raise _no_attribute(module, attribute)
    if not callable(found) and not hasattr(found, "make"):  # an Op has it
        raise ValueError(f"the {what} {name!r} must be a function or a class")
    return found


def arity(function: Any) -> int:
    """Return how many positional arguments a function needs."""
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in inspect.signature(function).parameters.values()
    )


def random_or_not(function: Any, text: str, second: str) -> bool:
    """Return whether an op's function takes a second argument, its randomness.

    Raises ValueError unless the op `text` returned fn(value) or fn(value, `second`).
    """
    needs = arity(function) if callable(function) else 0
    if needs not in (1, 2):
        raise ValueError(
            f"op {text!r} must return a function fn(value) or fn(value, {second}), got "
            f"{function!r}"
        )
    return needs == 2


@contextlib.contextmanager
def explained(
    what: str, kinds: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    """Turn an error in a person's code into a ValueError: one sentence, file and line.

    An error that passed no line of a person's, or is not of `kinds`, is raised as it is.
    """
    try:
        yield
    except kinds as error:
        why = in_own_code(error)
        if why is None:
            raise
        raise ValueError(f"{what} fails: {why}") from error


def in_own_code(error: BaseException) -> str | None:
    """Return "FILE, line N: TYPE: message" of a person's line that failed, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    return _told(error) if any(_is_own(frame.filename) for frame in frames) else None


def is_persons_own(name: str, outside: str | os.PathLike[str]) -> bool:
    """Return whether a module is in a folder of the person's, without importing it.

    Modules of Python, of installed packages and of this project are not, nor is one
    whose files lie in or below the folder `outside`, even if that is the current one.
    """
    top = name.split(".")[0]
    if top in sys.stdlib_module_names or top in _OURS:
        return False
    with looking_in(os.getcwd()):
        spec = importlib.util.find_spec(top)
    if spec is None:
        return True  # and importing it will say so
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    return not any(
        _installed(place) or _is_below(place, [os.fspath(outside)])
        for place in places
        if place
    )


def _installed(path: str) -> bool:
    """Return whether a path is below Python's library or an installed package."""
    schemes = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = [sysconfig.get_path(scheme) for scheme in schemes]
    return _is_below(
        path, [*roots, *site.getsitepackages(), site.getusersitepackages()]
    )


def _is_below(path: str, folders: Sequence[str]) -> bool:
    """Return whether a path is one of the folders, or below one; links are followed."""
    real = Path(path).resolve()
    return any(real.is_relative_to(Path(folder).resolve()) for folder in folders)


def _not_found(name: str) -> ValueError:
    parent, _, child = name.rpartition(".")
    if parent:
        return _no_attribute(sys.modules[parent], child)
    folders = [p or os.getcwd() for p in sys.path if os.path.isdir(p or ".")]
    folders = [f for f in dict.fromkeys(folders) if not _installed(f)]
    return NotFound(
        f"the module {name!r} is not found; looked in {', '.join(folders)} and the "
        "installed packages; PYTHONPATH=DIR adds a folder"
    )


def _no_attribute(module: types.ModuleType, name: str) -> ValueError:
    own = [
        key
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and key[0] != "_"
    ]
    file = getattr(module, "__file__", None)
    where = f" ({_short(file)})" if file else ""
    has = f"; it has {', '.join(own[:20])}" if own else ""
    # NotFound, because a package may lack a module of this name.
    return NotFound(f"the module {module.__name__!r}{where} has no {name!r}{has}")


def _told(error: BaseException) -> str:
    """Return "FILE, line N: TYPE: message" of the person's line that failed."""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_short(error.filename)}, line {error.lineno}: "
        return f"{place}{type(error).__name__}: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != __file__
    ]
    own = [frame for frame in frames if _is_own(frame.filename)] or frames
    place = f"{_short(own[-1].filename)}, line {own[-1].lineno}: " if own else ""
    message = str(error).strip().split("\n")[0]
    return f"{place}{type(error).__name__}: {message}"


def _is_own(file: str) -> bool:
    """Return whether a file of a traceback is neither installed nor this project's."""
    root = Path(__file__).parents[1]
    ours = [str(root / package) for package in _OURS]
    return os.path.isfile(file) and not _installed(file) and not _is_below(file, ours)


def _short(path: str) -> str:
    """Return a path relative to the current folder, if it is below it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
