"""Convert parameters to another library's state dict and back by a format's table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax.models import vit
from vitjax.trees import flatten_with_names
from vitjax.weights.describe import (
    Description,
    Shapes,
    check_names,
    check_shape,
    describe,
)
from vitjax.weights.posemb import Grid, is_sincos2d, of_tokens, sincos2d, square_grid
from vitjax.weights.table import Entry, Format, Parts, our_parts


def write(
    params: Mapping[str, Any],
    fmt: Format,
    *,
    posemb: str | None = None,
    grid: Grid | None = None,
) -> dict[str, np.ndarray]:
    """Convert a model's parameters to a state dict; see `to_state_dict`."""
    leaves = loop_leaves(params)
    constant = "pos_embedding" not in leaves
    parts = our_parts(leaves)
    # The constants of sincos2d may still be added as positions.
    may_have = parts.pos_embedding or "pos_embedding" in fmt.parts
    fmt.check_expresses(dataclasses.replace(parts, pos_embedding=may_have))
    table = _checked(fmt, fmt.with_tokens(parts))
    ours = [name for entry in table for name in entry.ours]
    check_names("vitjax's parameters", leaves, ours)
    leaves = _with_constant_posemb(leaves, fmt, posemb, grid)
    parts = fmt.with_tokens(our_parts(leaves))
    fmt.check_expresses(parts)
    if fmt.positions == "all" or (
        fmt.positions == "either" and (parts.distilled or not parts.registers)
    ):
        tokens = _num_tokens(lambda name: leaves[name].shape, parts)
        parts = dataclasses.replace(parts, extra_positions=tokens)
    described = describe(lambda name: leaves[name].shape, parts)
    if parts.distilled and described.arguments["registers"] != 1:
        raise ValueError(
            f"{fmt.title} cannot express {described.arguments['registers']} registers of "
            "a model with distilled, only one"
        )
    for name, shape in described.shapes().items():
        check_shape(name, shape, leaves[name].shape)
    _check_square(fmt, described)
    state = join(leaves, _checked(fmt, parts))
    if constant and parts.pos_embedding and not fmt.sincos_batch:
        key = fmt.parts["pos_embedding"]
        state[key] = state[key][0]
    return state


def join(leaves: Mapping[str, np.ndarray], table: list[Entry]) -> dict[str, np.ndarray]:
    """Join leaves into the state dict of the table."""
    state = {}
    for entry in table:
        joined = entry.join([leaves[name] for name in entry.ours])
        for key, tensor in zip(entry.theirs, joined, strict=True):
            state[key] = np.ascontiguousarray(tensor)
    return state


def read(
    state: Mapping[str, np.ndarray],
    fmt: Format,
    *,
    num_heads: int | None = None,
    posemb: str | None = None,
    grid: Grid | None = None,
    pool_type: str | None = None,
    model_grid: Grid | None = None,
) -> dict[str, Any]:
    """Convert a state dict to a model's parameters; see `from_state_dict`."""
    state = {k: np.asarray(v) for k, v in fmt.rename(state).items()}
    fmt.refuse_others(state)
    parts = fmt.theirs(state)
    for part in fmt.always:
        if part not in parts.has():
            raise ValueError(
                f"the state dict of {fmt.title} lacks {fmt.parts[part]!r}; it has keys "
                f"like {', '.join(sorted(state)[:3])}"
            )
    _check_tokens(state, fmt, parts)
    parts = _with_tokens(state, fmt, parts, pool_type)
    if parts.pos_embedding:
        extra = _extra_positions(state, fmt, parts, grid, model_grid)
        parts = dataclasses.replace(parts, extra_positions=extra)
    table = _checked(fmt, parts)
    check_names("the state dict", state, [key for e in table for key in e.theirs])
    described = describe(_shape_reader(state, table), parts, num_heads)
    leaves = split(state, table, described.shapes())
    _check_posemb(leaves, posemb, grid, fmt)
    return unflatten_dict(leaves, sep="/")


