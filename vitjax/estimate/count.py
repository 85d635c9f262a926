"""Count the bytes, operations and collectives of a compiled program.

A kernel is an instruction that runs on its own: a fusion, a library call, a copy. It
reads its operands from the chip's memory and writes its results to it, once each; what
a fusion only slices counts as the slice. A loop's body counts as often as it runs, and
every branch of a condition counts.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

import numpy as np

from vitjax.estimate import hlo
from vitjax.estimate.hlo import Instruction, Module, Shape

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
    "partition-id", "replica-id", "add-dependency", "opt-barrier", "domain",
    "copy-done", "async-done", "async-update", "all-reduce-done", "all-gather-done",
    "collective-permute-done", "slice-done", "iota-done", "send-done", "recv-done",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather"}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices."""

    kind: str  # one of COLLECTIVES
    bytes: float  # of the operands, those that each device gives
    group: int  # devices that exchange; 0: all
    name: str  # a TPU hides one behind several kernels: pieces of one name


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel and how often it runs in a step."""

    name: str
    op_name: str
    kind: str  # "fusion", "copy", "cublas", "attention", "all-reduce", ...
    bytes: float  # of one run, to and from the chip's memory
    products: tuple[tuple[float, str, str], ...]  # (FLOPs, dtype, precision)
    times: int = 1
    collectives: tuple[Collective, ...] = ()  # those that start in this kernel

    @property
    def flops(self) -> float:
        """Operations of the products of one run; a multiply-add counts 2."""
        return sum(flops for flops, _, _ in self.products)


def kernels(module: Module) -> list[Kernel]:
    """Return every kernel of a program, in order."""
    found, seen = [], set()
    for kernel in _kernels(module, module.entry, 1):
        new = tuple(c for c in kernel.collectives if c.name not in seen)
        seen.update(c.name for c in new)
        found.append(dataclasses.replace(kernel, collectives=new))
    return found


def _kernels(module: Module, computation: str, times: int) -> Iterator[Kernel]:
    body = module.computations[computation]
    for one in body.values():
        if one.opcode in _FREE:
            continue
        if one.opcode == "while":
            inner = one.attribute("body")
            assert inner is not None
            yield from _kernels(module, inner, times * _trips(module, one))
        elif one.opcode in ("call", "async-start") and one.attribute("to_apply"):
            yield from _kernels(module, one.attribute("to_apply") or "", times)
        elif one.opcode == "async-start" and one.attribute("calls"):
            yield from _kernels(module, one.attribute("calls") or "", times)
        elif one.opcode == "conditional":
            for branch in re.findall(r"%([\w.\-]+)", _branches(one)):
                yield from _kernels(module, branch, times)
        else:
            yield _kernel(module, body, one, times)


def _branches(one: Instruction) -> str:
    found = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
    if found:
        return found[1]
    names = (one.attribute("true_computation"), one.attribute("false_computation"))
    return ", ".join(f"%{name}" for name in names)


def _trips(module: Module, loop: Instruction) -> int:
    """Return how often a loop's body runs; 1 if XLA does not know."""
    found = re.search(r'known_trip_count"?\s*:\s*\{"?n"?:"?(\d+)', loop.attributes)
    if found:
        return int(found[1])
    # XLA for TPUs compares the counter with a constant and notes nothing.
    condition = module.computations.get(loop.attribute("condition") or "", {})
    bounds = [
        int(one.literal)
        for one in condition.values()
        if one.opcode == "constant" and one.literal.strip().isdecimal()
    ]
    return max(bounds, default=1)


def _kernel(
    module: Module, body: dict[str, Instruction], one: Instruction, times: int
) -> Kernel:
    base = one.opcode.removesuffix("-start")
    operands = [body[name].shapes for name in one.operands if name in body]
    products = tuple(_products(module, body, one))
    exchanges = tuple(_collectives(module, body, one))
    if one.opcode.endswith("-start") and exchanges:  # its result repeats the operands
        moved = 2 * exchanges[0].bytes
    elif one.opcode.endswith("-start"):
        moved = _started(one, operands)
    else:
        moved = _operand_bytes(module, one, operands)
        moved += _result_bytes(module, body, one)
    return Kernel(
        one.name, one.op_name, _kind(one, base), moved, products, times, exchanges
    )


