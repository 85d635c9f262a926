"""Strings that people give: op specs, config arguments, overrides, however odd.

Each is read, or refused by a ValueError of one line. Python's audit events show that none
of them runs code.
"""

import contextlib
import dataclasses
import json
import sys

import hypothesis
import jax
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import quickstart, vit_s16_i1k
from configs.common import parse_arg
from input_pipeline import device_ops, ops, spec
from vitjax import optim
from vitjax.config import arguments, durations, experiment
from vitjax.config.files import from_big_vision, override, plain
from vitjax.devices import sharding
from vitjax.evaluators import schedule
from vitjax.step import ema, mixup

pytestmark = pytest.mark.slow

# Events of code that must not run.
EVENTS = ("exec", "import", "open", "os.", "subprocess.", "socket.", "ctypes.")
ATTACKS = (
    "__import__('os').system('true')",
    "exec('1')",
    "().__class__.__mro__",
    "[x for x in (1,)]",
    "f'{print(1)}'",
    "(lambda: 0)()",
    "9**9**9",
    "'a'*9**9",
    *(deep * 50_000 for deep in ("-", "[", "(", "a(", "1+", "{1:", "not ")),
    "[" * 300 + "]" * 300,
    "1" * 5000,
    "{[]: 1}",
    "{1: 2, **{}}",
    "\x00",
    "\ud800",
    "__class__",
    "1e999",
    "-0",
    "\u0661",
)


class Watch:
    """An audit hook cannot be removed; this one can be switched off."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event, args):
        if self.on and event.startswith(EVENTS):
            self.seen.append((event, args))

    @contextlib.contextmanager
    def looking(self):
        self.on, self.seen = True, []
        try:
            yield
        finally:
            self.on = False
        assert self.seen == []


@pytest.fixture(scope="module")
def watch():
    return Watch()


def texts(*words):
    """Any text, and pieces of the language with attacks among them."""
    marks = [*list("()[]{}|,=.:'\"\\ #\n*-"), "**", "True", "None", "0.5", "224", "[]"]
    pieces = st.sampled_from([*words, *words, *marks, *ATTACKS])
    return st.text() | st.lists(pieces | st.text(max_size=3), max_size=12).map("".join)


def every(strategy):
    """Run a test on 300 examples, the same in every run."""
    settings = hypothesis.settings(
        max_examples=300, deadline=None, derandomize=True, database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    return lambda test: settings(hypothesis.given(text=strategy)(test))


@contextlib.contextmanager
def refused_or_read(text):
    """Allow no error but a ValueError with one short line."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        assert message
        assert "\n" not in message, message
        assert len(message) < 2000 + 2 * len(text)  # it may say it twice


CALLS = ("decode", "resize(224)", "flip_lr", "randaug(2, 10)", "onehot(", "keep(")
LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["image", "label", "bilinear", "area", -1, 0, 1, 8, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
KEYWORDS = st.sampled_from(["key", "inkey", "outkey", "size", "method", "antialias"])
CALLED = st.tuples(
    st.sampled_from(sorted({*ops.OPS, *device_ops.OPS})),
    st.lists(LITERALS, max_size=3),
    st.dictionaries(KEYWORDS, LITERALS, max_size=2),
)


def written(call):
    name, args, kwargs = call
    pieces = [*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())]
    return f"{name}({', '.join(pieces)})"


@every(texts(*CALLS, "key='image'", "inkey=", "a(1)"))
def test_op_specs(watch, text):
    with watch.looking(), refused_or_read(text):
        spec.parse(text)


@every(CALLED.map(written))
def test_ops_of_any_arguments(text):
    with refused_or_read(text):
        ops.get_preprocess_fn(text)
    with refused_or_read(text):
        device_ops.get_preprocess_fn(text)


ARGUMENTS = ("preset=fixed", "variant=", "epochs=", "mixup", "crop=beta(1, 2)", "head")


@every(texts(*ARGUMENTS))
def test_config_arguments(watch, text):
    with watch.looking(), refused_or_read(text):
        parse_arg(text, flag=True, n=3, x=0.5, name="a")
    with watch.looking(), refused_or_read(text):
        assert isinstance(vit_s16_i1k.get_config(text), ConfigDict)


KEYS = ("model.", "input.data", "lr=", "lr=1", "mixup=None", "evals.val=", "a.b.c=")


