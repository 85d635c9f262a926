"""The folder of a run: which config it belongs to."""

import json
import os
from pathlib import Path
from typing import Any

from vitjax.config import differences

# Keys that may change between two starts of one run: they decide where it computes and
# what it records, not what it learns.
MAY_CHANGE = frozenset(
    {
        "mesh",
        "sharding_strategy",
        "prefetch_to_device",
        "wandb",
        "tensorboard",
        "max_to_keep",
        *(
            f"{p}_{u}"
            for p in ("log_training", "ckpt", "keep_ckpt")
            for u in ("steps", "examples", "epochs", "percent")
        ),
    }
)


def refuse_other_config(workdir: Path, config: dict[str, Any]) -> None:
    """Raise ValueError if the workdir's config.json differs in what the run learns.

    `config` is plain JSON values. A workdir without config.json is new.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        return
    old = json.loads(path.read_text())
    old, new = (
        {k: v for k, v in c.items() if k not in MAY_CHANGE} for c in (old, config)
    )
    changed = differences(old, json.loads(json.dumps(new)))
    if changed:
        raise ValueError(
            f"workdir {str(workdir)!r} was written by a different config "
            f"({'; '.join(changed)}); give another --workdir or the same config"
        )


def write_config(workdir: Path, config: dict[str, Any]) -> None:
    """Write config.json whole or not at all."""
    path = Path(workdir) / "config.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(partial, path)
