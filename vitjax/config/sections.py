"""The sections of a config and their keys, types and defaults, read from the source.

A section is the keyword arguments of a function. Importing all of these functions would
take seconds, so that their files are parsed instead.
"""

import ast
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from vitjax.config import arguments, durations
from vitjax.config.experiment import DURATIONS


class Section(NamedTuple):
    """The keys below `path` that one function takes."""

    path: str
    function: str  # module and name
    given: Collection[str] = ()  # parameters that are no keys
    kind: str = ""  # the value that selects the function, e.g. of input.data.kind


class Key(NamedTuple):
    """One key of a config; NAME in its path stands for the name of an evaluator."""

    path: str
    type: str = ""  # in plain words
    default: str | None = (
        None  # as in the source; "": by its text; None: it must be set
    )
    kind: str = ""


_SIZES = ("total_steps", "batch_size", "data_size")
_OPENED = ("predict", "make_data", "mesh", "batch_size")
_SOURCES = "input_pipeline.sources"
_DECAYS = {
    "cosine": "_cosine",
    "odd_cosine": "_odd_cosine",
    "linear": "_polynomial",
    "polynomial": "_polynomial",
    "rsqrt": "_rsqrt",
    "stair": "_stair",
}
SECTIONS: Final = (
    Section(
        "", "vitjax.config.experiment.Experiment", given=("optimizer", "durations")
    ),
    Section("", "vitjax.optim.chain.make_optimizer", given=("params", *_SIZES)),
    Section(
        "input",
        "input_pipeline.pipeline.make_train",
        given=("seed", "start_step", "process_index", "process_count"),
    ),
    Section("input.data", f"{_SOURCES}.open_source"),
    Section("input.data", f"{_SOURCES}.tfds.TfdsSource", kind="tfds"),
    Section("input.data", f"{_SOURCES}.folder.FolderSource", kind="folder"),
    Section("input.data", f"{_SOURCES}.array_files.idx", kind="idx"),
    Section("input.data", f"{_SOURCES}.array_files.cifar", kind="cifar"),
    Section("input.data", f"{_SOURCES}.array_files.npz", kind="npz"),
    Section(
        "input.data", f"{_SOURCES}.huggingface.HuggingFaceSource", kind="huggingface"
    ),
    Section("input.data", f"{_SOURCES}.arrays", kind="arrays"),
    Section("model", "vitjax.models.vit.Model", given=("num_classes",), kind="vit"),
    Section(
        "model",
        "vitjax.models.vit.ViT",
        given=("num_classes", "init_head_bias"),
        kind="vit",
    ),
    Section("mixup", "vitjax.step.mixup.check"),
    Section("ema", "vitjax.step.ema.make_update"),
    Section("loss_scale", "vitjax.step.loss_scale.make"),
    Section("sam", "vitjax.optim.chain.sharpness_aware", given=("tx",)),
    *(
        Section("optax", f"vitjax.optim.{function}", kind=kind)
        for kind, function in {
            "adafactor": "transforms.scale_by_adafactor",
            "big_vision.scale_by_adafactor": "transforms.scale_by_adafactor",
            "big_vision.momentum_hp": "transforms.momentum_hp",
            "lamb": "transforms.lamb",
            "sgd": "transforms.sgd",
            "shampoo": "shampoo.scale_by_shampoo",
            "vitjax.scale_by_shampoo": "shampoo.scale_by_shampoo",
        }.items()
    ),
    Section("schedule", "vitjax.optim.schedules.make_schedule", given=_SIZES),
    *(
        Section(
            "schedule",
            f"vitjax.optim.schedules.{function}",
            given=("base", "step", "warmup", "total"),
            kind=kind,
        )
        for kind, function in _DECAYS.items()
    ),
    *(
        Section(
            "evals.NAME",
            f"vitjax.evaluators.{function}",
            given=_OPENED,
            kind=function.partition(".")[0],
        )
        for function in (
            "classification.Classification",
            "fewshot.FewShot",
            "knn.Knn",
            "linear_probe.LinearProbe",
            "svc_probe.SvcProbe",
        )
    ),
    Section("ckpt_best", "vitjax.checkpoints.best.Best", given=("workdir", "kept")),
    Section("wandb", "vitjax.records.sinks.WandbSink", given=("workdir", "config")),
)
# Keys that are no parameter of a function; their texts say what happens without them.
OTHERS: Final = (
    *(Key(f"{prefix}_*", "a number", "") for prefix in DURATIONS),
    Key("schedule.warmup_*", "a number", ""),
    Key("schedule.cooldown_*", "a number", ""),
    Key("evals.NAME.type", "a string", ""),
    Key("evals.NAME.log_*", "a number", ""),
    Key("evals.NAME.batch_size", "a whole number", ""),
    Key("evals.NAME.required", "True or False", ""),
    Key("evals.NAME.skip_first", "True or False", ""),
    Key("evals.NAME.params", "a string", ""),
    Key("evals.NAME.data.match_classes", "a string, a list of strings or None", ""),
    # Of optax's own transforms, which many configs have.
    *(
        Key(f"optax.{name}", type_, "", kind)
        for kind in ("adam", "adamw", "scale_by_adam")
        for name, type_ in (
            ("b1", "a number"),
            ("b2", "a number"),
            ("eps", "a number"),
            ("mu_dtype", "a string or None"),
        )
    ),
    *(
        Key(f"optax.{name}", type_, "", "lion")
        for name, type_ in (("b1", "a number"), ("b2", "a number"))
    ),
    Key("optax.decay", "a number", "", "trace"),
    Key("optax.nesterov", "True or False", "", "trace"),
)
# Keys whose value selects the kind of the section that they are in or beside, and the
# kind without a value.
KINDS: Final = {
    "input.data": ("input.data.kind", "tfds"),
    "model": ("model_name", "vit"),
    "optax": ("optax_name", ""),
    "schedule": ("schedule.decay_type", "stair"),
    "evals.NAME": ("evals.NAME.type", "classification"),
}


