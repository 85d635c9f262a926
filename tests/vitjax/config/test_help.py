"""--help on config files and on keys."""

import pytest

from vitjax import command_line
from vitjax.config import described, help, shipped

OWN = '''"""A net of mine."""

from ml_collections import ConfigDict

from configs.common import About, parse_arg


def get_config(arg=None):
    chosen = parse_arg(arg, size=About("small", "its size", ("small", "big")), lr=0.5)
    return ConfigDict(
        dict(
            lr=chosen.lr,
            lrr=1,
            input=dict(data=dict(kind="folder", split="train"), pp="x" * 200),
            evals=dict(
                b=dict(type="fewshot", data=dict(name="digits")), a=dict(log_epochs=3)
            ),
        )
    )
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


def rows_of(text):
    """The lines of {group: lines}, with the file's arguments as "arguments"."""
    groups, name = {}, ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            name = line.partition(",")[0]
        elif line.strip():
            groups.setdefault(name, []).append(line)
    return groups


def shown(spec, width=120, **kw):
    return rows_of(
        help.of_file(described.read(spec, **kw), spec, width=width, colour=False)
    )


def test_a_file_shows_its_arguments_and_each_key_with_its_value(own):
    groups = shown(f"{own}:size=big", overrides=["mixup.p=0.2"])
    assert groups["arguments"] == [
        f"{'  size = big':<46}its size (small, big; default: small)",
        "  lr = 0.5",
    ]
    [lr] = [line for line in groups["optimizer"] if line.startswith("  lr ")]
    assert lr == f"{'  lr = 0.5':<46}The learning rate, before schedule and lr_mults"
    step = groups["loss and step"]
    assert step.index(
        f"{'  mixup.p = 0.2':<46}The weight is drawn from Beta(p, p), and p is above 0"
    )
    assert any(line.startswith("  [mixup.scope = global] ") for line in step)
    data = "\n".join(groups["data"])
    assert "[input.data.data_dir]" in data  # required by folder
    assert "[input.data.name" not in data  # tfds has it, folder does not
    evaluation = "\n".join(groups["evaluation"])
    assert evaluation.index("evals.a.log_epochs = 3") < evaluation.index("evals.b.type")
    assert "[evals.NAME.shots = (1, 5, 10, 25)]" in evaluation
    assert "[evals.NAME.loss_name = sigmoid_xent]" in evaluation  # of a, by its default
    assert groups["unknown"] == ["  lrr = 1"]


def test_the_text_is_as_wide_as_the_terminal(own):
    for width in (60, 80, 130):
        text = help.of_file(described.read(own), own, width=width, colour=False)
        assert all(len(line) <= width or own in line for line in text.splitlines())
    text = help.of_file(described.read(own), own, width=80, colour=True)
    quiet = [
        line for line in text.splitlines() if line.lstrip("\033[2m ").startswith("[")
    ]
    assert quiet == []  # every line in brackets begins with the code of a faint colour
    assert "\033[2m  [l2 = None]" in text


def test_defaults_that_depend_on_other_arguments_are_the_chosen_ones():
    found = {a.name: a for a in described.read("vit_s16_i1k:preset=fixed").arguments}
    assert found["preset"][1:3] == ("fixed", "big_vision")
    assert found["head"][1:3] == ("linear", "linear")
    # vit_i1k calls the flagship's get_config: those arguments are not its own.
    assert "preset" not in {a.name for a in described.read("vit_i1k").arguments}


def test_a_file_of_big_vision_shows_names_and_defaults(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text(
        "import big_vision.configs.common as bvcc\n"
        "def get_config(arg=None):\n"
        "    arg = bvcc.parse_arg(arg, res=224, variant='S/16')\n"
    )
    file = described.read(str(path))
    assert [(a.name, a.default) for a in file.arguments] == [
        ("res", "224"), ("variant", "'S/16'"),
    ]  # fmt: skip
    assert "No module named 'big_vision'" in help.of_file(
        file, "x", width=80, colour=False
    )


@pytest.mark.parametrize("name", shipped.configs())
def test_every_argument_of_a_shipped_config_has_a_meaning(name):
    file = described.read(name)
    assert len(file.arguments) > 1
    assert [a.name for a in file.arguments if not a.meaning] == []
    text = help.of_file(file, name, width=120, colour=False)
    assert "\nunknown" not in text
    needs_data = name in ("finetune", "scratch")
    assert ("its keys cannot be shown: " in text) == needs_data


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("input.batch_size", "input.batch_size: a whole number, required"),
        ("config.lr", "lr: a number, required"),
        ("total_epochs", "total_*: a number"),
        ("evals.val.log_epochs", "evals.NAME.log_*: a number"),
        ("evals.val.data.as_seen", "input.data.as_seen (folder, huggingface): True or"),
        ("posemb", "model.posemb (vit): a string, 'learn' by default"),
        ("schedule", "  schedule.warmup_*"),
        ("ckpt_best.mode", "'max' or 'min', 'max' by default"),
    ],
)
def test_a_key_shows_its_type_and_default(name, words):
    assert words in help.of_key(name, None, width=120)


def test_a_key_shows_the_value_of_a_config(own):
    file = described.read(own)
    text = help.of_key("lr", file, width=200)
    assert "lr, an argument of own.py" in text
    assert "lr: a number, required\n" in text
    assert "\n  in own.py: 0.5" in text
    assert "\n  in own.py: 3" in help.of_key("evals.a.log_epochs", file, width=80)
    assert f"'{'x' * 200}'" in help.of_key("input.pp", file, width=80)


def test_an_unknown_key_gets_the_nearest(capsys):
    for wrong, near in (
        ("input.batchsize", "input.batch_size"),
        ("learning_rate", "lr"),
        ("posembed", "posemb"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command_line.parse_flags(["--help", wrong])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert f"unknown config key {wrong!r}; did you mean {near!r}?" in said


def test_without_a_config_the_help_is_short(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.parse_flags(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 40
    assert "with --config: list" in text
    assert "with KEY" in text