def _collectives(
    module: Module, body: dict[str, Instruction], one: Instruction
) -> Iterator[Collective]:
    if one.opcode == "fusion":
        inner = module.computations[one.attribute("calls") or ""]
        for part in inner.values():
            yield from _collectives(module, inner, part)
    kind = one.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return
    shapes = [s for name in one.operands if name in body for s in body[name].shapes]
    chain = re.search(r'chain_id="(\d+)"', one.attributes)
    name = f"chain {chain[1]}" if chain else one.name
    # Without a TPU's padding, so that chips can be compared.
    size = sum(s.size * hlo.SIZES.get(s.dtype, 0) for s in shapes)
    yield Collective(kind, size, _group(one.attributes), name)


def _group(attributes: str) -> int:
    """Return the number of devices that exchange with one another; 0 if all."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if counted:
        return int(counted[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return 0


def _started(one: Instruction, operands: list[tuple[Shape, ...]]) -> float:
    """Return the bytes of a copy or slice that runs beside other kernels.

    The result of copy-start begins with the new array, that of slice-start with the
    operands.
    """
    source = operands[0][0]
    made = one.shapes[0 if one.opcode == "copy-start" else len(one.operands)]
    return _main(made) + (0.0 if source.on_chip else made.bytes)


def _kind(one: Instruction, base: str) -> str:
    if one.opcode != "custom-call":
        return base
    for part, kind in (
        ("cublas", "cublas"),
        ("fmha", "attention"),
        ("conv", "convolution"),
        ("triton", "pallas"),
    ):
        if part in one.target:
            return kind
    return one.target.strip("_$") or base


def _main(shape: Shape) -> float:
    """Return the bytes of a shape in the chip's main memory."""
    return 0.0 if shape.on_chip else shape.bytes


def _operand_bytes(
    module: Module, one: Instruction, operands: list[tuple[Shape, ...]]
) -> float:
    inner = module.computations.get(one.attribute("calls") or "", {})
    if one.opcode in _SLICES:
        return sum(_main(shape) for shape in one.shapes)
    if one.opcode == "dynamic-update-slice":
        return sum(_main(shape) for shape in operands[1])
    if one.opcode != "fusion" or not inner:
        return sum(_main(shape) for shapes in operands for shape in shapes)
    parameters = {int(i.literal): i for i in inner.values() if i.opcode == "parameter"}
    total = 0.0
    for position, shapes in enumerate(operands):
        full = sum(_main(shape) for shape in shapes)
        read = _read(inner, parameters[position]) if position in parameters else full
        total += min(full, read)
    return total


def _read(inner: dict[str, Instruction], parameter: Instruction) -> float:
    """Return the bytes of a fusion's parameter that the fusion reads."""
    names, total = {parameter.name}, 0.0
    for one in inner.values():
        used = names.intersection(one.operands)
        if not used:
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode == "tuple":
            pass  # handed on, not read
        elif one.opcode in _SLICES and one.operands[0] in used:
            total += sum(shape.bytes for shape in one.shapes)
        elif one.opcode == "dynamic-update-slice" and one.operands[0] in used:
            pass  # updated in place
        else:
            return math.inf
    return total


def _result_bytes(
    module: Module, body: dict[str, Instruction], one: Instruction
) -> float:
    if one.opcode == "dynamic-update-slice":
        return sum(_main(shape) for shape in body[one.operands[1]].shapes)
    if one.opcode == "custom-call" and len(one.shapes) > 1:
        # A library's scratch space is its last result, in bytes.
        *results, last = one.shapes
        scratch = last.dtype in ("s8", "u8") and len(last.dims) == 1
        return sum(map(_main, results if scratch else one.shapes))
    inner = module.computations.get(one.attribute("calls") or "", {})
    roots = [i for i in inner.values() if i.root]
    if one.opcode != "fusion" or not roots:
        return sum(map(_main, one.shapes))
    tuples = roots[0].opcode == "tuple"
    if not tuples and len(one.shapes) > 1:  # one operation of several results
        return sum(map(_main, one.shapes))
    written = roots[0].operands if tuples else (roots[0].name,)
    total = 0.0
    for name, shape in zip(written, one.shapes, strict=True):
        made = inner[name]
        while made.opcode in ("bitcast", "convert") and made.operands:
            made = inner[made.operands[0]]
        part = 0.0 if inner[name].opcode == "parameter" else _main(shape)
        if made.opcode == "dynamic-update-slice":  # in place
            part = min(part, sum(s.bytes for s in inner[made.operands[1]].shapes))
        total += part
    return total


