"""Load config files, apply overrides, and translate big_vision's config files."""

import argparse
import ast
import hashlib
import importlib.util
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import home, parts
from vitjax.config import arguments, durations, imports, names, shipped
from vitjax.config.like import is_like, read_like

# The modules of ops that big_vision has (big_vision/pp/), besides its proj.*.
_PP_MODULES = ("ops_general", "ops_image", "ops_text", "autoaugment", "tokenizer")
_PP_MODULES += ("archive.autoaugment", "archive.randaug")
_LONGEST = 80  # characters of a default workdir's name


def split_spec(spec: str) -> tuple[Path, str | None]:
    """Split "configs/x.py:a=1,b" into its path and its argument; None without one."""
    path, colon, arg = spec.partition(":")
    return Path(path), arg if colon else None


def load(
    spec: str,
    overrides: Sequence[str] = (),
    calls: list[imports.Call] | None = None,
) -> ConfigDict:
    """Load the config of a Python file with `get_config(arg)`, and apply overrides.

    Args:
      spec: "path/to/file.py" or "path/to/file.py:argument"; see `shipped.find` for
        names without a path.
      overrides: strings "a.b=VALUE"; see `override`.
      calls: gets the calls of parse_arg, also if the file then raises an error.

    The config's own parts are imported, also from the file's folder and from the folder
    above it. Raises ValueError, with one sentence, if the file, an override or the name
    of a part is wrong.
    """
    path, arg = split_spec(spec)
    path = shipped.find(path)
    # Parts of the person's own may be next to the config file.
    with parts.looking_in(str(path.resolve().parent)), imports.of_file(path):
        if calls is not None:
            imports.record_parse_arg(calls)
        config = _call(_module(path), path, arg)
        with config.unlocked(), config.ignore_type():
            # A duration on the command line replaces the file's, in any unit.
            for text in overrides:
                _drop_other_units(config, text.partition("=")[0].split("."))
            for text in overrides:
                override(config, text)
        # Imports the parts here, where their folders are known.
        names.full_names(from_big_vision(config)[0].to_dict())
    return config


def _module(path: Path) -> Any:
    """Execute a config file and return its module."""
    spec = importlib.util.spec_from_file_location("vitjax_config_file", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {str(path)!r} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"config file {str(path)!r} cannot be read: {error}") from None
    return module


def _drop_other_units(config: ConfigDict, keys: list[str]) -> None:
    prefix, _, unit = keys[-1].rpartition("_")
    section: Any = config
    for key in keys[:-1]:
        section = section.get(key) if isinstance(section, ConfigDict) else None
    if unit in durations.UNITS and isinstance(section, ConfigDict):
        for other in durations.keys(prefix):
            if other in section and other != keys[-1]:
                del section[other]


def _call(module: Any, path: Path, arg: str | None) -> ConfigDict:
    """Call `module.get_config`, with the argument if there is one."""
    function = getattr(module, "get_config", None)
    if function is None:
        raise ValueError(f"config file {str(path)!r} has no function get_config(arg)")
    takes_arg = bool(inspect.signature(function).parameters)
    if arg is not None and not takes_arg:
        raise ValueError(f"config file {str(path)!r} takes no argument, got {arg!r}")
    config = function(arg) if arg is not None else function()
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config of {str(path)!r} must return a ConfigDict, got "
            f"{type(config).__name__}"
        )
    return config


def override(config: ConfigDict, text: str) -> None:
    """Apply "a.b=VALUE" to an unlocked config, which may lack the key.

    VALUE is read as a Python literal, or kept as a string if it is none. The value None
    removes a section; for any other key it is an ordinary value. `like('NAME', k=v)` is
    a copy of the section NAME beside this key, with k set to the literal v; as on the
    command line, a duration replaces that of another unit.
    """
    dotted, equals, value_text = text.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise ValueError(
            f"cannot read the override {f'--config.{text}'!r}: expected "
            "--config.key=VALUE"
        )
    section = config
    for key in keys[:-1]:
        # A section that the config lacks, or sets to None, starts empty.
        if key not in section or section[key] is None:
            section[key] = ConfigDict()
        section = section[key]
        if not isinstance(section, ConfigDict):
            raise ValueError(
                f"cannot set {f'--config.{dotted}'!r}: {key!r} is a value, not a "
                "section"
            )
        section = section.unlock()
    if is_like(value_text):
        copied, changes = read_like(value_text, section, ".".join(keys[:-1]))
        for key, changed in changes.items():
            _drop_other_units(copied, [key])
            _set(copied, key, changed, f"{dotted}.{key}")
        value = copied.to_dict()
    else:
        value = _literal(text, value_text)
    _set(section, keys[-1], value, dotted)