@every(texts(*KEYS))
def test_overrides(watch, text):
    config = ConfigDict({"model": {"width": 3}, "lr": 0.1, "mixup": {"p": 0.2}})
    config.unlock()
    with watch.looking(), refused_or_read(text):
        override(config, text)


def dotted(section, prefix=""):
    for key, value in section.items():
        yield prefix + key
        if isinstance(value, ConfigDict | dict):
            yield from dotted(value, f"{prefix}{key}.")


FIELDS = {field.name for field in dataclasses.fields(experiment.Experiment)}
UNITS = [f"{d}_{unit}" for d in experiment.DURATIONS for unit in durations.UNITS]
INNER = [
    f"{section}.{key}"
    for section, keys in {
        "optax": "b1 mu_dtype nesterov",
        "schedule": "power decay_type steps mults mult cooldown_steps timescale "
        "warmup_steps scale_with_batchsize",
        "mixup": "p scope fold_in",
        "ema": "decay every",
        "evals.val": "required skip_first params batch_size log_steps label_key",
        "input": "accum_freq",
    }.items()
    for key in keys.split()
]
KEYS_OF_QUICKSTART = dotted(quickstart.get_config())
SETTABLE = sorted(
    {*KEYS_OF_QUICKSTART, *FIELDS, *experiment.OPTIMIZER_KEYS, *UNITS, *INNER}
)
NUMBERS = (-1, 0, 1, 2, 0.5, 1e18, 1e400, 2**31, 2**40, 10**30, 10**400, True)
RULES = (".*", "(", "a{99999999999999999999}", "replicate", "fsdp('data', [])", "data")
WORDS = ("cosine", "rsqrt", "stair", "polynomial", "scale_by_adam", "chain", "ema", "x")
ATOMS = (
    st.none()
    | st.sampled_from([*NUMBERS, *RULES, *WORDS])
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=2)
    | st.complex_numbers()
    | st.frozensets(st.integers(), min_size=1, max_size=2).map(set)
)
NAMES = st.sampled_from(["p", "b1", "mult", "decay", "data", "name", "", "a.b"])
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner, inner)
        | st.lists(st.tuples(st.sampled_from(RULES), inner), min_size=1, max_size=2)
        | st.dictionaries(NAMES | st.integers(), inner, max_size=2)
    ),
    max_leaves=3,
)
SET = st.tuples(st.sampled_from(SETTABLE), VALUES)
SIZES = {"data_size": 1000, "batch_size": 8, "total_steps": 50}
QUICKSTART = experiment.from_config(quickstart.get_config().to_dict())
SHAPES = {"body": {"kernel": jax.ShapeDtypeStruct((2, 2), "float32")}}


def fake_data(*, data, pp_fn, batch_size):
    return [], 1


def make_optimizer(section):
    optim.check_section(section)
    return optim.make_optimizer(SHAPES, **SIZES, **section)


def understood(config, mesh):
    """Yield a call for each part of the program that reads values of the config."""
    config, _ = from_big_vision(config)
    e = experiment.from_config(config.to_dict())
    json.dumps(plain(config))
    no_total = {k: v for k, v in SIZES.items() if k != "total_steps"}
    yield lambda: e.steps("total", **no_total)
    for prefix in experiment.DURATIONS[1:]:
        yield lambda prefix=prefix: e.steps(prefix, **SIZES, default=None)
    if e.optimizer != QUICKSTART.optimizer:  # it takes the longest
        yield lambda: make_optimizer(e.optimizer)
    yield lambda: sharding.make_mesh(e.mesh)
    yield lambda: sharding.infer_sharding(SHAPES, mesh, e.sharding_strategy)
    if e.mixup is not None:
        yield lambda: arguments.call("mixup", mixup.check, e.mixup)
    if e.ema is not None:
        yield lambda: arguments.call("ema", ema.make_update, e.ema)
    yield lambda: schedule.make_entries(
        e.evals,
        predict=lambda state, image: (image, {}),
        make_data=fake_data,
        mesh=mesh,
        sizes=SIZES,
        batch_size=8,
        missing=KeyError,
        warn=print,
    )


def read(texts, mesh):
    shown = " ".join(texts)
    with refused_or_read(shown):
        config = quickstart.get_config().unlock()
        for text in texts:
            override(config, text)
        for part in understood(config, mesh):
            with refused_or_read(shown):
                part()


@every(st.lists(SET, min_size=1, max_size=3))
def test_overrides_of_every_type(mesh, text):
    """A value that `override` takes is read or refused by its own part."""
    read([f"{key}={value!r}" for key, value in text], mesh)
