"""The jobs of `python -m parity.gpu`, most wanted first."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from parity.gpu.repeat import DETERMINISTIC

RATE = "img/s per device"
# A program for checks of numbers: pytest, without the options of pyproject.toml, whose
# packages may be missing.
PYTEST = (
    "pytest", "-m", "gpu", "-o", "addopts=--import-mode=importlib", "-W", "default",
    "-p", "no:cacheprovider",
)  # fmt: skip
TESTS = "tests/parity/gpu"
TRITON = "xla_gpu_enable_triton_gemm=True"
ABSENT = "planned GiB on an absent chip"
MEMORY_OF = "memory of "  # before the name of the timed job that a plan is of
# Bytes of a GPU for batches of (1024, 256), whose step takes up to 61 GiB; others get the
# second.
LARGE = 70e9
BATCHES, SMALLER = (1024, 256), (256, 64)


@dataclasses.dataclass(frozen=True)
class Job:
    """A command in a process of its own.

    `command` follows `python -m`; the path of its result is added to the last word,
    which is a flag with "=". `kind` is "probe", "speed", "trace", "tests", "memory",
    "randaug" or "repeat".
    """

    name: str
    kind: str
    command: tuple[str, ...]
    least: float = 25.0  # seconds; with less time left the job is not started
    most: float = 150.0
    xla_flags: str = ""


def vitjax(
    model: str,
    precision: str,
    attn_impl: str,
    batch_size: int,
    *,
    image_size: int = 224,
    steps: int = 20,
    mlp_impl: str = "xla",
    option: str = "",
) -> Job:
    """Return the job that times vitjax's step, with an option of XLA, NAME=VALUE."""
    how = attn_impl if mlp_impl == "xla" else f"{attn_impl} {mlp_impl}"
    options = (f"--compiler_options={option}",) if option else ()
    return Job(
        f"vitjax {model} {precision} {how}, batch {batch_size}"
        f"{option and ', ' + option}",
        "speed",
        (
            "vitjax.benchmark", f"--model={model}", f"--precision={precision}",
            f"--attn_impl={attn_impl}", f"--mlp_impl={mlp_impl}",
            f"--batch_size={batch_size}", f"--image_size={image_size}",
            f"--steps={steps}", *options, "--json=",
        ),
    )  # fmt: skip


def timm(
    model: str,
    batch_size: int,
    *,
    mode: str = "default",
    image_size: int = 224,
    steps: int = 20,
) -> Job:
    """Return the job that times timm's model in torch."""
    how = "eager" if mode == "eager" else f"torch.compile {mode}"
    return Job(
        f"timm {model} bfloat16 {how}, batch {batch_size}",
        "speed",
        (
            "parity.gpu.timm_speed", f"--model={model}", f"--batch_size={batch_size}",
            f"--image_size={image_size}", f"--steps={steps}", f"--mode={mode}",
            "--json=",
        ),
        most=200.0,
    )  # fmt: skip


def checks(name: str, file: str, only: str = "") -> Job:
    """Return the job that runs the tests marked gpu of a file, with pytest's -k."""
    which = ("-k", only) if only else ()
    command = (*PYTEST, f"{TESTS}/{file}", *which, "--junitxml=")
    return Job(name, "tests", command, most=200.0)


def randaug(batch_size: int, *, image_size: int = 224, steps: int = 20) -> Job:
    """Return the job that times randaug alone, as the step computes it."""
    return Job(
        f"randaug(2, 10) in the step, batch {batch_size}",
        "randaug",
        (
            "parity.gpu.randaug", f"--batch_size={batch_size}",
            f"--image_size={image_size}", f"--steps={steps}", "--json=",
        ),
    )  # fmt: skip


PROBE = Job("devices", "probe", ("parity.gpu.probe", "--json="), least=0.0)
TRACE = Job("trace of the fastest vitjax S/16", "trace", ())
TRAINING = "training or microbatches"
CHECKS = (
    checks("accuracy of the model", "test_accuracy.py", f"not ({TRAINING})"),
    checks("accuracy of training", "test_accuracy.py", TRAINING),
    checks("repeating, checkpoints, memory", "test_repeat.py"),
    checks("pixels of randaug", "test_randaug.py"),
)


