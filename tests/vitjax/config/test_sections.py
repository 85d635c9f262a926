"""The table of key texts has every key of the code and no other; docs/config.md too."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import optax
import pytest

from input_pipeline.sources import SOURCES
from vitjax.config import arguments, described, help, sections
from vitjax.config.experiment import OPTIMIZER_KEYS, Experiment
from vitjax.config.keys import KEYS
from vitjax.evaluators import EVALUATORS
from vitjax.evaluators.schedule import WHEN
from vitjax.models import MODELS, vit
from vitjax.optim import chain, schedules
from vitjax.step import PRECISIONS, mixup
from vitjax.step.losses import LOSSES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "config.md"


def function_of(section):
    module, _, name = section.function.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("section", sections.SECTIONS, ids=lambda s: s.function)
def test_names_types_and_defaults_are_those_of_the_function(section):
    function = function_of(section)
    if dataclasses.is_dataclass(function):
        fields = [
            f for f in dataclasses.fields(function) if f.name not in ("parent", "name")
        ]
        wanted = [(f.name, f.default) for f in fields]
        factories = [f for f in fields if f.default_factory is not dataclasses.MISSING]
        wanted = [(n, {} if n in {f.name for f in factories} else d) for n, d in wanted]
    else:
        parameters, _ = arguments.parameters(function)
        wanted = [(name, p.default) for name, p in parameters.items()]
    found = sections.parameters(section.function)
    assert [name for name, _, _ in found] == [name for name, _ in wanted]
    assert set(section.given) <= {name for name, _ in wanted}
    hints = arguments.annotations(function)
    for (name, type_, default), (_, value) in zip(found, wanted, strict=True):
        required = value in (inspect.Parameter.empty, dataclasses.MISSING)
        assert (default is None) == required, name
        # 2.0 ** 16 is a literal for people, not for Python.
        assert required or repr(value) == default or "**" in default, name
        if name in hints and name not in section.given:
            assert type_ in ("", arguments.in_words(hints[name])), name


def test_the_sections_are_those_of_the_code():
    of_kind = {}
    for section in sections.SECTIONS:
        of_kind.setdefault(section.path, {})[section.kind] = function_of(section)
    del of_kind["input.data"][""]  # kind and origin
    assert of_kind["input.data"] == SOURCES
    assert of_kind["evals.NAME"] == EVALUATORS
    ours = {n: f for n, f in chain.OURS.items() if f.__module__.startswith("vitjax.")}
    assert of_kind["optax"] == ours
    del of_kind["schedule"][""]
    assert of_kind["schedule"] == schedules.DECAYS
    keys = {key.path for key in sections.all_keys()}
    fields = {f.name for f in dataclasses.fields(Experiment)}
    assert keys >= fields - {"optimizer", "durations"}
    assert keys >= OPTIMIZER_KEYS
    assert keys >= {f"evals.NAME.{name}" for name in WHEN}
    for key in sections.OTHERS:
        if key.path.startswith("optax."):
            transform = chain.OURS.get(key.kind) or getattr(optax, key.kind)
            assert key.path.split(".")[1] in inspect.signature(transform).parameters


def test_every_key_has_a_text_and_every_text_a_key():
    """To mend it, edit the module of vitjax/config/keys that has the key's section."""
    used, missing = set(), set()
    for key in sections.all_keys():
        section, _, name = key.path.rpartition(".")
        of_kind = f"{section}[{key.kind}].{name}"
        used.add(of_kind if of_kind in described.TEXTS else key.path)
        if not described.text_of(key.path, key.kind):
            missing.add(key.path)
    assert not missing, f"keys without a text: {sorted(missing)}"
    left = described.TEXTS.keys() - used
    assert not left, f"texts without a key: {sorted(left)}"
    assert sum(map(len, KEYS.values())) == len(described.TEXTS), (
        "a key is in two groups"
    )


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("input.data.kind", SOURCES),
        ("evals.NAME.type", EVALUATORS),
        ("evals.NAME.loss_name", LOSSES),
        ("loss", LOSSES),
        ("mixup.scope", mixup.SCOPES),
        ("model_name", MODELS),
        ("model.variant", vit.VARIANTS),
        ("model.posemb", vit.POSEMBS),
        ("model.pool_type", vit.POOL_TYPES),
        ("model.gelu", vit.GELUS),
        ("model.attn_impl", vit.ATTN_IMPLS),
        ("matmul_precision", PRECISIONS),
        ("model.remat_policy", vit.REMAT_POLICIES),
        ("model.dtype_mm", vit.DTYPES),
        ("optax_name", chain.OURS),
        ("schedule.decay_type", schedules.DECAYS),
    ],
)
def test_a_text_names_every_choice(path, choices):
    words = set(re.findall(r"[\w.-]*\w", described.TEXTS[path]))
    assert set(choices) <= words


def test_texts_are_short_sentences():
    for path, text in described.TEXTS.items():
        assert text.endswith("."), path
        assert len(described.first_sentence(text)) <= 100, path


def test_docs_config_md_is_made_of_the_table():
    made = "python -m vitjax.tools.configs --keys > docs/config.md"
    assert PAGE.read_text() == help.page(), f"make the page again: {made}"
