"""Accelerators: their figures, and how to compile for one that is not there.

Figures are the vendors', for dense operations:
- H100, H200: NVIDIA's data sheets of the SXM forms, and the H100 architecture paper.
- A100: NVIDIA's data sheet and architecture paper, SXM forms.
- L40S, L4, RTX 4090, V100: NVIDIA's data sheets and the Ada and Volta papers.
- TPUs: https://cloud.google.com/tpu/docs, "system architecture" of each version; `memory`
  is what XLA leaves a program of it.
`link` is NVLink's, PCIe 4.0 x16's or, on a TPU, that of all its links together.

A TPU multiplies in bfloat16 only. It takes one pass for float32 at JAX's default
precision, 3 at "high" and 6 at "highest" (docs of `jax.lax.Precision`).
"""

import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from vitjax.config import arguments

GIB = 2**30
USABLE = 0.9
"""Share of a GPU's memory for a program; runtime and fragmentation use the rest."""
TAKEN = 0.75
"""Share of a GPU's memory that JAX takes unless XLA_CLIENT_MEM_FRACTION says more."""


@dataclasses.dataclass(frozen=True)
class Cuda:
    """What XLA asks about an NVIDIA GPU. It need not be there."""

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    shared_kib: int  # shared memory of one core
    l2_mib: int
    clock_ghz: float
    lanes: int = 128  # float32 units of a core
    threads: int = 2048  # resident threads of a core

    def text(self, chip: "Chip") -> str:
        """Return XLA's description of the GPU, a protobuf in text form."""
        major, minor = self.capability
        return (
            "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 "
            "shared_memory_per_block: 49152 "
            f"shared_memory_per_core: {self.shared_kib * 1024} "
            # One KiB of each block is the system's.
            f"shared_memory_per_block_optin: {(self.shared_kib - 1) * 1024} "
            f"threads_per_core_limit: {self.threads} core_count: {self.cores} "
            f"fpus_per_core: {self.lanes} block_dim_limit_x: 2147483647 "
            "block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
            f"memory_bandwidth: {int(chip.bandwidth)} "
            f"l2_cache_size: {self.l2_mib * 2**20} clock_rate_ghz: {self.clock_ghz} "
            f"device_memory_size: {chip.memory} "
            f"cuda_compute_capability {{ major: {major} minor: {minor} }} "
            "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
            'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } '
            # Without a version, XLA's own matrix products find no tile sizes.
            "runtime_version { major: 12 minor: 8 patch: 0 } "
            f'device_description_str: "{chip.kinds[0]}"'
        )


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. FLOP/s are dense peaks, with float32 sums."""

    name: str  # in --chip
    kinds: tuple[str, ...]  # JAX's device_kind; on a TPU one of several
    memory: int  # bytes
    bandwidth: float  # bytes a second
    bfloat16: float  # FLOP/s
    tf32: float
    float32: float
    link: float  # bytes a second to other chips, in one direction
    cuda: Cuda | None = None  # None: a TPU, or a GPU that XLA no longer compiles for
    topology: str = ""  # libtpu's name of a TPU, before ":"

    @property
    def tpu(self) -> bool:
        """Whether this is a TPU."""
        return bool(self.topology)

    @property
    def usable(self) -> float:
        """Bytes of memory that a program may take."""
        return self.memory if self.tpu else USABLE * self.memory

    def peak(self, dtype: str, precision: str = "default") -> float:
        """Return the FLOP/s of products of `dtype` at a precision of JAX."""
        if dtype in ("bfloat16", "float16"):
            return self.bfloat16
        if precision in ("highest", "float32"):
            return self.float32
        return (
            self.tf32 if precision == "default" or not self.tpu else self.bfloat16 / 3
        )


def _tpu(
    name: str,
    kinds: tuple[str, ...],
    memory_gib: float,
    bandwidth: float,
    tera: float,
    link: float,
) -> Chip:
    peak = tera * 1e12
    return Chip(
        name, kinds, int(memory_gib * GIB), bandwidth * 1e9, bfloat16=peak, tf32=peak,
        float32=peak / 6, link=link * 1e9, topology=name,
    )  # fmt: skip


def _gpu(
    name: str,
    kind: str,
    memory: float,
    bandwidth: float,
    teras: tuple[float, float, float],
    link: float,
    cuda: Cuda | None,
) -> Chip:
    bfloat16, tf32, float32 = (t * 1e12 for t in teras)
    return Chip(
        name, (kind,), int(memory), bandwidth * 1e9, bfloat16, tf32, float32,
        link * 1e9, cuda,
    )  # fmt: skip


_HOPPER = Cuda((9, 0), cores=132, shared_kib=228, l2_mib=50, clock_ghz=1.98)
_AMPERE = Cuda(
    (8, 0), cores=108, shared_kib=164, l2_mib=40, clock_ghz=1.41, lanes=64
)  # fmt: skip
_ADA = Cuda((8, 9), cores=142, shared_kib=100, l2_mib=96, clock_ghz=2.52, threads=1536)


def _ada(cores: int, l2_mib: int, clock_ghz: float) -> Cuda:
    return dataclasses.replace(_ADA, cores=cores, l2_mib=l2_mib, clock_ghz=clock_ghz)


# Names are exact, since a card of another form (PCIe, NVL), a notebook's or a part of one
# (MIG) has other figures. TPUs have the names of jax's own table of them.
CHIPS = {
    chip.name: chip
    for chip in (
        _gpu("h200", "NVIDIA H200", 150_754_820_096, 4800, (989.4, 494.7, 66.9), 450, _HOPPER),
        _gpu("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3352, (989.4, 494.7, 66.9), 450, _HOPPER),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", 85_031_714_816, 2039, (312, 156, 19.5), 300, _AMPERE),
        _gpu("a100-40", "NVIDIA A100-SXM4-40GB", 42_297_786_368, 1555, (312, 156, 19.5), 300, _AMPERE),
        _gpu("l40s", "NVIDIA L40S", 47_697_362_944, 864, (362, 183, 91.6), 32, _ADA),
        _gpu("l4", "NVIDIA L4", 23_609_475_072, 300, (121, 60, 30.3), 32, _ada(58, 48, 2.04)),
        _gpu("rtx4090", "NVIDIA GeForce RTX 4090", 25_386_352_640, 1008, (165.2, 82.6, 82.6), 32, _ada(128, 72, 2.52)),
        _gpu("v100", "Tesla V100-SXM2-16GB", 16 * GIB, 900, (125, 15.7, 15.7), 150, None),
        _tpu("v6e", ("TPU v6 lite", "TPU v6e"), 31.25, 1638, 918, 448),
        _tpu("v5e", ("TPU v5 lite", "TPU v5e"), 15.75, 819, 197, 200),
        _tpu("v5p", ("TPU v5", "TPU v5p"), 95.74, 2765, 459, 600),
        _tpu("v4", ("TPU v4",), 30.75, 1228, 275, 300),
    )
}  # fmt: skip
MOST_GPUS = 8
TPU_SIZES = "2x2, 2x4, 4x4, ... (v4 and v5p: 2x2x1, 2x2x2, ...)"


def of_kind(device_kind: str) -> Chip | None:
    """Return the chip that JAX calls `device_kind`, or None if it is in no table."""
    return next((c for c in CHIPS.values() if device_kind in c.kinds), None)


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips to compile for: `count` of one kind, in a topology of libtpu if TPUs."""

    chip: Chip
    count: int
    topology: str = ""

    def __str__(self) -> str:
        if self.topology:
            return self.topology
        return self.chip.name + (f"x{self.count}" if self.count != 1 else "")


