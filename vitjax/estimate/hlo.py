"""Read a compiled program from the text that XLA prints of it.

The grammar is that of XLA's `HloModule::ToString`: computations of one instruction a
line, each `name = shape opcode(operands), attributes`.
"""

import dataclasses
import math
import re

# Bytes of an element; types that are not here (token, opaque) take none.
SIZES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4,
    "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1, "f8e4m3b11fnuz": 1, "f8e8m0fnu": 1,
}  # fmt: skip
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array as it lies in memory.

    A TPU pads arrays to whole tiles, so that it may hold more elements than `size`.
    `on_chip` means a small memory beside the chip's units, not its main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    held: int  # elements, padding included
    on_chip: bool = False

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """The bytes that it takes."""
        return self.held * SIZES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation; a result of several arrays has several shapes."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str  # the text between the parentheses
    attributes: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """Return the name of a computation in an attribute, as in calls=%fused."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]

    @property
    def op_name(self) -> str:
        """The path of the JAX operation that this one, or the last of it, comes from."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """The function of a custom call."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: computations by name, each a dict of instructions in order."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def parse(text: str) -> Module:
    """Parse the text of a module. Raises ValueError if it has no entry."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = computations[head[2]] = {}
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            found = _instruction(line)
            if found is not None:
                current[found.name] = found
    if not entry:
        raise ValueError("expected the text of an XLA program, got one without ENTRY")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    match = _LINE.match(line)
    if match is None:
        return None
    root, name, rest = match.groups()
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = tuple(
        _shape(*found) for found in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", rest[:end]))
    )
    rest = rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closing(rest, opened)
    literal = rest[opened + 1 : closed]
    return Instruction(
        name=name,
        opcode=rest[:opened],
        shapes=shapes,
        operands=tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=rest[closed + 1 :],
        root=root is not None,
    )


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    sizes = tuple(int(d.strip("<=")) for d in dims.split(",") if d)
    space = re.search(r"S\((\d+)\)", layout)
    # Space 1 is on the chip; others are the main memory's or the host's.
    on_chip = space is not None and space[1] == "1"
    padded, tile = list(sizes), re.search(r"T\(([\d,]+)\)", layout)
    if tile:  # it covers the dimensions that vary fastest
        order = [int(d) for d in re.findall(r"\d+", layout.partition(":")[0])]
        for dim, part in zip(order, reversed(tile[1].split(",")), strict=False):
            padded[dim] = -(-padded[dim] // int(part)) * int(part)
    return Shape(dtype, sizes, math.prod(padded), on_chip)


def _closing(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[()]', text[start:]):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.start()
    raise ValueError(f"expected balanced parentheses in {text[:80]!r}")