def _products(
    module: Module, body: dict[str, Instruction], one: Instruction
) -> Iterator[tuple[float, str, str]]:
    """Yield (FLOPs, dtype, precision) of every product in a kernel."""
    if one.opcode == "fusion":
        inner = module.computations[one.attribute("calls") or ""]
        for part in inner.values():
            yield from _products(module, inner, part)
        return
    operands = [body[name].shapes[0] for name in one.operands if name in body]
    flops = 0.0
    if one.opcode == "dot":
        flops = _dot(
            one.shapes[0],
            operands[0],
            one.attributes,
            r"lhs_contracting_dims=\{([\d,]*)\}",
        )
    elif one.opcode == "convolution" or (
        one.opcode == "custom-call" and "conv" in one.target
    ):
        flops = _convolution(one, operands[0], operands[1])
    elif "cublas" in one.target:
        pattern = r'lhs_contracting_dimensions":\[([\d",]*)\]'
        flops = _dot(one.shapes[0], operands[0], one.attributes, pattern)
    elif "fmha" in one.target:
        flops = _attention(one)
    elif "triton" in one.target:  # vitjax.models.gelu_product, the only Pallas kernel
        flops = 2.0 * one.shapes[0].size * operands[0].dims[-1]
    if flops:
        yield flops, _narrow(operands), _precision(one.attributes)


def _narrow(operands: list[Shape]) -> str:
    names = {"bf16": "bfloat16", "f16": "float16"}
    dtype = operands[0].dtype
    return names.get(dtype, "float32")


def _precision(attributes: str) -> str:
    found = re.search(r"operand_precision\"?[=:][\[{]\"?(\w+)", attributes)
    return found[1].lower() if found else "default"


def _dot(result: Shape, lhs: Shape, attributes: str, pattern: str) -> float:
    found = re.search(pattern, attributes)
    dims = [int(d) for d in re.findall(r"\d+", found[1])] if found else []
    return 2.0 * result.size * math.prod(lhs.dims[d] for d in dims)


def _attention(one: Instruction) -> float:
    """Return the FLOPs of cuDNN's attention: 2 products forward, 5 backward."""
    config = json.loads(one.attributes[one.attributes.index("backend_config=") + 15 :])
    shape = config["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]
    scores = math.prod(int(d) for d in shape["dimensions"])
    depth = one.shapes[0].dims[-1]
    return 2.0 * scores * depth * (5 if "Backward" in one.target else 2)


def _convolution(one: Instruction, lhs: Shape, rhs: Shape) -> float:
    """Return the FLOPs of a convolution, without the products with padding."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels is not None
    result = one.shapes[0]
    spatial = [c for c in labels[3] if c.isdigit()]
    size = lambda labels, shape, c: shape.dims[labels.index(c)]
    flops = 2.0 * size(labels[3], result, "b") * size(labels[3], result, "f")
    flops *= size(labels[2], rhs, "i")
    window = _Window(one.attributes)
    for i, c in enumerate(spatial):
        flops *= window.positions(
            i,
            size(labels[1], lhs, c),
            size(labels[3], result, c),
            size(labels[2], rhs, c),
        )
    groups = re.search(r"batch_group_count=(\d+)", one.attributes)
    return flops / int(groups[1]) if groups else flops


class _Window:
    """The window of a convolution: strides, padding and dilations by dimension."""

    def __init__(self, attributes: str) -> None:
        found = re.search(r"window=\{([^}]*)\}", attributes)
        pairs = re.findall(r"(\w+)=([\w\-]+)", found[1] if found else "")
        self._texts = {name: text.split("x") for name, text in pairs}

    def _nth(self, name: str, i: int) -> int:
        return int(self._texts[name][i]) if name in self._texts else 1

    def positions(self, i: int, lhs: int, out: int, kernel: int) -> int:
        """Return the pairs (output, kernel position) of dimension i in the input."""
        low = int(self._texts["pad"][i].split("_")[0]) if "pad" in self._texts else 0
        steps = np.arange(out)[:, None] * self._nth("stride", i)
        at = steps + np.arange(kernel)[None] * self._nth("rhs_dilate", i) - low
        every = self._nth("lhs_dilate", i)
        inside = (at >= 0) & (at <= (lhs - 1) * every) & (at % every == 0)
        return int(inside.sum())
