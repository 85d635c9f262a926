"""The config of a weight file, which has none of its own: its images and its head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from vitjax import weights
from vitjax.weights import normalisation, posemb, preprocessing


def of_file(
    path: str | Path, params: Mapping[str, Any], norm: str, head: bool = True
) -> dict[str, Any]:
    """Return a config for the weights at `path`, with an evaluator "val" without data.

    Images get the size of the position embeddings or of a file next to the weights, or
    else 224 pixels. Raises ValueError if nothing tells the normalisation, and if `head`
    is True and there is no head, whose classes the config would count.
    """
    arguments = weights.model_arguments(params)
    classes = arguments["num_classes"]
    if classes is None and not head:
        classes = 1  # no label is read
    if classes is None:
        raise _headless(path)
    how = normalisation.named(norm) if norm else normalisation.trained_with(path)
    table, (rows, _) = params.get("pos_embedding"), arguments["patch_size"]
    grid = None if table is None else posemb.square_grid(table.shape[1])
    side = 224 if grid is None else grid[0] * rows
    val = {
        "type": "classification",
        "pp_fn": preprocessing.resize_and_crop(path, side),
        "device_pp": f"{how.op}|onehot({classes}, key='label', key_result='labels')",
        "log_percent": 1.0,
    }
    return {
        "num_classes": classes,
        "input": {"data": {}},
        "evals": {"val": val},
        "loss": "softmax_xent",
        "lr": 0.0,  # the keys that a config must have
        "optax_name": "scale_by_adam",
    }


def normalised(
    config: dict[str, Any], path: str | Path, norm: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the config whose evaluators normalise images as `path` was trained.

    A `norm` by name counts more than what is known of the file. A config that starts
    from this very file stays as it is, and so does an evaluator whose ops are among the
    overrides. Every change is logged, and also if nothing tells the normalisation of
    the file.
    """
    if not norm and config.get("model_init") == str(path):
        return config
    usual = normalisation.named(norm) if norm else normalisation.known(path)
    changed: dict[str, Any] = {}
    notices: set[str] = set()
    for name, section in (config.get("evals") or {}).items():
        mine = (f"evals.{name}.pp_fn=", f"evals.{name}.device_pp=")
        if section is None or any(text.startswith(mine) for text in overrides):
            continue
        specs = {key: section.get(key) or "" for key in ("pp_fn", "device_pp")}
        own = normalisation.of_ops(*specs.values())
        if own is None:
            continue
        if usual is None:
            notices.add(
                f"{path} does not tell how its images were normalised: they get the "
                f"config's {own}; --norm imagenet, half or clip gives another"
            )
        elif not own.equals(usual):
            why = "as --norm says" if norm else f"as {path} was trained"
            notices.add(f"images get {usual}, {why}, not {own}")
            for key, text in specs.items():
                if normalisation.of_ops(text) is not None:
                    changed[name] = {
                        **section,
                        key: normalisation.replaced(text, usual),
                    }
                    break
    for notice in sorted(notices):
        logging.warning("%s", notice)
    return {**config, "evals": {**(config.get("evals") or {}), **changed}}


def own_head(
    path: str, classes: int | None, plain: dict[str, Any], head: bool
) -> dict[str, int | None]:
    """Check that `classes`, those of the weights at `path`, are the config's.

    Returns {}. With `head` False nothing is checked, and {"classes": classes} is returned
    for a model that keeps its own head, or none. Raises ValueError.
    """
    if not head:
        return {"classes": classes}
    if classes != plain.get("num_classes"):
        if classes is None:
            raise _headless(path)
        raise ValueError(
            f"{path} is for {classes} classes, but the config has num_classes="
            f"{plain.get('num_classes')}: give another --config"
        )
    return {}


def _headless(path: str | Path) -> ValueError:
    return ValueError(
        f"{path} is a backbone, without a head that names classes: train one first, with "
        f"--config.model_init={path}"
    )