def split(
    state: Mapping[str, np.ndarray], table: list[Entry], wanted: Shapes
) -> dict[str, np.ndarray]:
    """Split a state dict into leaves; ValueError if a shape is not the wanted one."""
    names = [name for entry in table for name in entry.ours]
    check_names("vitjax's parameters", wanted, names)
    leaves = {}
    for entry in table:
        blanks = [np.broadcast_to(np.int8(0), wanted[name]) for name in entry.ours]
        for key, blank in zip(entry.theirs, entry.join(blanks), strict=True):
            check_shape(key, blank.shape, state[key].shape)
        tensors = entry.split([state[key] for key in entry.theirs])
        for name, tensor in zip(entry.ours, tensors, strict=True):
            leaves[name] = np.ascontiguousarray(tensor.reshape(wanted[name]))
    return leaves


def loop_leaves(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the leaves by name as numpy arrays, with a scan's blocks unstacked."""
    leaves = dict(params)
    if "encoderblock" in params.get("Transformer", {}):
        leaves = vit.scan_to_loop(params)
    return {name: np.asarray(leaf) for name, leaf in flatten_with_names(leaves)}


def _checked(fmt: Format, parts: Parts) -> list[Entry]:
    """Return the table, after asserting that no name of either side is in it twice."""
    table = list(fmt.table(parts))
    for names in (
        [n for e in table for n in e.ours],
        [k for e in table for k in e.theirs],
    ):
        assert len(names) == len(set(names))
    return table


def _num_tokens(shape_of: Any, parts: Parts) -> int:
    """Return the number of tokens that are not patches."""
    return parts.cls + (shape_of("registers")[1] if parts.registers else 0)


def _shape_reader(state: Mapping[str, np.ndarray], table: list[Entry]) -> Any:
    """Return a function from our name to its leaf's shape before the reshape."""
    by_name = {name: entry for entry in table for name in entry.ours}

    def shape_of(name: str) -> tuple[int, ...]:
        entry = by_name[name]
        tensors = [state[key] for key in entry.theirs]
        try:
            leaf = entry.split(tensors)[entry.ours.index(name)]
        except ValueError as error:
            shapes = ", ".join(f"{k} {state[k].shape}" for k in entry.theirs)
            raise ValueError(f"{shapes} cannot be {name}: {error}") from None
        ndims = {"embedding/kernel": (4,), "pos_embedding": (3,), "registers": (3,)}
        if leaf.ndim not in ndims.get(name, (2, 3)):
            raise ValueError(
                f"{entry.theirs[-1]} has an unexpected shape, {tensors[-1].shape}"
            )
        return leaf.shape

    return shape_of


def _with_constant_posemb(
    leaves: dict[str, np.ndarray], fmt: Format, posemb: str | None, grid: Grid | None
) -> dict[str, np.ndarray]:
    """Add the sincos2d table to leaves without positions, if it is to be stored."""
    if posemb not in (None, *vit.POSEMBS):
        raise ValueError(f"posemb must be one of {vit.POSEMBS}, got {posemb!r}")
    if "pos_embedding" in leaves:
        if posemb not in (None, "learn"):
            raise ValueError(
                f"posemb is {posemb!r}, but the parameters have a pos_embedding"
            )
        return leaves
    if posemb == "learn":
        raise ValueError("posemb is 'learn', but the parameters have no pos_embedding")
    if posemb == "none" or (posemb is None and not fmt.stores_sincos):
        return leaves
    if posemb is None or (grid is None and fmt.stores_sincos):
        raise ValueError(
            f"{fmt.title} stores position embeddings, these parameters do not: give "
            "posemb='sincos2d' and the grid (rows, columns) of the patches, or "
            "posemb='none'"
        )
    if grid is None:
        return leaves
    kernel = leaves["embedding/kernel"]
    table = sincos2d(grid, kernel.shape[-1], kernel.dtype)
    return {**leaves, "pos_embedding": table}


def _check_tokens(state: dict[str, np.ndarray], fmt: Format, parts: Parts) -> None:
    """Add a batch dim to a table (n, d); ValueError if a tensor is not (1, n, d)."""
    position = fmt.parts.get("pos_embedding")
    for key in state.keys() & {*fmt.tokens, position}:
        if key == position and state[key].ndim == 2:
            state[key] = state[key][None]
        if state[key].ndim != 3 or len(state[key]) != 1:
            raise ValueError(
                f"{key} must have a shape (1, n, d), got {state[key].shape}"
            )


def _with_tokens(
    state: Mapping[str, np.ndarray], fmt: Format, parts: Parts, pool_type: str | None
) -> Parts:
    """Add our parts for their tokens; the first is cls if the model pools by it."""
    keys = tuple(key for key in fmt.tokens if key in state)
    if not keys:
        return parts
    count = sum(state[key].shape[1] for key in keys)
    if pool_type is None:
        if fmt.parts["cls"] == fmt.parts.get("registers"):
            raise ValueError(
                f"{keys[0]} of {fmt.title} holds {count} tokens, and the first may be the "
                "class token: give pool_type='tok' (--pool_type of convert) if it is, "
                "else 'gap'"
            )
        # A LayerNorm after the pooling means average pooling.
        pool_type = "gap" if parts.pool_norm else "tok"
    cls = keys[0] == fmt.parts["cls"] and pool_type == "tok"
    return dataclasses.replace(parts, cls=cls, registers=count > int(cls), tokens=keys)


def _extra_positions(
    state: Mapping[str, np.ndarray],
    fmt: Format,
    parts: Parts,
    grid: Grid | None,
    model_grid: Grid | None,
) -> int:
    """Return how many of their positions belong to class token and registers."""
    tokens = sum(state[key].shape[1] for key in parts.tokens)
    if fmt.positions != "either" or not tokens:
        return tokens if fmt.positions == "all" else 0
    key = fmt.parts["pos_embedding"]
    stored = state[key].shape[1]
    squares = [n for n in (0, tokens) if square_grid(stored - n)]
    # Tokens lack positions only with registers, and in a few models (DeiT-III).
    usual = fmt.parts["registers"] in state or squares == [tokens]
    return of_tokens(
        key,
        stored,
        tokens,
        squares[0] if len(squares) == 1 and usual else None,
        grid=grid,
        model_grid=model_grid,
    )


def _check_posemb(
    leaves: dict[str, np.ndarray], posemb: str | None, grid: Grid | None, fmt: Format
) -> None:
    """Drop a constant table from the leaves; ValueError if `posemb` is wrong."""
    if posemb not in (None, *vit.POSEMBS):
        raise ValueError(f"posemb must be one of {vit.POSEMBS}, got {posemb!r}")
    table = leaves.get("pos_embedding")
    if table is None:
        if posemb == "sincos2d" and fmt.stores_sincos:
            raise ValueError(
                "posemb is 'sincos2d', but the state dict has no position embeddings"
            )
        return
    if posemb == "none":
        raise ValueError("posemb is 'none', but the state dict has position embeddings")
    if posemb == "learn":
        return
    if is_sincos2d(table, grid) is not None:
        del leaves["pos_embedding"]
    elif posemb == "sincos2d":
        raise ValueError(
            "posemb is 'sincos2d', but the position embeddings of the state dict are "
            "not those constants; posemb='learn' keeps them"
        )


def _check_square(fmt: Format, described: Description) -> None:
    rows, columns = described.arguments["patch_size"]
    if fmt.square and rows != columns:
        raise ValueError(
            f"{fmt.title} cannot express patches of {rows}x{columns} pixels, only "
            "squares"
        )
    positions = described.positions
    if fmt.square and positions and square_grid(positions) is None:
        raise ValueError(
            f"{fmt.title} cannot express a grid of {positions} patches, only squares"
        )
