"""The placement of arrays on devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vitjax.devices.sharding import infer_sharding, is_replicated, make_mesh

BIG = jax.ShapeDtypeStruct((512, 4096), jnp.float32)  # 8 MiB
SMALL = jax.ShapeDtypeStruct((512, 8), jnp.float32)


def test_minus_one_is_the_rest_of_the_devices():
    mesh = make_mesh([("replica", 2), ("data", -1)])
    assert dict(mesh.shape) == {"replica": 2, "data": 4}


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}"])
def test_a_broken_pattern_is_named(mesh, pattern):
    with pytest.raises(ValueError, match=r"sharding_strategy: .* not a regular expr"):
        infer_sharding({"a": BIG}, mesh, [(pattern, "replicate")])


def test_an_axis_named_twice():
    with pytest.raises(ValueError, match="names an axis twice"):
        make_mesh([("data", 4), ("data", 2)])


@pytest.mark.parametrize(
    "axes",
    [[("data", 3)], [("a", 3), ("b", -1)], [("a", 16)], [("a", 0), ("b", -1)]],
)
def test_a_mesh_that_does_not_fit_names_the_devices(axes):
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(axes)


def test_fsdp_splits_the_largest_dimension_and_leaves_small_arrays_whole(mesh):
    tree = {"big": BIG, "small": SMALL, "odd": jax.ShapeDtypeStruct((7, 999999), "f4")}
    specs = infer_sharding(tree, mesh, [(".*", "fsdp('data')")])
    assert specs["big"].shard_shape(BIG.shape) == (512, 512)
    assert specs["small"].is_fully_replicated
    assert specs["odd"].is_fully_replicated
    assert not is_replicated(specs)
    small = infer_sharding(
        tree, mesh, [(".*", "fsdp(axis='data', min_size_to_shard_mb=0)")]
    )
    assert small["small"].shard_shape(SMALL.shape) == (64, 8)


def test_the_first_matching_rule_decides(mesh):
    tree = {"params": {"a": BIG, "b": BIG}}
    rules = [("params/a", "replicate"), (".*", "fsdp('data')")]
    specs = infer_sharding(tree, mesh, rules)
    assert specs["params"]["a"].spec == P()
    assert not specs["params"]["b"].is_fully_replicated


@pytest.mark.parametrize(
    "text",
    [
        "fdsp('data')",
        "fsdp('model')",
        "fsdp(data)",
        "fsdp('data', 4, 5)",
        "fsdp('data'",
        "__import__('os').getcwd()",
        "",
        "[]",
        "fsdp([[]])",
        "fsdp(axis=3)",
        "fsdp({[]: 1})",
        "fsdp(min_size_to_shard_mb='x')",
        "(" * 50_000,
    ],
)
def test_a_wrong_strategy_is_one_sentence(mesh, text):
    with pytest.raises(ValueError, match="sharding_strategy"):
        infer_sharding({"a": BIG}, mesh, [(".*", text)])
