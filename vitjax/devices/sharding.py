"""Meshes and shardings: `mesh` and `sharding_strategy` of a config."""

import ast
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.config import arguments
from vitjax.trees import flatten_with_names, regex


def make_mesh(
    axes: Sequence[tuple[str, int]] = (("data", -1),),
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Make a mesh of all devices with `axes`, pairs of name and size.

    One size may be -1 for the remaining devices. `devices` may be absent ones, as those
    of `vitjax.devices.chips` are. Raises ValueError if the product of the sizes is not
    the number of devices.
    """
    names = tuple(name for name, _ in axes)
    sizes = [size for _, size in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"mesh {list(axes)} names an axis twice")
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if -1 in sizes or math.prod(sizes) != count:
        raise ValueError(
            f"mesh {list(axes)} does not fit {count} devices: "
            "expected sizes whose product is that, at most one of them -1"
        )
    types = (AxisType.Auto,) * len(names)
    return jax.make_mesh(tuple(sizes), names, axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with which every device holds the whole array."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the leading dimension over all mesh axes."""
    return NamedSharding(mesh, P(mesh.axis_names))


def replicate(mesh: Mesh) -> Callable[[Any], P]:
    """Return the strategy "replicate": every array is whole on every device."""
    del mesh
    return lambda leaf: P()


def fsdp(
    mesh: Mesh,
    axis: str | Sequence[str] = "data",
    min_size_to_shard_mb: int | float = 4,
) -> Callable[[Any], P]:
    """Return the strategy "fsdp(axis='data')".

    It splits the largest dimension of an array that is divisible by the size of `axis`.
    Arrays under `min_size_to_shard_mb` MiB stay whole (big_vision sharding.py).
    """
    axes = (axis,) if isinstance(axis, str) else tuple(axis)
    for name in axes:
        if name not in mesh.axis_names:
            raise ValueError(
                f"sharding_strategy: fsdp over axis {name!r}, but the mesh has "
                f"{mesh.axis_names}"
            )
    parts = math.prod(mesh.shape[name] for name in axes)

    def spec(leaf: Any) -> P:
        size_mb = math.prod(leaf.shape) * leaf.dtype.itemsize / 2**20
        if size_mb < min_size_to_shard_mb:
            return P()
        for dim in sorted(range(len(leaf.shape)), key=lambda d: -leaf.shape[d]):
            if leaf.shape[dim] % parts == 0:
                return P(*[None] * dim, axes)
        return P()

    return spec


STRATEGIES = {"replicate": replicate, "fsdp": fsdp}


def _strategy(text: str, mesh: Mesh) -> Callable[[Any], P]:
    """Parse "replicate" or "fsdp(axis='data')", with literals as arguments."""
    wrong = f"sharding_strategy {text!r}: expected e.g. 'replicate' or 'fsdp(\"data\")'"
    try:
        node = ast.parse(text, mode="eval").body
        args, kwargs = [], {}
        if isinstance(node, ast.Call):
            args = [ast.literal_eval(arg) for arg in node.args]
            kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
            node = node.func
        if not isinstance(node, ast.Name):
            raise ValueError(wrong)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError(wrong) from None
    function = arguments.lookup(STRATEGIES, node.id, "sharding_strategy")
    try:
        bound = inspect.signature(function).bind(mesh, *args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{wrong} ({error})") from error
    hints = arguments.annotations(function)
    arguments.check_types("sharding_strategy", hints, bound.arguments)
    return function(*bound.args, **bound.kwargs)


def infer_sharding(
    tree: Any, mesh: Mesh, strategy: Sequence[tuple[str, str]] = ((".*", "replicate"),)
) -> Any:
    """Return the NamedShardings of a tree of arrays or shapes.

    `strategy` holds pairs (regex over leaf names, strategy), as big_vision's
    `sharding_strategy` does. The first full match decides; without a match the leaf is
    replicated.
    """
    rules = [
        (regex(pattern, "sharding_strategy"), _strategy(text, mesh))
        for pattern, text in strategy
    ]
    leaves = []
    for name, leaf in flatten_with_names(tree):
        specs = (spec(leaf) for one, spec in rules if one.fullmatch(name))
        leaves.append(NamedSharding(mesh, next(specs, P())))
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def is_replicated(shardings: Any) -> bool:
    """Return whether every NamedSharding of the tree keeps its array whole."""
    return all(s.is_fully_replicated for s in jax.tree.leaves(shardings))
