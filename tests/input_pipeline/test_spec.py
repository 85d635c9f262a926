"""The op language: the specs that it reads and refuses, and its messages."""

from typing import Literal

import pytest

from input_pipeline import spec


def plain(text):
    return [(call.name, call.args, call.kwargs) for call in spec.parse(text)]


def test_reads_names_arguments_and_order():
    got = plain(
        "decode|flip_lr | randaug(2, 10)|resize((3, -4.5), method='area')"
        "|keep('image', 'labels')|f(None, on=True, off=-1e3)"
    )
    assert got == [
        ("decode", (), {}),
        ("flip_lr", (), {}),
        ("randaug", (2, 10), {}),
        ("resize", ((3, -4.5),), {"method": "area"}),
        ("keep", ("image", "labels"), {}),
        ("f", (None,), {"on": True, "off": -1000.0}),
    ]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_spec_has_no_ops(text):
    assert plain(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a('x|y')|b", "x|y"),
        ('a("x|\'y")|b', "x|'y"),
        (r"a('x\'|y')|b", "x'|y"),
        (r"a('x\\')|b", "x\\"),
    ],
)
def test_bars_inside_quotes_do_not_separate(text, value):
    assert plain(text) == [("a", (value,), {}), ("b", (), {})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decode||flip_lr", "op 2 of the spec is empty"),
        ("decode|", "op 2 of the spec is empty"),
        ("decode|resize(224", "op 2 of the spec, 'resize\\(224', cannot be read"),
        ("resize(size)", "op 1 of the spec, 'resize\\(size\\)', .* not a literal"),
        ("resize(2 * 112)", "not a literal"),
        ("resize(open('x'))", "not a literal"),
        ("resize(*[1])", "not a literal"),
        ("resize(**{'size': 1})", "unpacks"),
        ("resize(size=1, size=2)", "twice"),
        ("a[0](1)", "name or name\\(arguments\\)"),
        ("a(1)(2)", "name or name\\(arguments\\)"),
        ("__import__('os').system('true')", "name or name\\(arguments\\)"),
        ("'decode'", "name or name\\(arguments\\)"),
        ("keep('image)", "cannot be read"),
    ],
)
def test_refuses_what_is_not_an_op(text, message):
    with pytest.raises(ValueError, match=message) as error:
        spec.parse(text)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", [None, 5, b"decode", ["decode"]])
def test_refuses_what_is_not_a_string(text):
    with pytest.raises(ValueError, match="must be a string"):
        spec.parse(text)


def example(
    size: int | tuple[int, int],
    ratio: float = 0.5,
    method: Literal["area", "nearest"] = "area",
    flag: bool = False,
    name: str | None = None,
):
    if ratio < 0:
        raise ValueError("ratio is not negative")
    return size, ratio, method, flag, name


def build(text):
    return spec.build(spec.parse(text)[0], example)


def test_build_passes_arguments_and_converts_numbers_and_lists():
    assert build("example(3)") == (3, 0.5, "area", False, None)
    got = build("example([3, 4], 1, method='nearest', flag=True, name='x')")
    assert got == ((3, 4), 1.0, "nearest", True, "x")
    assert isinstance(got[1], float)
    assert isinstance(got[0], tuple)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "1, 2, 'area', False, 'x', 6",
        "1, sise=2",
        "1, size=2",
        "1.5",
        "True",
        "'1'",
        "(1, 2, 3)",
        "(1, 2.5)",
        "1, 'x'",
        "1, True",
        "1, None",
        "1, method='cubic'",
        "1, flag=1",
        "1, name=1",
        "1, -0.5",
    ],
)
def test_build_names_the_op_and_its_signature(arguments):
    text = f"example({arguments})"
    with pytest.raises(ValueError, match="example") as error:
        build(text)
    assert repr(text) in str(error.value)
    assert "example(size, ratio=0.5, method='area', flag=False" in str(error.value)


def test_build_checks_each_of_many_arguments():
    def keep(*keys: str):
        return keys

    assert spec.build(spec.parse("keep('a', 'b')")[0], keep) == ("a", "b")
    with pytest.raises(ValueError, match="keys cannot be"):
        spec.build(spec.parse("keep('a', 1)")[0], keep)


def test_keyed_ops_say_which_feature_they_read_and_write():
    def op(n: int = 1):
        return n

    def keys(text):
        return spec.build_keyed(spec.parse(text)[0], op)

    assert keys("op") == (1, "image", "image")
    assert keys("op(2, key='x')") == (2, "x", "x")
    assert keys("op(inkey='x', n=3)") == (3, "x", "image")
    assert keys("op(outkey='y')") == (1, "image", "y")
    with pytest.raises(ValueError, match="inkey cannot be 1"):
        keys("op(inkey=1)")
    with pytest.raises(ValueError, match="op\\(n=1\\), besides inkey='image'"):
        keys("op(inky='x')")


def test_unknown_ops_get_the_nearest_name():
    error = spec.unknown_op(spec.parse("flip_rl")[0], ["flip_lr", "decode"], "host")
    assert "unknown host op 'flip_rl'" in str(error)
    assert "did you mean 'flip_lr'?" in str(error)
    assert "decode, flip_lr" in str(error)


def test_arguments_without_annotation_are_taken_as_they_are():
    [call] = spec.parse("op(3, amount='x')")
    assert spec.build(call, lambda a, amount=1: (a, amount)) == (3, "x")