def full(chip: str | None, memory: float | None) -> Sequence[Sequence[Job]]:
    """Return groups of jobs for a GPU; those of a group run at the same time.

    `chip` is the GPU's name in `vitjax.devices.chips`, or None; `memory` its bytes.
    """
    s, b = "vit_small_patch16_224", "vit_base_patch16_224"
    large, small = BATCHES if memory is not None and memory >= LARGE else SMALLER
    first = vitjax("S/16", "bfloat16", "cudnn", large)
    together = list(CHECKS)
    if chip is not None:
        command = (
            "parity.gpu.memory", f"--chip={chip}", f"--batch_size={large}", "--json=",
        )  # fmt: skip
        together.append(Job(MEMORY_OF + first.name, "memory", command))
    timed = [
        vitjax("S/16", "bfloat16_all", "cudnn", large, mlp_impl="pallas"),
        TRACE,
        vitjax("S/16", "tf32", "flax", large),
        vitjax("B/16", "bfloat16", "cudnn", large // 2),
        timm(b, large // 2),
        vitjax("S/16", "float32", "flax", large),
        vitjax("S/16", "bfloat16", "cudnn", small),
        timm(s, small),
        # XLA's own products instead of cuBLASLt's.
        vitjax("S/16", "bfloat16_all", "cudnn", large, option=TRITON),
        randaug(large),
        randaug(128),
        vitjax("S/16", "bfloat16", "flax", large),
        vitjax("S/16", "bfloat16", "xla", large),
        timm(s, large, mode="max-autotune-no-cudagraphs"),
        vitjax("S/16", "tf32", "xla", large),
        vitjax("S/16", "float32", "xla", large),
    ]
    others = itertools.product(("bfloat16", "tf32", "float32"), ("flax", "xla"))
    timed += [vitjax("S/16", precision, impl, small) for precision, impl in others]
    timed += [
        Job(
            "two runs without flags of XLA", "repeat", ("parity.gpu.repeat", "--json=")
        ),
        timm(s, large, mode="eager"),
    ]
    return [
        [first],
        [vitjax("S/16", "bfloat16_all", "cudnn", large)],
        [timm(s, large)],
        together,
        *([job] for job in timed),
    ]


def tiny() -> Sequence[Sequence[Job]]:
    """Return groups of small jobs of each kind, for any machine."""
    s = "vit_tiny_patch16_224"
    repeating = ("parity.gpu.repeat", f"--flags={DETERMINISTIC}", "--json=")
    return [
        [vitjax("Ti/16", "bfloat16", "flax", 8, image_size=32, steps=5)],
        [timm(s, 8, mode="eager", image_size=32, steps=5)],
        [timm(s, 8, image_size=32, steps=5)],
        CHECKS,
        [TRACE],
        [randaug(8, image_size=32, steps=5)],
        [vitjax("Ti/16", "float32", "flax", 8, image_size=32, steps=5)],
        [Job("two runs with flags of XLA", "repeat", repeating)],
    ]


def result(job: Job, file: Path) -> dict[str, Any]:
    """Return what a job's file says. Raises ValueError if it is not complete."""
    if job.kind != "tests":
        return json.loads(file.read_text())
    try:
        root = ElementTree.fromstring(file.read_text())
    except ElementTree.ParseError as error:
        raise ValueError(f"{file.name} is no report of pytest: {error}") from error
    return {"tests": [_test(case) for case in root.iter("testcase")]}


def _test(case: Any) -> dict[str, Any]:
    verdict, said = "passed", ""
    for tag, word in (
        ("failure", "FAILED"),
        ("error", "FAILED"),
        ("skipped", "skipped"),
    ):
        found = case.find(tag)
        if found is not None:
            verdict, said = word, found.get("message", "").strip().split("\n")[0]
    lines = {p.get("name"): p.get("value") for p in case.iter("property")}
    return {
        "name": case.get("name"),
        "verdict": verdict,
        "message": said[:300],
        "seconds": float(case.get("time", 0.0)),
        "measured": lines,
    }


def fastest(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of vitjax's fastest S/16 so far, or of any size if there is none."""
    ours = [r for r in rows if r["name"].startswith("vitjax") and RATE in r]
    small = [r for r in ours if r["name"].startswith("vitjax S/16")]
    return max(small or ours, key=lambda r: r[RATE], default=None)


def tracing(command: Iterable[str], folder: Path) -> Job:
    """Return the job that traces what `command` has timed, into `folder`.

    Without command buffers, XLA starts each kernel by itself, so that a trace has it.
    """
    return dataclasses.replace(
        TRACE,
        command=(*(word for word in command if word != "--json="), f"--trace={folder}",
                 "--json="),
        xla_flags="--xla_gpu_enable_command_buffer=",
    )  # fmt: skip
