"""Show a config's arguments and keys: for a terminal, one key, and as docs/config.md."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitjax.config import arguments, described, sections, shipped
from vitjax.config.keys import KEYS

PAGE = """\
# Config keys

This page lists every config key with its type, its default and its meaning.

`python -m vitjax.tools.configs --keys` prints this page. `vitjax train --config quickstart --help` lists the arguments
of a config file and its keys with their values, and `vitjax train --help input.batch_size` shows one key. Every key can
be set on the command line: `--config.input.batch_size=256`. "Required" marks a key that a config, or its section, must
set. A default of `None` for a section means that the section is off. A word in brackets after a key is the kind of data,
model, optimizer, schedule or evaluator that has it. NAME is the name of an evaluator. `*` stands for the units of a
duration, `steps`, `examples`, `epochs` and `percent`: `total_epochs=90`. The source of a statement about big_vision is
its code.
"""


def of_file(file: described.File, spec: str, *, width: int, colour: bool) -> str:
    """Return the help on a config file: its arguments, and its keys with their values.

    `colour` makes groups bold, and the keys that the file leaves out fainter.
    """
    title = f"{file.path}: {shipped.first_sentence(file.path)}".removesuffix(": ")
    lines = [*textwrap.wrap(title, width), ""]
    if file.arguments:
        name = spec.partition(":")[0]
        first = file.arguments[0]
        lines.append(f"arguments, as in --config {name}:{first.name}={first.value}")
        lines += _rows(
            [(f"{a.name} = {a.value}", _meaning(a)) for a in file.arguments], width
        )
    else:
        lines.append("the file states no arguments")
    if file.config is None:
        return "\n".join([*lines, "", f"its keys cannot be shown: {file.error}"])
    title = "keys, as in --config.lr=0.01; in brackets, those that it leaves out"
    lines += ["", *textwrap.wrap(title, width)]
    for group, rows, quiet in _groups(file.config):
        title = f"\033[1m{group.lower()}\033[0m" if colour else group.lower()
        lines += ["", title, *_rows(rows, width)]
        lines += [f"\033[2m{x}\033[0m" if colour else x for x in _rows(quiet, width)]
    return "\n".join(lines)


def _meaning(argument: described.Argument) -> str:
    notes = [", ".join(argument.choices)] if argument.choices else []
    if argument.value != argument.default:
        notes.append(f"default: {argument.default or 'empty'}")
    return " ".join(
        [argument.meaning, f"({'; '.join(notes)})" if notes else ""]
    ).strip()


def _groups(
    config: Mapping[str, Any],
) -> Iterator[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]:
    """Yield (group, rows of the keys that are set, rows of those that are not)."""
    rows: dict[str, list[tuple[str, str]]] = {group: [] for group in [*KEYS, "Unknown"]}
    quiet: dict[str, list[tuple[str, str]]] = {group: [] for group in rows}
    said = set()
    for path, value in sorted(
        described.leaves(config), key=lambda leaf: _place(leaf[0])
    ):
        table = described.pattern(path)
        text = described.text_of(table, described.kind_in(config, path))
        section = isinstance(value, Mapping) and value
        if section and not text:
            continue  # evals.val
        # Each evaluator has the same keys: their texts stand at the first.
        about = "" if text in said else described.first_sentence(text)
        said.add(text)
        shown = path if section else f"{path} = {value}"
        group = described.group_of(path if path.startswith("evals") else table)
        rows[group].append((shown, about))
    for key in sorted(described.unset(config), key=lambda key: _place(key.path)):
        text = described.text_of(key.path, key.kind)
        value = f" = {_literal(key.default)}" if key.default else ""
        row = f"[{key.path}{value}]", described.first_sentence(text)
        quiet[described.group_of(key.path)].append(row)
    for group in rows:
        if rows[group] or quiet[group]:
            yield group, rows[group], quiet[group]


def _place(path: str) -> tuple[str, int, str]:
    """Return what a list of paths is sorted by: evaluator, place in the table, path."""
    parts = path.split(".")
    if parts[0] == "evals" and len(parts) > 2:
        table, name = described.pattern(".".join(parts[:3])), parts[1]
    else:
        table, name = described.pattern(path), ""
    return name, described.ORDER.get(table, len(described.ORDER)), path


def _literal(default: str) -> str:
    """Return a default of the source as a config's values are shown, without quotes."""
    return default[1:-1] if re.fullmatch(r"'[^']+'", default) else default


