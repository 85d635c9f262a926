import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees


@flax.struct.dataclass
class Pair:
    left: object
    right: object


TREE = {
    "b": (np.zeros(2), np.zeros((3, 4))),
    "a": flax.core.freeze({"kernel": np.zeros(5), "bias": np.zeros(())}),
    "c": Pair(left=[np.zeros(1)], right=None),
}


def test_names_go_through_every_container_in_the_order_of_jax():
    named = trees.flatten_with_names(TREE)
    assert [name for name, _ in named] == [
        "a/bias",
        "a/kernel",
        "b/0",
        "b/1",
        "c/left/0",
    ]
    for (_, leaf), expected in zip(named, jax.tree.leaves(TREE), strict=True):
        assert leaf is expected


def test_map_with_names_keeps_the_structure():
    mapped = trees.map_with_names(lambda name, x, y: (name, x.size + y), TREE, sizes())
    assert mapped["a"]["kernel"] == ("a/kernel", 10)
    assert isinstance(mapped["c"], Pair)
    assert mapped["c"].left == [("c/left/0", 2)]


def sizes():
    return jax.tree.map(lambda x: x.size, TREE)


def test_the_first_full_match_wins():
    kernel, a, rest = trees.match_patterns(TREE, [".*/kernel", "a", "(a|b)/.*"])
    assert kernel["a"] == {"kernel": True, "bias": False}
    # "a" is only a part of the names under a, and the whole of none.
    assert not any(jax.tree.leaves(a))
    assert rest["a"] == {"kernel": False, "bias": True}
    assert rest["b"] == (True, True)
    assert rest["c"].left == [False]


def test_strict_names_what_no_pattern_matches():
    with pytest.raises(ValueError, match=r"schedule must cover.*leaves out b/0, b/1;"):
        trees.match_patterns(TREE, ["[ac].*"], strict=True, what="schedule")
    assert len(trees.match_patterns(TREE, ["[ac].*"])) == 1
    many = {f"x{i}": 0 for i in range(8)}
    with pytest.raises(ValueError, match="x0, x1, x2, x3, x4 and 3 more"):
        trees.match_patterns(many, ["y"], strict=True)


@pytest.mark.parametrize("wrong", ["(", "a{99999999999999999999}", "(" * 5000])
def test_a_broken_pattern_is_named(wrong):
    with pytest.raises(ValueError, match=r"wd_mults: .* is not a regular expression"):
        trees.match_patterns(TREE, [".*", wrong], what="wd_mults")


def test_count_takes_arrays_and_shapes():
    assert trees.count(TREE) == 2 + 12 + 5 + 1 + 1
    shapes = jax.eval_shape(lambda: {"a": jnp.zeros((7, 3)), "b": jnp.zeros(())})
    assert trees.count(shapes) == 22
