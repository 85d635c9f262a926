"""Describe a config file: its arguments, and the value and text of every key."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vitjax.config import durations, files, imports, sections, shipped
from vitjax.config.keys import KEYS

TEXTS = {path: text for group in KEYS.values() for path, text in group.items()}
# Path without its kind -> group, and -> place.
GROUPS = {re.sub(r"\[.*?\]", "", p): group for group in KEYS for p in KEYS[group]}
ORDER = {path: place for place, path in enumerate(GROUPS)}


class Argument(NamedTuple):
    """An argument of a config file, as in FILE:NAME=VALUE."""

    name: str
    value: str
    default: str
    meaning: str = ""
    choices: Sequence[str] = ()


class File(NamedTuple):
    """A config file. `config` is None if the file cannot be read, and `error` says why."""

    path: Path
    arguments: list[Argument]
    config: Mapping[str, Any] | None
    error: str | None


def read(spec: str, overrides: Sequence[str] = ()) -> File:
    """Describe the config file "FILE[:ARG]". Raises ValueError if there is none."""
    path = shipped.find(files.split_spec(spec)[0])
    calls: list[imports.Call] = []
    config, error = None, None
    try:
        config = files.from_big_vision(files.load(spec, overrides, calls))[0].to_dict()
    except (ValueError, TypeError, ImportError, OSError) as reason:
        error = str(reason)
    return File(path, _called(calls) or _written(path), config, error)


def _called(calls: Sequence[imports.Call]) -> list[Argument]:
    """Return the arguments of the last call that parses the file's own argument.

    A config may parse twice, with defaults that depend on the first result, and may call
    another config with another argument.
    """
    if not calls:
        return []
    call = [call for call in calls if call.arg == calls[0].arg][-1]
    found = []
    for name, given in call.defaults.items():
        default = getattr(given, "default", given)
        found.append(
            Argument(
                name,
                _plain(call.result.get(name, default)),
                _plain(default),
                getattr(given, "meaning", ""),
                getattr(given, "choices", ()),
            )
        )
    return found


def _plain(value: Any) -> str:
    switch = {True: "on", False: "off"}
    return switch[value] if isinstance(value, bool) else str(value)


def _written(path: Path) -> list[Argument]:
    """Return names and defaults in a file's first call of a function parse_arg."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name == "parse_arg":
                values = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
                return [Argument(k, text, text) for k, text in values.items()]
    return []


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, without its full stop."""
    return re.split(r"\.(?=\s|$)", text, maxsplit=1)[0]


def pattern(path: str) -> str:
    """Return the path in the table of a path in a config, which may not be there.

    "evals.val.data.split" is "input.data.split", and "total_epochs" is "total_*".
    """
    parts = path.split(".")
    if parts[0] == "evals" and len(parts) > 1:
        parts[1] = "NAME"
        if parts[2:3] in (["data"], ["fit_data"]) and parts[3:] != ["match_classes"]:
            parts = ["input", "data", *parts[3:]] if len(parts) > 3 else parts
    prefix, _, unit = parts[-1].rpartition("_")
    if unit in durations.UNITS:
        several = ".".join([*parts[:-1], f"{prefix}_*"])
        if several in TEXTS:
            return several
    return ".".join(parts)


def text_of(path: str, kind: str = "") -> str:
    """Return the text of a path in the table, for one kind of its section."""
    section, _, key = path.rpartition(".")
    return TEXTS.get(f"{section}[{kind}].{key}") or TEXTS.get(path, "")


def kind_in(config: Mapping[str, Any], path: str) -> str:
    """Return the kind of the section of `config` that a path is in: "tfds", "vit"."""
    section = path.rpartition(".")[0]
    table = pattern(section)
    if re.fullmatch(r"evals\.\w+\.(fit_)?data", section):
        table = "input.data"
    if table not in sections.KINDS:
        return ""
    selector, default = sections.KINDS[table]
    name = selector.rpartition(".")[2]
    beside = "." not in selector
    found = value_in(config, name if beside else f"{section}.{name}")
    return str(found or default)


def value_in(config: Mapping[str, Any], path: str) -> Any:
    """Return the value of a dotted path in a config, None if it is not set."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every key that is set; a section precedes its keys."""
    for name, value in config.items():
        path = f"{above}.{name}".strip(".")
        yield path, value
        if isinstance(value, Mapping):
            yield from leaves(value, path)


def unset(config: Mapping[str, Any]) -> Iterator[sections.Key]:
    """Yield each key that `config` leaves out, once, of the kinds that it has."""
    present = {pattern(path) for path, _ in leaves(config)}
    seen = set(present)
    evaluators = [f"evals.{name}" for name in config.get("evals") or {}] or [
        "evals.NAME"
    ]
    for key in sections.all_keys():
        if key.path in seen:
            continue
        places = [key.path.replace("evals.NAME", name) for name in evaluators]
        if not key.kind or key.kind in {kind_in(config, place) for place in places}:
            seen.add(key.path)
            yield key


def group_of(path: str) -> str:
    """Return the group of a path in the table, or of the nearest section above it."""
    while path and path not in GROUPS:
        path = path.rpartition(".")[0]
    return GROUPS.get(path, "Unknown")