def _rows(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Lay out (name, text) in two columns; a long name has a line of its own."""
    column = 46 if width >= 110 else 36
    lines = []
    for name, text in rows:
        left = f"  {name}" if len(name) <= width - 2 else f"  {name[: width - 3]}…"
        wrapped = textwrap.wrap(text, width - column) or [""]
        if len(left) > column - 2:
            lines.append(left)
        else:
            lines.append(f"{left:<{column}}{wrapped.pop(0)}".rstrip())
        lines += [" " * column + line for line in wrapped if line]
    return lines


def of_key(name: str, file: described.File | None, *, width: int) -> str:
    """Return the whole text of a key, or of a file's argument, with type and default.

    `name` may leave out the sections that the key is in. Raises ValueError, with the
    nearest name, if there is no such key.
    """
    name = name.removeprefix("--").removeprefix("config.")
    blocks = [
        _block(f"{a.name}, an argument of {file.path.name}", _meaning(a), width)
        for a in (file.arguments if file else ())
        if file and a.name == name
    ]
    found: dict[tuple[str, str, str | None, str], list[str]] = {}
    for key in _matching(name):
        text = described.text_of(key.path, key.kind)
        row = (key.path, key.type, key.default, text)
        found.setdefault(row, []).append(key.kind)
    for (path, type_, default, text), kinds in found.items():
        head = [path]
        if any(kinds):
            head.append(f"({', '.join(kinds)})")
        facts = [type_ or "any value"]
        if default is None:
            facts.append("required")
        elif default:
            facts.append(f"{default} by default")
        config = (file and file.config) or {}
        values = [described.value_in(config, place) for place in (name, path)]
        value = next((x for x in values if x is not None), None)
        head_text = f"{' '.join(head)}: {', '.join(facts)}"
        blocks.append(_block(head_text, text, width))
        if file is not None and value is not None:  # whole, to be copied
            blocks[-1] += f"\n  in {file.path.name}: {value!r}"
        below = {
            key.path: described.first_sentence(described.text_of(key.path, key.kind))
            for key in sections.all_keys()
            if key.path.rpartition(".")[0] in (path, f"{path}.NAME")
        }
        blocks[-1] = "\n".join([blocks[-1], *_rows(list(below.items()), width)])
    if not blocks:
        paths = {key.path for key in sections.all_keys()}
        known = paths | {path.rpartition(".")[2] for path in paths}
        hint = arguments.did_you_mean(name, sorted(known))
        raise ValueError(f"unknown config key {name!r}{hint}")
    return "\n\n".join(blocks)


def _matching(name: str) -> list[sections.Key]:
    """Return the keys of a whole path, or else those whose path ends in it."""
    table = described.pattern(name)
    known = list(sections.all_keys())
    whole = [key for key in known if key.path == table]
    ends = (f".{name}", f".{name.rpartition('_')[0]}_*")
    return whole or [key for key in known if key.path.endswith(ends)]


def _block(head: str, text: str, width: int) -> str:
    lines = textwrap.wrap(head, width, subsequent_indent="  ")
    return "\n".join(
        [
            *lines,
            *textwrap.wrap(
                text, width - 2, initial_indent="  ", subsequent_indent="  "
            ),
        ]
    )


def page() -> str:
    """Return docs/config.md."""
    rows: dict[str, dict[Any, list[str]]] = {group: {} for group in KEYS}
    for key in sections.all_keys():
        text = described.text_of(key.path, key.kind)
        row = (key.path, key.type, key.default, text)
        group = rows.setdefault(described.group_of(key.path), {})
        group.setdefault(row, []).append(key.kind)
    lines = [PAGE.rstrip()]
    for group, found in rows.items():
        lines += [
            "",
            f"## {group}",
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for (path, type_, default, text), kinds in sorted(
            found.items(), key=lambda row: _place(row[0][0])
        ):
            of = f" ({', '.join(kinds)})" if any(kinds) else ""
            shown = "required" if default is None else f"`{default}`" if default else ""
            cells = [f"`{path}`{of}", type_ or "any", shown, text]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"
