"""The command `vitjax`: its list of commands, their names in help texts, its errors."""

import pytest

from vitjax import __main__, commands


def test_a_mistyped_command_is_one_sentence_with_the_nearest(capsys):
    assert __main__.main(["evalute"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown command 'evalute'; did you mean 'evaluate'?")


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("/env/bin/vitjax", "vitjax plan"),
        ("/lib/vitjax/__main__.py", "python -m vitjax plan"),
        ("/lib/vitjax/tools/plan.py", "python -m vitjax.tools.plan"),
        ("/lib/pytest/__main__.py", "python -m vitjax.tools.plan"),
    ],
)
def test_help_names_the_program_that_was_started(started, name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [started])
    with pytest.raises(SystemExit):
        __main__.main(["plan", "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name} [-h]")
    assert f"  {name} --config" in text.partition("examples:")[2]


def test_every_command_has_one_line(capsys):
    assert __main__.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in commands.COMMANDS:
        [line] = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line.split(maxsplit=1)[1]) > 10
        assert len(line) <= 100