def _literal(text: str, value_text: str) -> Any:
    """Return the value of the override `text`: a Python literal, else a string."""
    try:
        return ast.literal_eval(value_text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if value_text.strip().startswith(("[", "{", "dict(")):
            raise ValueError(
                f"cannot read {f'--config.{text}'!r}: expected a Python literal, so "
                "{'key': 1} and not dict(key=1), strings in quotes"
            ) from None
        return value_text


def _set(section: ConfigDict, key: str, value: Any, dotted: str) -> None:
    """Set a key; None removes a section."""
    arguments.check_values(dotted, value)
    with section.ignore_type():
        if value is None and isinstance(section.get(key), ConfigDict):
            del section[key]
        else:
            section[key] = value


def from_big_vision(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """Return (config with vitjax's keys, one notice per changed key).

    This pure function handles every key that big_vision's configs spell differently.
    """
    changed: Any = ConfigDict(config.to_dict())
    notices = []
    section = changed.get("input")
    # A value in place of a section stays; the reader of that section refuses it.
    if isinstance(section, ConfigDict) and "accum_freq" in section:
        with changed.ignore_type():
            changed.accum_freq = section.accum_freq
        del section.accum_freq
        notices.append("input.accum_freq is read as the top-level accum_freq")
    if "pp_modules" in changed:
        notices += _modules_of(changed)
    if isinstance(changed.get("mixup"), ConfigDict) and "fold_in" in changed.mixup:
        del changed.mixup.fold_in
        notices.append("mixup.fold_in is dropped: big_vision does not read it either")
    evals = changed.get("evals")
    each: Any = evals.items() if isinstance(evals, ConfigDict) else ()
    for name, section in each:
        data = section.get("data") if isinstance(section, ConfigDict) else None
        hard_to_get = ("imagenet_v2", "imagenet2012_real")
        if not isinstance(data, ConfigDict) or "required" in section:
            continue
        if data.get("name") in hard_to_get:
            section.required = False
            notices.append(
                f"evals.{name} is skipped where {data.name} is not prepared "
                "(required=False)"
            )
    return changed, notices


def overridden(config: Any, overrides: Sequence[str]) -> ConfigDict:
    """Return a config of plain values as a ConfigDict, with overrides applied."""
    changed = ConfigDict(config)
    with changed.unlocked(), changed.ignore_type():
        for text in overrides:
            override(changed, text)
    return changed


def named_in(overrides: Sequence[str]) -> set[str]:
    """Return the modules and parts that overrides name by themselves; see `names.named`.

    What an override copies from another section does not count.
    """
    own = [text for text in overrides if not is_like(text.partition("=")[2])]
    return names.named(overridden({}, own).to_dict())


def _modules_of(config: Any) -> list[str]:
    """Move the pp_modules that are not big_vision's to `modules`; return the notices."""
    given = list(config.pp_modules or ())
    del config.pp_modules
    own = [
        name
        for name in given
        if name not in _PP_MODULES and not str(name).startswith("proj.")
    ]
    notices = []
    if len(own) < len(given) or not given:
        notices.append("pp_modules is dropped: all ops are always available")
    if own:
        with config.ignore_type():
            config.modules = [*(config.get("modules") or ()), *own]
        notices.append(f"pp_modules is read as modules={own}")
    return notices


def plain(config: Any) -> Any:
    """Return a config as plain JSON values: dicts, lists, numbers, strings, None."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, dict):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    return config


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return (flags, the "KEY=VALUE" of every --config.KEY=VALUE)."""
    argv = home.expanded(argv)
    overrides = [a for a in argv if a.startswith("--config.")]
    for text in overrides:
        if "=" not in text:
            parser.error(f"{text} needs its value after an equals sign: {text}=VALUE")
    flags = parser.parse_args([a for a in argv if not a.startswith("--config.")])
    return flags, [text.removeprefix("--config.") for text in overrides]


def default_workdir(config_spec: str) -> str:
    """Return "runs/NAME" for configs/NAME.py, or "runs/NAME-ARG" with an argument.

    It is one folder: slashes of ARG become "_", and the end of a long ARG its hash.
    """
    path, arg = split_spec(config_spec)
    name = "-".join(filter(None, [path.stem, arg]))
    if os.path.isdir(f"runs/{name}"):  # earlier versions made folders in folders
        return f"runs/{name}"
    name = name.replace("/", "_")
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST - 9]}-{digest}"
    return f"runs/{name}"
