"""Find a person's own parts in a config: dotted names, and names that modules register.

`full_names` writes every name of a part in full, "mine.ext.vit2", so that the rest of
the program needs no table of a run, and the recorded config tells each part's module.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline import parts, spec
from vitjax.config import arguments

T = TypeVar("T")
_SPECS = ("ops", "device_ops")  # kinds whose values are specs of several names
_TOP = {
    "model_name": "models",
    "loss": "losses",
    "optax_name": "optimizers",
    "device_pp": "device_ops",
}
_INNER = {
    "pp": "ops",
    "pp_fn": "ops",
    "device_pp": "device_ops",
    "loss_name": "losses",
    "kind": "sources",
}
# The first words of optax_names that are in vitjax's table, or are optax's modules.
NOT_OWN_OPTIMIZERS = ("big_vision", "vitjax", "contrib", "experimental", "transforms")


def find(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`, or the part of a dotted name. `kind` is as in `parts.find`."""
    if parts.is_dotted(name):
        return parts.find(name, kind)
    return arguments.lookup(table, name, parts.KINDS[kind])


def full_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with every registered name in full; import every part.

    `config["modules"]` names the modules that register parts. A name that two of them
    register for one kind is refused; if vitjax has the same name, the module's is used.
    Raises ValueError, in one sentence, if a module or a part is missing or fails.
    """
    known: dict[str, dict[str, str]] = {kind: {} for kind in parts.KINDS}
    for module in _modules(config):
        try:
            tables = parts.registered(module)
        except ValueError as error:
            raise ValueError(f"config key modules: {error}") from error
        for kind, names in known.items():
            for name in getattr(tables, kind):
                full = f"{module}.{name}"
                if names.setdefault(name, full) != full:
                    raise ValueError(
                        f"the modules register two {kind} named {name!r}: write "
                        f"{names[name]} or {full} in full"
                    )

    def full_name(where: str, kind: str, text: str) -> str:
        if kind in _SPECS:
            return spec.renamed(text, known[kind])
        return known[kind].get(text, text)

    named = _mapped(config, full_name)
    for where, kind, name in _dotted(named):
        if kind == "optimizers":  # `optim`, which knows optax's, says what is missing
            _try_import(name)
            continue
        try:
            parts.find(name, kind)
        except ValueError as error:
            raise ValueError(f"config key {where}: {error}") from error
    return named


def named(config: Mapping[str, Any]) -> set[str]:
    """Return the modules of a config, and the dotted names of its parts."""
    return {*_modules(config), *(name for _, _, name in _dotted(config))}


def check_stored(
    config: Mapping[str, Any],
    allowed: Collection[str],
    where: str,
    *,
    workdir: Path | None,
) -> None:
    """Raise ValueError if the config of a checkpoint names code that it may not choose.

    A checkpoint may be a stranger's, and importing a module, or calling a function by
    its name, runs code. Therefore a part must be below one of the modules or names that
    the person has `allowed`. The config of a run may also name modules in folders of
    the person's own, but none that the run's folder brings along.

    Args:
      where: the checkpoint, for the message.
      workdir: the run's folder; None for a file of weights.
    """
    refused = sorted(
        name
        for name in named(config)
        if not _is_below(name, allowed)
        and (workdir is None or not parts.is_persons_own(name, workdir))
    )
    if refused:
        modules = {*allowed, *_modules(config)}
        modules |= {n.rpartition(".")[0] for n in refused if n not in modules}
        fewest = sorted(m for m in modules if not _is_below(m, modules - {m}))
        raise ValueError(
            f"{where} names code, {', '.join(refused)}, which is not imported unasked: if "
            f'you trust it, give --config.modules="{fewest}"'
        )


def _is_below(name: str, others: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{other}.") for other in others)


def _modules(config: Mapping[str, Any]) -> Sequence[str]:
    modules = config.get("modules") or ()
    if not isinstance(modules, list | tuple) or not all(
        map(parts.is_module_name, modules)
    ):
        raise ValueError(
            "config key modules must be a list of modules, such as ['mine.ext'], got "
            f"{modules!r}"
        )
    return modules


def _mapped(
    config: Mapping[str, Any], change: Callable[[str, str, str], str]
) -> dict[str, Any]:
    """Return the config with change(key, kind, text) for each text that names parts."""

    def inside(value: Any, *keys: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: inside(x, *keys, key) for key, x in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(inside(x, *keys) for x in value)
        kind = _INNER.get(keys[-1])
        if keys[0] == "evals" and keys[-1] == "type" and len(keys) == 3:
            kind = "evaluators"
        if kind is None or not isinstance(value, str):
            return value
        return change(".".join(map(str, keys)), kind, value)

    changed = dict(config)
    for key, kind in _TOP.items():
        if isinstance(config.get(key), str):
            changed[key] = change(key, kind, config[key])
    for key in ("input", "evals"):
        if isinstance(config.get(key), Mapping):
            changed[key] = inside(config[key], key)
    return changed


def _dotted(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, kind, name) of each dotted name of a part."""
    found: list[tuple[str, str, str]] = []

    def note(where: str, kind: str, text: str) -> str:
        texts = spec.names(text) if kind in _SPECS else [text]
        for name in filter(parts.is_dotted, texts):
            if kind != "optimizers" or name.split(".")[0] not in NOT_OWN_OPTIMIZERS:
                found.append((where, kind, name))
        return text

    _mapped(config, note)
    yield from found


def _try_import(name: str) -> None:
    """Import the module of an optimizer while the config's folder is looked in."""
    with contextlib.suppress(parts.NotFound):
        parts.load(name.rpartition(".")[0])
