"""Config files and overrides; a file in big_vision's own style."""

import ast
import sys

import pytest
from ml_collections import ConfigDict

from vitjax.config.experiment import differences
from vitjax.config.files import from_big_vision, load, plain

BIG_VISION_STYLE = """
import ml_collections as mlc

def get_config():
  config = mlc.ConfigDict()
  config.seed = 0
  config.total_epochs = 90
  config.num_classes = 1000
  config.input = {}
  config.input.data = dict(name='imagenet2012', split='train[:99%]')
  config.input.batch_size = 1024
  config.input.cache_raw = True
  config.input.accum_freq = 8
  config.pp_modules = ['ops_general', 'ops_image', 'ops_text', 'archive.randaug']
  config.model = dict(variant='S/16', rep_size=True)
  config.mixup = dict(p=0.2, fold_in=None)
  config.evals = {}
  config.evals.val = dict(type='classification', data=dict(name='imagenet2012'))
  config.evals.v2 = dict(type='classification', data=dict(name='imagenet_v2'))
  config.evals.real = dict(data=dict(name='imagenet2012_real'), required=True)
  return config
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "big_vision_style.py"
    file.write_text(BIG_VISION_STYLE)
    return str(file)


@pytest.mark.parametrize(
    ("text", "get", "expected"),
    [
        ("total_epochs=0.5", lambda c: c.total_epochs, 0.5),
        ("model.dropout=0.1", lambda c: c.model.dropout, 0.1),  # not in the file
        ("wandb.project=mine", lambda c: c.wandb.project, "mine"),  # nor its section
        ("a.b.c=(1, 'x')", lambda c: c.a.b.c, (1, "x")),
        ("loss=softmax_xent", lambda c: c.loss, "softmax_xent"),
        ("grad_clip_norm=None", lambda c: c.grad_clip_norm, None),
        ("mixup=None", lambda c: "mixup" in c, False),  # a section goes
        ("evals.v2=None", lambda c: sorted(c.evals), ["real", "val"]),
        ("input.data.split=train[:2%]", lambda c: c.input.data.split, "train[:2%]"),
        ("input.pp=", lambda c: c.input.pp, ""),
        ("x=__import__('os').getcwd()", lambda c: c.x, "__import__('os').getcwd()"),
        ("x=a=b", lambda c: c.x, "a=b"),
    ],
)
def test_any_key_can_be_set_from_the_command_line(path, text, get, expected):
    assert get(load(path, [text])) == expected


def test_a_section_may_be_like_another(path):
    """A copy, with its keys changed; later overrides reach into it."""
    like = "like('val', params='ema', log_steps=7, data={'name': 'b', 'split': 'c'})"
    later = ["evals.new.data.split=d", "evals.val.log_epochs=2"]
    changed = ["evals.val.log_epochs=1", f"evals.new={like}", *later]
    evals = load(path, changed).evals.to_dict()
    assert evals["val"] == {
        "type": "classification", "data": {"name": "imagenet2012"}, "log_epochs": 2,
    }  # fmt: skip
    assert evals["new"] == {
        "type": "classification", "data": {"name": "b", "split": "d"},
        "params": "ema", "log_steps": 7,
    }  # fmt: skip
    assert "data" not in load(path, ["evals.new=like('val', data=None)"]).evals.new


def test_overrides_apply_in_order(path):
    config = load(path, ["mixup=None", "mixup.p=0.5", "seed=1", "seed=2"])
    assert config.mixup.to_dict() == {"p": 0.5}
    assert config.seed == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed", "--config.key=VALUE"),
        ("=3", "--config.key=VALUE"),
        ("a..b=3", "--config.key=VALUE"),
        ("seed.x=3", "'seed' is a value, not a section"),
        ("model={1: 2, 'a': 3}", "keys of config section model must be strings, got 1"),
        ("evals.x=like('vall')", "section of evals in .*'vall'; did you mean 'val'"),
        ("x=like('seed')", "unknown section in like.'seed'.: 'seed'"),  # a value
        ("evals.x=like(val)", r"expected like\('NAME', key=value\), with the name"),
        ("evals.x=like('val', **{'a': 1})", "expected like"),
        ("evals.x=like('val'", "expected like"),
        (
            "evals.x=like('val', a=open('b'))",
            "cannot read a in .*: expected a Python l",
        ),
        ("evals.x=like('val', a={1, 2})", "evals.x.a must be a number, a string"),
        ("seed=99999999999999999999", "seed must be of at most 64 bits, got 0x5"),
        ("seed={1, 2}", "seed must be a number, a string, .*, got {1, 2}"),
    ],
)
def test_a_wrong_override_is_one_sentence(path, text, words):
    with pytest.raises(ValueError, match=words):
        load(path, [text])


def test_a_big_vision_file_runs_unmodified_and_says_what_was_changed(path):
    original = load(path)
    config, notices = from_big_vision(original)
    assert config.accum_freq == 8
    assert "accum_freq" not in config.input
    assert "pp_modules" not in config
    assert config.mixup.to_dict() == {"p": 0.2}
    assert config.evals.v2.required is False
    assert config.evals.real.required is True  # as the file says
    assert "required" not in config.evals.val
    assert len(notices) == 4
    assert original.input.accum_freq == 8, "from_big_vision is pure"
    again, none = from_big_vision(config)
    assert again == config
    assert none == []


def test_pp_modules_that_are_not_big_visions_are_modules(path, own):
    own("mine/ext.py", "")
    given = "['ops_image', 'proj.uvim.pp_ops', 'mine.ext']"
    config, notices = from_big_vision(load(path, [f"pp_modules={given}"]))
    assert config.modules == ["mine.ext"]
    assert "pp_modules is read as modules=['mine.ext']" in notices
    with pytest.raises(ValueError, match="modules: the module 'theirs' is not found"):
        load(path, ["pp_modules=['theirs']"])


@pytest.mark.parametrize("package", [True, False])
@pytest.mark.parametrize("file", ["proj/mine.py", "proj/configs/mine.py"])
def test_a_config_file_imports_the_configs_of_its_project(own, file, package):
    own("proj/configs/settings.py", "LOSS = 'mse'\n")
    if package:
        own("proj/configs/__init__.py", "")
    own(file, "from ml_collections import ConfigDict\n"
        "from configs.common import parse_arg\n"
        "from configs.settings import LOSS\n"
        "def get_config(): return ConfigDict(dict(loss=LOSS))\n")  # fmt: skip
    assert load(file).loss == "mse"


def test_parts_next_to_the_config_file_are_found_from_anywhere(own):
    own("far/configs/c.py", "from ml_collections import ConfigDict\n"
        "def get_config(): return ConfigDict(dict(loss='near.f', model_name='above.f'))")  # fmt: skip
    own("far/configs/near.py", "def f(): pass\n")
    own("far/above.py", "def f(): pass\n")
    try:
        assert load("far/configs/c.py").loss == "near.f"
    finally:
        for name in ("near", "above"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "no function get_config"),
        ("def get_config(): return 3", "must return a ConfigDict, got int"),
        ("import big_vision.utils", "cannot be read"),
        ("def get_config(:", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, words):
    file = tmp_path / "wrong.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        load(str(file))


def test_missing_files_and_arguments_are_named(path):
    with pytest.raises(ValueError, match=r"'no\.py' does not exist"):
        load("no.py")
    with pytest.raises(ValueError, match="takes no argument, got 'x=1'"):
        load(path + ":x=1")


@pytest.mark.parametrize(
    "text", ["input=3", "mixup=3", "evals=3", "evals.val=[1]", "evals.val={'data': 3}"]
)
def test_values_that_should_be_sections_are_left_to_their_readers(path, text):
    key, value = text.split("=")
    config, _ = from_big_vision(load(path, [text]))
    found = config.to_dict()
    for part in key.split("."):
        found = found[part]
    assert found == ast.literal_eval(value)


def test_differences_name_the_keys():
    old = {"a": {"b": 1, "c": (1, 2)}, "d": 1}
    new = plain(ConfigDict({"a": {"b": 2, "c": (1, 2)}, "e": None}))
    assert differences(plain(old), new) == [
        "a.b: 1 -> 2",
        "d: 1 -> not set",
        "e: not set -> None",
    ]


def test_a_duration_of_the_command_line_replaces_the_files_in_any_unit(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    schedule = dict(warmup_percent=0.1, decay_type='cosine')\n"
        "    return ConfigDict(dict(total_epochs=3, schedule=schedule, a_steps=1))\n"
    )
    config = load(str(path), ["total_steps=5", "schedule.warmup_steps=2"])
    assert plain(config) == {
        "total_steps": 5,
        "schedule": {"warmup_steps": 2, "decay_type": "cosine"},
        "a_steps": 1,
    }
    # Both from the command line: a contradiction, left for others to refuse.
    both = load(str(path), ["total_steps=5", "total_epochs=2"])
    assert (both.total_steps, both.total_epochs) == (5, 2)
    assert load(str(path), ["total_epochs=7"]).total_epochs == 7
