"""Look up a name in a table, with an error that suggests the nearest name."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


# Config keys, and their names in other trainers.
_MEANT = {
    "lr": ("learning_rate", "base_lr", "max_lr"),
    "wd": ("weight_decay",),
    "total_epochs": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "total_steps": ("steps", "num_steps", "max_steps", "num_train_steps"),
    "input.batch_size": ("batch", "batch_size", "train_batch_size"),
    "input.data": ("data", "dataset"),
    "input.pp": ("pp", "augmentation", "transforms"),
    "optax_name": ("optimizer", "opt"),
    "schedule": ("warmup", "warmup_steps", "warmup_epochs", "lr_scheduler"),
    "grad_clip_norm": ("clip_grad", "max_grad_norm"),
    "accum_freq": ("gradient_accumulation_steps", "grad_accum_steps"),
    "model_init": ("pretrained",),
    "width": ("hidden_size", "embed_dim"),
    "depth": ("num_layers",),
    "dropout": ("drop_rate",),
}


def unknown(name: str, known: Iterable[str], what: str) -> ValueError:
    """Return the error for a `name` that is not `known`; it suggests the nearest one.

    A suggested key of another section includes the section's name, which is known.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    meant = [ours for ours, theirs in _MEANT.items() if name in theirs]
    near = [ours for ours in meant if ours.partition(".")[0] in known] or near
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`. Raises ValueError with the known and the nearest names."""
    if not isinstance(name, str) or name not in table:
        raise unknown(name, table, what)
    return table[name]