def parse(text: str) -> Target:
    """Parse "h100", "h100x8" or "v5e:2x4". ValueError if it is no such name."""
    name, colon, shape = text.strip().lower().partition(":")
    gpu = re.fullmatch(r"(.+?)(?:x([1-9]\d*))?", name)
    known = [*CHIPS]
    if colon:
        chip = arguments.lookup(CHIPS, name, "chip")
        if not chip.tpu or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
            raise ValueError(
                f"--chip {text!r}: expected a TPU and its topology, as in v5e:2x4; TPUs "
                f"are {', '.join(c.name for c in CHIPS.values() if c.tpu)}, topologies "
                f"{TPU_SIZES}"
            )
        return Target(chip, math.prod(map(int, shape.split("x"))), f"{name}:{shape}")
    if name in CHIPS or gpu is None:
        base, count = name, 1
    else:
        base, count = gpu[1], int(gpu[2] or 1)
    if base not in CHIPS:
        raise arguments.unknown(text, known, "chip")
    chip = CHIPS[base]
    if chip.tpu:
        raise ValueError(
            f"--chip {text!r}: a TPU needs its topology, as in {base}:2x2"
            f"{'x1' if base in ('v4', 'v5p') else ''}; topologies are {TPU_SIZES}"
        )
    if chip.cuda is None:
        raise ValueError(f"--chip {text!r}: XLA no longer compiles for this GPU")
    if count > MOST_GPUS:
        raise ValueError(
            f"--chip {text!r}: expected 1 to {MOST_GPUS} GPUs, those of one host, since "
            "the network between hosts is not modelled"
        )
    return Target(chip, count)


