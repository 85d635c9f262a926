"""vitjax's parameters as the reference's state dict, and back (gradients too).

One list of entries says what becomes what. Every name of both sides is used exactly
once, and every shape is checked, or the conversion fails and names the rest.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax.trees import flatten_with_names

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the reference and the vitjax leaves that it is made of.

    `join` makes the tensor of the leaves; `split` makes leaves from the tensor, which
    are then given their shapes.
    """

    torch_name: str
    names: tuple[str, ...]
    join: Callable[[Arrays], np.ndarray]
    split: Callable[[np.ndarray], Arrays]


def _same(torch_name: str, name: str) -> Entry:
    return Entry(torch_name, (name,), lambda leaves: leaves[0], lambda x: [x])


def _matrix(torch_name: str, name: str, num_in: int = 1) -> Entry:
    """A kernel (in..., out...), of `num_in` input dims, as torch's (out, in)."""

    def join(leaves: Arrays) -> np.ndarray:
        fan_in = int(np.prod(leaves[0].shape[:num_in]))
        return leaves[0].reshape(fan_in, -1).T

    return Entry(torch_name, (name,), join, lambda x: [x.T])


def _fused(torch_name: str, names: tuple[str, ...], join_one: Callable) -> Entry:
    """Query, key and value one below the other."""

    def join(leaves: Arrays) -> np.ndarray:
        return np.concatenate([join_one(leaf) for leaf in leaves])

    return Entry(torch_name, names, join, lambda x: [y.T for y in np.split(x, 3)])


def _dense(torch_name: str, name: str) -> Iterator[Entry]:
    yield _matrix(f"{torch_name}.weight", f"{name}/kernel")
    yield _same(f"{torch_name}.bias", f"{name}/bias")


def _norm(torch_name: str, name: str) -> Iterator[Entry]:
    yield _same(f"{torch_name}.weight", f"{name}/scale")
    yield _same(f"{torch_name}.bias", f"{name}/bias")


def _attention(torch_name: str, name: str) -> Iterator[Entry]:
    def parts(leaf: str) -> tuple[str, ...]:
        return tuple(f"{name}/{part}/{leaf}" for part in ("query", "key", "value"))

    yield _fused(
        f"{torch_name}.in_proj_weight",
        parts("kernel"),
        lambda kernel: kernel.reshape(kernel.shape[0], -1).T,
    )
    yield _fused(f"{torch_name}.in_proj_bias", parts("bias"), np.ravel)
    yield _matrix(f"{torch_name}.out_proj.weight", f"{name}/out/kernel", num_in=2)
    yield _same(f"{torch_name}.out_proj.bias", f"{name}/out/bias")


def _mlp(torch_name: str, name: str) -> Iterator[Entry]:
    yield from _dense(f"{torch_name}.fc1", f"{name}/Dense_0")
    yield from _dense(f"{torch_name}.fc2", f"{name}/Dense_1")


def _block(torch_name: str, name: str) -> Iterator[Entry]:
    yield from _norm(f"{torch_name}.norm1", f"{name}/LayerNorm_0")
    attention = f"{name}/MultiHeadDotProductAttention_0"
    yield from _attention(f"{torch_name}.attention", attention)
    yield from _norm(f"{torch_name}.norm2", f"{name}/LayerNorm_1")
    yield from _mlp(f"{torch_name}.mlp", f"{name}/MlpBlock_0")


def _map_head() -> Iterator[Entry]:
    yield _same("map_head.probe", "MAPHead_0/probe")
    attention = "MAPHead_0/MultiHeadDotProductAttention_0"
    yield from _attention("map_head.attention", attention)
    yield from _norm("map_head.norm", "MAPHead_0/LayerNorm_0")
    yield from _mlp("map_head.mlp", "MAPHead_0/MlpBlock_0")


def entries(names: Iterable[str]) -> list[Entry]:
    """The entries of a model with these parameters ("Transformer/encoder_norm/bias").

    ValueError if some name has no entry.
    """
    names = set(names)
    blocks = {n.split("/")[1] for n in names if "/encoderblock_" in n}
    found = [
        Entry(
            "embedding.weight",
            ("embedding/kernel",),
            lambda leaves: leaves[0].transpose(3, 2, 0, 1),  # from (h, w, in, out)
            lambda x: [x.transpose(2, 3, 1, 0)],
        ),
        _same("embedding.bias", "embedding/bias"),
        *_norm("norm", "Transformer/encoder_norm"),
        *_dense("head", "head"),
    ]
    for i in range(len(blocks)):
        found += _block(f"blocks.{i}", f"Transformer/encoderblock_{i}")
    if "MAPHead_0/probe" in names:
        found += _map_head()
    if "pre_logits/kernel" in names:
        found += _dense("pre_logits", "pre_logits")
    found += [_same(n, n) for n in ("pos_embedding", "cls", "registers") if n in names]
    used = [name for entry in found for name in entry.names]
    assert len(used) == len(set(used))
    _check_names("vitjax's parameters", names, used)
    return found


def to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The reference's state dict, as numpy arrays, of vitjax's (unscanned) params."""
    leaves = {k: np.asarray(v) for k, v in flatten_with_names(params)}
    return {
        entry.torch_name: np.ascontiguousarray(
            entry.join([leaves[name] for name in entry.names])
        )
        for entry in entries(leaves)
    }


def from_state_dict(state: Mapping[str, np.ndarray], shapes: Any) -> dict[str, Any]:
    """vitjax's parameters (or gradients) of the reference's; `shapes` is their tree."""
    wanted = {k: tuple(v.shape) for k, v in flatten_with_names(shapes)}
    table = entries(wanted)
    _check_names("the state dict", state, [entry.torch_name for entry in table])
    leaves = {}
    for entry in table:
        expected = entry.join([np.broadcast_to(0.0, wanted[n]) for n in entry.names])
        check_shape(entry.torch_name, expected.shape, state[entry.torch_name].shape)
        parts = entry.split(np.asarray(state[entry.torch_name]))
        for name, part in zip(entry.names, parts, strict=True):
            leaves[name] = part.reshape(wanted[name])
    return unflatten_dict(leaves, sep="/")


def load(model: Any, params: Mapping[str, Any]) -> None:
    """Give the reference `model` the values of vitjax's params, in the model's dtype."""
    import torch

    state = to_state_dict(params)
    own = model.state_dict()
    _check_names("the reference's state dict", own, state)
    for name, value in state.items():
        check_shape(name, tuple(own[name].shape), value.shape)
    model.load_state_dict({k: torch.tensor(v) for k, v in state.items()})


def check_shape(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    """ValueError if the shapes differ."""
    if tuple(expected) != tuple(got):
        raise ValueError(f"{name} must have the shape {expected}, got {got}")


def _check_names(what: str, have: Iterable[str], used: Iterable[str]) -> None:
    """ValueError unless both sets of names are equal."""
    have, used = set(have), set(used)
    if have != used:
        raise ValueError(
            f"{what} and the table of parity.weights must have the same names; "
            f"not in the table: {sorted(have - used)}, missing: {sorted(used - have)}"
        )
