"""Strings that people give: op specs, config arguments, overrides, however odd.

Each is read, or refused by a ValueError of one line. None of them runs code: Python's own
audit events tell.
"""

import contextlib
import sys

import hypothesis
import pytest
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import vit_s16_i1k
from configs.common import parse_arg
from input_pipeline import device_ops, ops, spec
from vitjax.config import override

# What code that was not meant to run would do.
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
    """An audit hook cannot be removed: this one is told when to look."""

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
    """As many examples of each, the same in every run."""
    settings = hypothesis.settings(
        max_examples=1000, deadline=None, derandomize=True, database=None
    )
    suppress = [hypothesis.HealthCheck.function_scoped_fixture]
    settings = hypothesis.settings(settings, suppress_health_check=suppress)
    return lambda test: settings(hypothesis.given(text=strategy)(test))


@contextlib.contextmanager
def refused_or_read(text):
    """The only way to refuse is a ValueError with one line for people."""
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
