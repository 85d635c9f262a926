"""Parts of a person's own modules: where they are found, and what is wrong with them."""

import sys

import pytest

from input_pipeline import device_ops, ops, parts, sources


def test_a_part_is_an_attribute_or_what_its_module_registers(own):
    own("mine/a.py", "def f(): return 1\ndef g(): return 2\n")
    own(
        "mine/ext.py",
        "from mine import a\n"
        "def f(): return 3\n"
        "def register_parts(tables):\n"
        "    tables.ops['g'] = tables.ops['f'] = a.g\n",
    )
    assert parts.find("mine.a.f", "losses")() == 1
    assert parts.find("mine.ext.g", "ops")() == 2
    assert parts.find("mine.ext.f", "ops")() == 2  # the registered one
    assert parts.find("mine.ext.f", "losses")() == 3  # no loss is registered
    assert parts.registered("mine.a") == parts.Tables()


def test_a_module_stands_for_its_model_or_evaluator(own):
    own("mine/__init__.py", "")
    own("mine/both.py", "def Model(): return 1\nclass Evaluator: pass\n")
    assert parts.find("mine.both", "models")() == 1
    assert parts.find("mine.both", "evaluators").__name__ == "Evaluator"


def test_the_path_is_only_longer_while_something_is_imported(own):
    own("far/away/there.py", "def f(): return 1\n")
    before = list(sys.path)
    with parts.looking_in("far/away"):
        assert parts.find("there.f", "losses")() == 1
    assert sys.path == before
    del sys.modules["there"]
    with pytest.raises(parts.NotFound, match="the module 'there' is not found"):
        parts.find("there.f", "losses")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("nowhere.f", "models", r"'nowhere' is not found; looked in .* PYTHONPATH=DIR"),
        ("mine.nope.f", "models", "the module 'mine' has no 'nope'"),
        ("mine.a.ff", "models", r"'mine.a' \(mine/a.py\) has no 'ff'; it has f$"),
        ("mine.a.f.g", "models", r"'mine.a' \(mine/a.py\) has no 'f'"),
        ("mine.a", "models", "the module 'mine.a' has no Model"),
        ("mine.a", "ops", "is a module: name one in it"),
        ("mine.a.N", "losses", "the loss 'mine.a.N' must be a function or a class"),
        ("mine.line.f", "models", "mine/line.py, line 2: ZeroDivisionError: division"),
        ("mine.lib.f", "models", "mine/lib.py, line 2: JSONDecodeError: Expecting"),
        (
            "mine.gone.f",
            "models",
            "line 3: ModuleNotFoundError: No module named 'jaxx'",
        ),
        (
            "mine.syntax.f",
            "models",
            r"mine/syntax.py, line 1: SyntaxError: invalid syntax",
        ),
        ("mine.exits.f", "models", "mine/exits.py, line 2: SystemExit: 3"),
        ("mine.reg.f", "ops", "'mine.reg' fails: mine/reg.py, line 2: AttributeError"),
        ("mine.word.f", "ops", "registers the op 'a-b', whose name must be letters"),
    ],
)
def test_what_is_wrong_is_one_sentence(own, name, kind, words):
    own("mine/a.py", "from os.path import join\nN = 3\ndef f(): return 1\n")
    own("mine/line.py", "\n1 / 0\n")
    own("mine/lib.py", "import json\njson.loads('x')\n")
    own("mine/gone.py", "\n\nimport jaxx\n")
    own("mine/syntax.py", "def f(:\n")
    own("mine/exits.py", "import sys\nsys.exit(3)\n")
    own("mine/reg.py", "def register_parts(tables):\n    tables.op['f'] = 1\n")
    own("mine/word.py", "def register_parts(tables):\n    tables.ops['a-b'] = 1\n")
    with pytest.raises(ValueError, match=words) as error:
        parts.find(name, kind)
    assert "\n" not in str(error.value)


def test_only_folders_of_the_person_are_the_persons_own(own):
    own("mine/a.py", "raise SystemExit\n")
    assert parts.is_persons_own("mine.a", "runs")
    for folder in (".", "mine", ".."):  # the module came with the run
        assert not parts.is_persons_own("mine.a", folder), folder
    for name in ("os", "subprocess.run", "numpy.load", "vitjax.files", "parity.x"):
        assert not parts.is_persons_own(name, "runs"), name
    assert "mine" not in sys.modules, "nothing is imported"


def test_own_ops_get_randomness_if_they_take_it(own):
    own(
        "mine/ops.py",
        "import jax, tensorflow as tf\n"
        "from input_pipeline import ops\n"
        "def plus(n: int):\n    return lambda x: x + n\n"
        "def host():\n"
        "    return lambda x, seed: x + tf.random.stateless_uniform((), seed)\n"
        "def device():\n"
        "    return lambda x, keys: x + jax.vmap(jax.random.uniform)(keys)\n"
        "def all_features():\n    return lambda features: {**features, 'b': 1}\n"
        "both = ops.Op(all_features, 'features')\n"
        "def three():\n    return lambda a, b, c: a\n",
    )
    seed = [5, 6]
    preprocess = ops.get_preprocess_fn("mine.ops.plus(2)|mine.ops.host(key='a')")
    once, again = (
        preprocess({"image": 1, "a": 0.0, "seed": seed})["a"] for _ in range(2)
    )
    assert preprocess({"image": 1, "a": 0.0, "seed": seed})["image"] == 3
    assert 0 < once == again < 1
    assert ops.get_preprocess_fn("mine.ops.both")({"a": 0})["b"] == 1
    import jax.numpy as jnp

    batch = {"image": jnp.zeros(3), "seed": jnp.array([[5, 6], [7, 8], [5, 6]])}
    draw = device_ops.get_preprocess_fn("mine.ops.device|mine.ops.device(outkey='b')")
    first = draw(batch)
    assert first["image"][0] == first["image"][2] != first["image"][1]
    # Another place in the spec draws other numbers.
    assert first["b"][0] - first["image"][0] != first["image"][0]
    for spec, words in (
        ("mine.ops.three", r"must return a function fn\(value\) or fn\(value, "),
        ("mine.ops.plus('a')", "n cannot be 'a'; it is called as mine.ops.plus"),
    ):
        for language in (ops, device_ops):
            with pytest.raises(ValueError, match=words):
                language.get_preprocess_fn(spec)
    with pytest.raises(ValueError, match="needs the feature 'seed'"):
        draw({"image": jnp.zeros(3)})


def test_an_own_source_lacks_nothing(own):
    own(
        "mine/data.py",
        "class Few:\n    notices = ()\n    def __len__(self): return 1\n",
    )
    words = r"must be a source.*its Few has no class_names, num_classes, read, "
    with pytest.raises(ValueError, match=words):
        sources.open_source(kind="mine.data.Few")
