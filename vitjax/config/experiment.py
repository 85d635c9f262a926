"""The top-level keys of a config, their defaults, and which may change on resuming."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

from input_pipeline import places
from vitjax.config import arguments, durations

# Passed unchanged to vitjax.optim.make_optimizer: its signature has the defaults, and
# `program.build` checks the types.
OPTIMIZER_KEYS = frozenset(
    {
        "lr",
        "wd",
        "schedule",
        "optax_name",
        "optax",
        "grad_clip_norm",
        "l2",
        "l2_mults",
        "sam",
        "lr_mults",
        "wd_mults",
    }
)
# Prefixes of four keys each: PREFIX_steps, _examples, _epochs and _percent.
DURATIONS = ("total", "log_training", "ckpt", "keep_ckpt")
# Keys of big_vision that vitjax refuses, with the reason or the alternative.
REFUSED = {
    "eval_only": "vitjax.tools.evaluate evaluates without training",
    "force_eval": "evaluations run again only where their row is missing",
    "fewshot": "big_vision does not read it either; put evaluators under evals",
    "init_shapes": "the image shape is that of input.pp's result",
    "init_types": "the image type is that of input.pp's result",
    "model_load": "model_init reads every format; dont_load takes regexes",
    "sharding_rules": "logical axis rules are not supported; use sharding_strategy",
    "ocdbt": "orbax writes the checkpoints",
    "ckpt_timeout": "orbax waits for an unfinished checkpoint by itself",
    "pp_modules": "modules names modules with parts of your own",
    "grad_clip_per_example": "only the norm of the whole gradient is clipped",
}

# Keys that may change between two starts of one run, with all keys below them. They
# decide where the run computes and what it records, not what it learns.
MAY_CHANGE = (
    "mesh",
    "sharding_strategy",
    "accum_freq",
    "model.remat_policy",
    "prefetch_to_device",
    "input.prefetch",
    "input.num_parallel_calls",
    "input.reads_in_flight",
    "input.data.data_dir",
    "input.data.cache_dir",
    "input.data.as_seen",  # False continues runs of earlier versions
    "evals",
    "batch_size_eval",
    "wandb",
    "tensorboard",
    "mirror_seconds",
    "max_to_keep",
    "ckpt_best",
    "modules",  # the names that they register are recorded in full
    *(
        f"{prefix}_{unit}"
        for prefix in ("log_training", "ckpt", "keep_ckpt")
        for unit in ("steps", "examples", "epochs", "percent")
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The top-level keys of a config, with big_vision's names, and their defaults."""

    input: Mapping[str, Any]  # keyword arguments of input_pipeline.pipeline.make_train
    num_classes: int
    batch_size_eval: int | None = None  # for evals; None means input.batch_size
    seed: int = 0
    device_pp: str = ""  # ops on the training batch, inside the step
    modules: Sequence[str] = ()  # that register parts; see vitjax.config.names
    # Model.
    model_name: str = "vit"
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init_head_bias: int | float | None = None
    # Loss and step.
    loss: str = "sigmoid_xent"
    label_smoothing: int | float = 0.0
    # Of the loss; "balanced" computes them from the data's labels.
    class_weights: Sequence[float] | str | None = None
    mixup: Mapping[str, Any] | None = (
        None  # keyword arguments of vitjax.step.mixup.check
    )
    accum_freq: int = 1
    ema: Mapping[str, Any] | None = (
        None  # keyword arguments of vitjax.step.ema.make_update
    )
    loss_scale: Mapping[str, Any] | None = None  # keyword arguments of loss_scale.make
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Devices.
    matmul_precision: str | None = None  # None: highest, on accelerators
    # XLA's, for the training step; they replace program.compiler_options' own.
    compiler_options: Mapping[str, Any] | None = None
    mesh: Sequence[tuple[str, int]] = (("data", -1),)
    sharding_strategy: Sequence[tuple[str, str]] = ((".*", "replicate"),)
    prefetch_to_device: int = 2
    # Where to start from, if the workdir has no checkpoint.
    resume: str | None = None  # full state of another run
    model_init: str | None = None  # parameters only, of a run or a file
    model_init_grid: Sequence[int] | None = None  # its patch grid, if not square
    model_init_channels: str | None = None  # "sum": adapt it to another channel count
    dont_load: Sequence[str] = ()  # regexes of parameters not to load from model_init
    # Evaluation and records.
    evals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_to_keep: int | None = 2
    ckpt_best: Mapping[str, Any] | None = None  # keyword arguments of best.Best
    tensorboard: bool = True
    mirror_seconds: int | float = 30  # between two pushes to a workdir in a bucket
    wandb: Mapping[str, Any] | None = None  # keyword arguments of sinks.WandbSink
    durations: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def relabels(self) -> bool:
        """True if pp may change the labels of the data set."""
        return "lookup(" in str(self.input.get("pp"))

    def steps(self, prefix: str, **sizes: Any) -> Any:
        """Return a duration in steps; see `vitjax.config.durations.steps`."""
        return durations.steps(prefix, self.durations, **sizes)


_OWN = {f.name for f in dataclasses.fields(Experiment)} - {"optimizer", "durations"}
_DURATION_KEYS = {key for prefix in DURATIONS for key in durations.keys(prefix)}
TOP_LEVEL = frozenset(_OWN | OPTIMIZER_KEYS | _DURATION_KEYS)  # all keys


def from_config(config: Mapping[str, Any]) -> Experiment:
    """Read a config's top level. Raises ValueError for an unknown or missing key."""
    arguments.check_values("", config)
    groups: dict[str, dict[str, Any]] = {"optimizer": {}, "durations": {}, "own": {}}
    for key, value in config.items():
        if key in REFUSED:
            raise ValueError(f"config key {key!r} is not supported: {REFUSED[key]}")
        if key not in TOP_LEVEL:
            raise arguments.unknown(key, TOP_LEVEL, "config key")
        if key in OPTIMIZER_KEYS:
            groups["optimizer"][key] = value
        elif key in _DURATION_KEYS:
            groups["durations"][key] = value
        else:
            groups["own"][key] = value
    for key in ("input", "num_classes"):
        if groups["own"].get(key) is None:
            raise ValueError(f"the config lacks {key!r}")
    for key in ("lr", "optax_name"):
        if key not in groups["optimizer"]:
            raise ValueError(f"the config lacks {key!r}")
    # None drops a key, so that its default applies, unless None is one of its values.
    hints = typing.get_type_hints(Experiment)
    own_values: dict[str, Any] = {
        key: value
        for key, value in groups["own"].items()
        if value is not None or types.NoneType in typing.get_args(hints[key])
    }
    arguments.check_types("", hints, own_values)
    for key in ("resume", "model_init"):
        served = places.BUCKETS
        places.check(own_values.get(key) or "", f"config key {key}", served)
    return Experiment(
        **own_values, optimizer=groups["optimizer"], durations=groups["durations"]
    )


def learned_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the `differences` of two plain configs that change what a run learns."""
    return [
        line
        for line in differences(old, json.loads(json.dumps(new)))
        if not any(re.match(rf"{re.escape(key)}[.:]", line) for key in MAY_CHANGE)
    ]


class _Absent:
    def __repr__(self) -> str:
        return "not set"


_ABSENT: Final = _Absent()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return "a.b: old -> new" for every key in which two plain configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(
                old.get(key, _ABSENT),
                new.get(key, _ABSENT),
                f"{prefix}.{key}".strip("."),
            )
        ]
    return [] if old == new else [f"{prefix}: {old!r} -> {new!r}"]