def missing(target: Target) -> str | None:
    """Return what to install to compile for a target, or None if it is there."""
    if target.chip.tpu:
        found, extra = importlib.util.find_spec("libtpu"), "aot_tpu"
    else:
        found, extra = _cuda_plugin(), "aot_cuda"
    if found:
        return None
    return (
        f"compiling for {target} needs the extra {extra}: run "
        f'`pip install -e ".[{extra}]"` in the checkout'
    )


def _cuda_plugin() -> bool:
    names = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    return any(importlib.util.find_spec(name) is not None for name in names)


def prepare() -> None:
    """Prepare this process to compile for absent chips: JAX then uses the CPU alone.

    Call it before JAX sees its devices.
    """
    jax.config.update("jax_platforms", "cpu")
    # libtpu asks the metadata server of Google's cloud otherwise.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Nothing is opened, so that several processes may compile at a time.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # libtpu warns without one; the topology that is asked for decides.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")


def devices(target: Target) -> list[Any]:
    """Return the absent devices of a target, for a mesh.

    Raises ValueError if the extra is missing, or libtpu has no such topology.
    """
    lacking = missing(target)
    if lacking is not None:
        raise ValueError(lacking)
    chip = target.chip
    try:
        with _quiet():
            if chip.cuda is None:
                found = topologies.get_topology_desc(
                    platform="tpu", topology_name=target.topology, **_layout(target)
                )
            else:
                found = topologies.get_topology_desc(
                    "",
                    "cuda",
                    target_config=chip.cuda.text(chip),
                    topology=f"1x1x{target.count}",
                )
    except Exception as error:  # libtpu raises what it likes
        first = (
            str(error).strip().splitlines()[0] if str(error).strip() else "no reason"
        )
        raise ValueError(
            f"--chip {target}: there is no such topology ({first}); try {TPU_SIZES}"
            if chip.tpu
            else f"--chip {target}: the CUDA plugin cannot compile for it ({first})"
        ) from error
    return list(found.devices)


def _layout(target: Target) -> dict[str, Any]:
    """Return libtpu's options of a topology."""
    options: dict[str, Any] = {}
    if target.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device
    shape = target.topology.partition(":")[2].split("x")
    if set(shape) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    return options


def check_attention(target: Target, attn_impl: str | None) -> None:
    """Raise ValueError if the chips have no such `attn_impl`."""
    if target.chip.tpu and attn_impl == "cudnn":
        raise ValueError(
            f"attn_impl='cudnn' needs an NVIDIA GPU, got {target}: choose flax or xla"
        )


def compiler_options(target: Target) -> dict[str, Any]:
    """Return the options of `lowered.compile` for a target without its chips."""
    if target.chip.tpu:
        return {}
    return {"xla_gpu_autotune_level": 0}  # there is nothing to measure on


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence JAX's warnings of plugins that find no device."""
    logger = logging.getLogger("jax._src.xla_bridge")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
