"""Own parts in a config: names in full, and what a stranger's checkpoint may name."""

from pathlib import Path

import pytest

from vitjax.config import names

CONFIG = {
    "modules": ["mine.ext"],
    "model_name": "net",
    "model": {"kind": "net", "pp": "thin"},  # the model's own arguments
    "loss": "focal",
    "optax_name": "by_sign",
    "device_pp": "thin(1)|value_range(-1, 1)",
    "input": {"pp": "decode| thin('|thin|')|thin", "data": {"kind": "csv"}},
    "evals": {
        "val": {
            "type": "calibration",
            "pp_fn": "thin|broken(",
            "data": {"kind": "csv"},
            "fit_data": {"kind": "tfds"},
            "loss_name": "focal",
        },
        "off": None,
    },
}
EXT = """
def part(**kw): pass
def register_parts(tables):
    tables.models["net"] = tables.losses["focal"] = tables.sources["csv"] = part
    tables.ops["thin"] = tables.device_ops["thin"] = part
    tables.evaluators["calibration"] = tables.optimizers["by_sign"] = part
"""


def test_registered_names_are_written_in_full(own):
    own("mine/ext.py", EXT)
    full = names.full_names(CONFIG)
    x = "mine.ext."
    assert full == {
        **CONFIG,
        "model_name": f"{x}net",
        "loss": f"{x}focal",
        "optax_name": f"{x}by_sign",
        "device_pp": f"{x}thin(1)|value_range(-1, 1)",
        "input": {
            "pp": f"decode| {x}thin('|thin|')|{x}thin",
            "data": {"kind": f"{x}csv"},
        },
        "evals": {
            "val": {
                "type": f"{x}calibration",
                "pp_fn": f"{x}thin|broken(",
                "data": {"kind": f"{x}csv"},
                "fit_data": {"kind": "tfds"},
                "loss_name": f"{x}focal",
            },
            "off": None,
        },
    }
    assert names.full_names(full) == full
    assert CONFIG["loss"] == "focal"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"modules": "mine.ext"}, r"modules must be a list of modules.*got 'mine.ext'"),
        ({"modules": ["a b"]}, "modules must be a list of modules"),
        ({"modules": ["mine.no"]}, "config key modules: the module 'mine' has no 'no'"),
        (
            {"modules": ["mine.ext", "mine.ext2"]},
            "two models named 'net': write mine.ext",
        ),
        ({"model_name": "mine.ext.nt"}, "config key model_name: .* has no 'nt'"),
        ({"input": {"pp": "mine.ext.nt(1)"}}, "config key input.pp: .* has no 'nt'"),
        (
            {"evals": {"a": {"type": "my.x"}}},
            "evals.a.type: the module 'my' is not found",
        ),
    ],
)
def test_a_wrong_name_tells_its_key(own, config, words):
    own("mine/ext.py", EXT)
    own("mine/ext2.py", EXT)
    with pytest.raises(ValueError, match=words):
        names.full_names(config)


HOSTILE = [
    {"evals": {"val": {"pp_fn": "decode|os.system('true')"}}},
    {"evals": {"val": {"device_pp": "subprocess.run('true')"}}},
    {"input": {"data": {"kind": "os.system"}}},
    {"evals": {"a": {"sets": [{"kind": "os.system"}]}}},
    {"model_name": "subprocess.Popen"},
    {"loss": "pandas.read_pickle"},
    {"evals": {"a.b\n": {"type": "vitjax.files.write_whole"}}},
    {"optax_name": "antigravity.x"},
    {"modules": ["antigravity"]},
]


@pytest.mark.parametrize("config", HOSTILE, ids=str)
@pytest.mark.parametrize("workdir", [None, Path("got")])
def test_a_checkpoint_names_no_code_of_others(config, workdir):
    with pytest.raises(ValueError, match=r"give --config\.modules=") as error:
        names.check_stored(config, (), "a.safetensors", workdir=workdir)
    assert str(error.value).startswith("a.safetensors names code, ")


def test_the_person_allows_modules(own):
    own("mine/ext.py", EXT)
    stored = {"model_name": "mine.ext.net", "optax_name": "big_vision.momentum_hp"}
    names.check_stored(stored, (), "runs/a", workdir=Path("runs/a"))
    for allowed in ({"mine"}, {"mine.ext"}, {"mine.ext.net"}):
        names.check_stored(stored, allowed, "a.safetensors", workdir=None)
    for allowed in ((), {"min"}, {"mine.ext.ne"}, {"mine.other"}):
        with pytest.raises(ValueError, match=r"names code, mine\.ext\.net, which"):
            names.check_stored(stored, allowed, "a.safetensors", workdir=None)


def test_a_run_brings_no_code_along(own):
    own("payload.py", "raise SystemExit\n")
    stored = {"model_name": "payload.net"}
    names.check_stored(stored, (), "runs/a", workdir=Path("runs/a"))
    names.check_stored(stored, {"payload"}, ".", workdir=Path())
    with pytest.raises(ValueError, match=r"names code, payload\.net, which"):
        names.check_stored(stored, (), ".", workdir=Path())
