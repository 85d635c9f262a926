"""Find the ViT in a trainer's file: its state dict and the prefix of its keys.

    state, format, notice = find(arrays, "", FORMATS, "model_best.pth.tar")

`arrays` are by name, as `vitjax.weights.files.read` returns them. The names in a state
dict inside the file start with its path, "state_dict/blocks.0.norm1.weight".
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vitjax.weights.table import Format

State = dict[str, np.ndarray]
# The preference among several state dicts or prefixes; all others rank after these.
ORDER = (
    *("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema"),
    *("ema", "teacher", "student"),
)
# Wrappers of single blocks insert these words into keys.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
MANY = 20  # names that a notice lists


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the models in a file."""

    tree: str  # the state dict that holds it; "" is the file itself
    prefix: str  # before its keys in the state dict; ends in a dot
    format: str

    @property
    def name(self) -> str:
        """The part after the colon of a path that selects this model."""
        return "/".join(filter(None, (self.tree, self.prefix.removesuffix("."))))

    def answers(self, asked: str) -> bool:
        """Return True if `asked` is, or starts, its state dict, prefix or both."""
        starts = (self.tree + "/", self.prefix, f"{self.tree}/{self.prefix}")
        return any(s.startswith((f"{asked}/", f"{asked}.")) for s in starts)

    def rank(self) -> tuple[int, int]:
        """Return its places in ORDER; smaller is preferred."""
        return _rank(self.tree.split("/")), _rank(self.prefix.split("."))


def find(
    arrays: Mapping[str, np.ndarray],
    asked: str,
    formats: Mapping[str, Format],
    path: str | Path,
) -> tuple[State, str, str | None]:
    """Return (state dict, key of its format, notice) of the requested model.

    Args:
      arrays: the file's arrays; see above.
      asked: a state dict ("state_dict_ema"), a prefix ("model.backbone"), or both
        joined by a slash; "" takes the first by ORDER.
      formats: the formats to look for.
      path: the file's path, for messages.

    The notice is one line: which of several models was chosen, which prefix was removed
    from the keys and which keys were left out; None if none of this applies. Raises
    ValueError if there is no such model, or if several fit equally well.
    """
    trees: dict[str, dict[str, str]] = {}  # state dict -> key -> name in the file
    for name in arrays:
        tree, _, key = name.rpartition("/")
        trees.setdefault(tree, {})[key] = name
    plain = {tree: _unwrapped(keys) for tree, keys in trees.items()}
    models = [
        Model(tree, prefix, form)
        for tree, keys in plain.items()
        for prefix, form in prefixes(keys, formats).items()
    ]
    if not models:
        likeliest = max(trees.values(), key=len, default={})
        raise none_of(likeliest, formats, f"the state dict in {str(path)!r}")
    chosen, others = _choice(models, asked, path)
    fmt, prefix, state, left = formats[chosen.format], chosen.prefix, {}, []
    for key, name in plain[chosen.tree].items():
        inner = key.removeprefix(prefix)
        if not key.startswith(prefix) or fmt.ignores(inner):
            left.append(key)
        else:
            state[inner] = arrays[name]
    parts = []
    if others:
        names = [repr(m.name or "the top") for m in (chosen, *others)]
        parts.append(
            f"the weights are those at {names[0]}; {', '.join(names[1:])} can be selected "
            f"as in {path}:{others[0].name}"
        )
    wrappers = [w for w in WRAPPERS if any(w in key for key in trees[chosen.tree])]
    if off := [repr(word) for word in (prefix, *wrappers) if word]:
        parts.append(f"{' and '.join(off)} removed from its keys")
    if left:
        parts.append(f"left out: {', '.join(brief(left, prefix))}")
    return state, chosen.format, f"{path}: {'; '.join(parts)}" if parts else None


def prefixes(keys: Collection[str], formats: Mapping[str, Format]) -> dict[str, str]:
    """Return prefix -> format for every model among the keys of a state dict."""
    found: dict[str, str] = {}
    for name, fmt in formats.items():
        whole: set[str] = set()
        for signature in filter(None, (fmt.signature, fmt.bare)):
            first, *rest = signature
            for key in keys:
                prefix = key.removesuffix(first)
                if prefix == key or (prefix and not prefix.endswith(".")):
                    continue
                # A full model without its first component looks like a `bare` one.
                if key not in whole and all(prefix + other in keys for other in rest):
                    whole.add(key)
                    found.setdefault(prefix, name)
    return found


def none_of(
    keys: Iterable[str], formats: Iterable[str], what: str = "the state dict"
) -> ValueError:
    """Return the error for a state dict that fits none of the formats."""
    first = ", ".join(sorted(keys)[:5])
    return ValueError(
        f"{what} matches none of the formats {', '.join(formats)}; its keys include {first}"
    )


def brief(keys: Iterable[str], prefix: str = "") -> list[str]:
    """Shorten a list of keys: one name per submodule, "decoder_blocks.* (96)"."""
    parts: dict[str, list[str]] = {}
    for key in keys:
        # Keep the components that the key shares with the prefix, and one more.
        start = 0
        for word in prefix.split(".")[:-1]:
            if not key.startswith(f"{word}.", start):
                break
            start += len(word) + 1
        part = key[:start] + key[start:].partition(".")[0]
        parts.setdefault(part, []).append(key)
    names = [
        found[0] if len(found) == 1 else f"{part}.* ({len(found)})"
        for part, found in parts.items()
    ]
    more = [f"and {len(names) - MANY} more"] if len(names) > MANY else []
    # repr keeps the notice on one line, whatever characters the keys contain.
    return [n if n.isprintable() else repr(n) for n in names[:MANY]] + more


def _unwrapped(keys: Mapping[str, str]) -> Mapping[str, str]:
    """Return the keys without WRAPPERS, unless two of them would then be equal."""
    pattern = "|".join(map(re.escape, WRAPPERS))
    short = {re.sub(pattern, "", key): name for key, name in keys.items()}
    return short if len(short) == len(keys) else keys


def _choice(
    models: Sequence[Model], asked: str, path: str | Path
) -> tuple[Model, list[Model]]:
    """Return (the requested model, the others that also fit)."""
    names = ", ".join(repr(model.name) for model in models if model.name)
    fits = [m for m in models if not asked or m.answers(asked.rstrip("/."))]
    if not fits:
        there = f"only {names}" if names else "only one state dict at its top"
        raise ValueError(f"{path} has no model at {asked!r}, {there}")
    first, *others = sorted(fits, key=Model.rank)
    if others and others[0].rank() == first.rank():
        raise ValueError(
            f"{path} holds more than one model, {names}: select one, as in "
            f"{path}:{first.name}"
        )
    return first, others


def _rank(names: Sequence[str]) -> int:
    if not any(names):
        return -1
    return min((ORDER.index(n) for n in names if n in ORDER), default=len(ORDER))
