"""Help texts, flags, exit statuses and sentences that all tools share."""

import argparse
import importlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vitjax import train
from vitjax.config.files import parse_with_overrides
from vitjax.models import vit
from vitjax.tools import command, convert
from vitjax.weights import FORMATS

ROOT = Path(__file__).resolve().parents[3]
TOOLS = sorted(
    f"vitjax.tools.{path.stem}"
    for path in (ROOT / "vitjax" / "tools").glob("*.py")
    if "\ndef main(" in path.read_text()
)
PARITY = ["parity.__main__", "parity.speed.__main__"]
# Flags whose meaning depends on the tool.
OWN = {"--config", "--metrics", "--posemb", "--steps", "--to"}


HEAVY = {
    "jax", "tensorflow", "flax", "torch", "orbax", "matplotlib", "PIL", "sklearn", "wandb",
    "tensorboardX",
}  # fmt: skip
LIGHT = f"""
import contextlib, io, runpy, sys
from vitjax.tools import command

def run(name, *flags):
    sys.argv, out = [name, *flags], io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = stop.code
    assert not {HEAVY} & sys.modules.keys(), (name, {HEAVY} & sys.modules.keys())
    return status, out.getvalue()

for name in {[*TOOLS, *PARITY]}:
    status, text = run(name, "--help")
    assert status == 0, name
    assert text.startswith(f"usage: python -m {{name.removesuffix('.__main__')}} "), name
for words in (["vitjax", "--help"], ["vitjax", "train", "--help"], ["vitjax.train", "--help"]):
    status, text = run(*words)
    assert status in (0, None) and text.startswith("usage: "), words
assert run("vitjax.tools.show", "--config", "nothing.py", "--index", "0") == (1, "")
"""


def test_help_and_a_missing_file_load_nothing_heavy():
    """All modules in one process, each run as by `python -m`."""
    assert len(TOOLS) >= 12
    env = {k: v for k, v in os.environ.items() if k != "VITJAX_TRACEBACK"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIGHT],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: config file 'nothing.py' does not exist")
    for name in TOOLS:
        text = (ROOT / name.replace(".", "/")).with_suffix(".py").read_text()
        assert text.endswith('if __name__ == "__main__":\n    sys.exit(main())\n'), name


class Given(Exception):
    """Carries the parser that a tool hands its command line to."""


@pytest.fixture
def parser_of(monkeypatch):
    """The parser of a tool, which runs no further."""

    def stop(self, argv=None):
        raise Given(self)

    def find(name):
        tool = importlib.import_module(name)
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(Given) as given:
                tool.main([])
        return given.value.args[0]

    return find


@pytest.mark.parametrize("name", TOOLS)
def test_a_help_text_fits_and_explains_every_flag(name, parser_of):
    parser = parser_of(name)
    text = parser.format_help()
    assert [line for line in text.splitlines() if len(line) > command.WIDTH] == []
    for action in parser._actions:
        assert action.help, action.dest
        plain = action.default in (None, False, argparse.SUPPRESS)
        assert plain or "default" in action.help, action.dest
    # The tool takes its examples.
    examples = text.partition("examples:\n")[2].replace("\\\n", " ")
    lines = examples.strip().splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.partition(">")[0])
        assert words[:3] == ["python", "-m", name]
        parse_with_overrides(parser, words[3:])


def test_the_same_flag_has_the_same_words_in_all_tools(parser_of):
    said = {}
    for name in TOOLS:
        for action in parser_of(name)._actions:
            for flag in action.option_strings:
                # Each tool writes something else to another place.
                words = re.sub("^(where) .* (is written).*", r"\1 \2", action.help)
                words = words.partition(", if ")[0]
                kind = action.nargs, action.type, words
                if flag not in OWN:
                    assert said.setdefault(flag, kind) == kind, (name, flag)
    shared = {"--json", "--ckpt", "--ema", "--evals", "--image_size"}
    assert shared <= said.keys()


def test_choices_are_those_of_the_library():
    assert tuple(FORMATS) == convert.STATE_DICTS
    assert tuple(vit.POSEMBS) == convert.POSEMBS


def test_json_has_null_for_numbers_that_are_not_finite():
    given = {"a": [1.5, math.nan, (math.inf,)], "b": {"c": -math.inf}}
    given["d"] = [True, None]
    found = json.loads(command.as_json(given))  # NaN would be read as a number
    assert found == {"a": [1.5, None, [None]], "b": {"c": None}, "d": [True, None]}


def raising(error):
    def work():
        raise error

    return work


def test_an_error_ends_a_tool_with_a_status_and_one_sentence(capsys, monkeypatch):
    assert command.run(lambda: None) == 0
    assert command.run(lambda: 75) == 75
    assert command.run(raising(ValueError("wrong"))) == 1
    assert capsys.readouterr().err == "error: wrong\n"
    assert command.run(raising(KeyboardInterrupt()), "again") == 130
    assert capsys.readouterr().err == "again\n"
    error = jax.errors.JaxRuntimeError("INTERNAL: a fault")
    assert command.run(raising(error)) == 1
    assert capsys.readouterr().err == "error: JAX stopped: INTERNAL: a fault\n"
    for other in (RuntimeError("ours"), KeyError("ours")):
        with pytest.raises(type(other), match="ours"):
            command.run(raising(other))
    monkeypatch.setenv("VITJAX_TRACEBACK", "1")
    with pytest.raises(jax.errors.JaxRuntimeError):
        command.run(raising(error))


def test_a_tilde_after_an_equals_sign_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--config=~/c.py:ckpt=~/v.npz", "--config.input.data.data_dir=~/x"]
    parser = command.parser("x", "", ())
    command.add_ckpt(parser)
    flags, overrides = parse_with_overrides(parser, ["--ckpt=~/run", *words])
    assert flags.ckpt == f"{tmp_path}/run"
    ours, our_overrides = train.parse_flags([*words, "--workdir=~/r"])
    assert ours.workdir == f"{tmp_path}/r"
    assert overrides == our_overrides == [f"input.data.data_dir={tmp_path}/x"]
    assert flags.config == ours.config == f"{tmp_path}/c.py:ckpt={tmp_path}/v.npz"


@pytest.mark.slow
def test_a_closed_pipe_ends_a_tool_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    flags = ["-m", "vitjax.tools.configs"]
    done = subprocess.run(
        [sys.executable, *flags], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