def all_keys() -> Iterator[Key]:
    """Yield every key of a config, some of them once for each kind."""
    for section in SECTIONS:
        for name, type_, default in parameters(section.function):
            if name not in section.given:
                path = f"{section.path}.{name}".strip(".")
                yield Key(path, type_, default, section.kind)
    yield from OTHERS


def parameters(function: str) -> list[tuple[str, str, str | None]]:
    """Return (name, type in plain words, default as in the source) of each parameter.

    `function` is the dotted name of a function, of a class with __init__, or of a class
    with fields. A class whose __init__ passes **kwargs on also has the parameters of its
    base class, as in `arguments.parameters`. A default of None means that there is none.
    """
    module, _, name = function.rpartition(".")
    tree = ast.parse(_file(module).read_text("utf-8"))
    named = {
        n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)
    }
    aliases = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    found, base = named[name], []
    own = list(found.body)
    if isinstance(found, ast.ClassDef):
        inits = [
            n for n in own if isinstance(n, ast.FunctionDef) and n.name == "__init__"
        ]
        if not inits:
            return [
                (n.target.id, _words(n.annotation, aliases), _default(n.value))
                for n in own
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            ]
        [init] = inits
        if init.args.kwarg is not None:
            base = parameters(_base_of(found, tree))
        found = init
    of_name = {row[0]: row for row in base}
    of_name |= {
        arg.arg: (arg.arg, _words(arg.annotation, aliases), _default(default))
        for arg, default in _with_defaults(found.args)
        if arg.arg != "self"
    }
    return list(of_name.values())


def _base_of(found: ast.ClassDef, tree: ast.Module) -> str:
    """Return the dotted name of a class's base class, which its module imports."""
    base = ast.unparse(found.bases[0])
    [module] = [
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and base in [alias.name for alias in node.names]
    ]
    return f"{module}.{base}"


def _file(module: str) -> Path:
    path = Path(__file__).resolve().parents[2].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _with_defaults(args: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    missing = len(args.args) - len(args.defaults)
    defaults = [*[None] * missing, *args.defaults, *args.kw_defaults]
    return list(zip([*args.args, *args.kwonlyargs], defaults, strict=True))


def _default(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Call):  # dataclasses.field(default_factory=dict)
        return "{}"
    return None if node is None else ast.unparse(node)


_NAMES: Final[Mapping[str, Any]] = {
    "Any": Any,
    "Literal": typing.Literal,
    "Mapping": Mapping,
    "Section": durations.Section,
    "Sequence": Sequence,
    "bool": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "list": list,
    "str": str,
    "tuple": tuple,
}


def _words(node: ast.expr | None, aliases: Mapping[str, Any]) -> str:
    hint = Any if node is None else _hint(node, aliases)
    return "" if hint is Any else arguments.in_words(hint)


def _hint(node: ast.expr, aliases: Mapping[str, Any]) -> Any:
    """Return the annotation that an expression means; Any if it has other names."""
    match node:
        case ast.Constant():
            return types.NoneType if node.value is None else node.value
        case ast.Name() if node.id in aliases:
            return _hint(aliases[node.id], aliases)
        case ast.Name():
            return _NAMES.get(node.id, Any)
        case ast.BinOp():
            return typing.Union[  # noqa: UP007
                _hint(node.left, aliases), _hint(node.right, aliases)
            ]
        case ast.Subscript():
            base, inner = _hint(node.value, aliases), node.slice
            inside = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if base is not Any:
                return base[tuple(_hint(n, aliases) for n in inside)]
    return Any
