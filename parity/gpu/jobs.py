"""The jobs of `python -m parity.gpu`, most wanted first."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
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


@dataclasses.dataclass(frozen=True)
class Job:
    """A command in a process of its own.

    `command` follows `python -m`; the path of its result is added to the last word,
    which is a flag with "=". `kind` is "probe", "speed", "trace", "tests", "memory" or
    "repeat".
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
) -> Job:
    """Return the job that times vitjax's step."""
    return Job(
        f"vitjax {model} {precision} {attn_impl}, batch {batch_size}",
        "speed",
        (
            "vitjax.benchmark", f"--model={model}", f"--precision={precision}",
            f"--attn_impl={attn_impl}", f"--batch_size={batch_size}",
            f"--image_size={image_size}", f"--steps={steps}", "--json=",
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


def tests(name: str, file: str) -> Job:
    """Return the job that runs the tests marked gpu of a file."""
    return Job(name, "tests", (*PYTEST, file, "--junitxml="), most=200.0)


PROBE = Job("devices", "probe", ("parity.gpu.probe", "--json="), least=0.0)
TRACE = Job("trace of the fastest vitjax S/16", "trace", ())
_ACCURACY, _REPEAT = f"{TESTS}/test_accuracy.py", f"{TESTS}/test_repeat.py"


def _plan(chip: str) -> Job:
    command = ("parity.gpu.memory", f"--chip={chip}", "--json=")
    return Job("memory of vitjax S/16, planned without the chip", "memory", command)


def full(chip: str | None) -> list[Job]:
    """Return the jobs for a GPU. `chip` is its name in `vitjax.devices.chips`, if any."""
    s, b = "vit_small_patch16_224", "vit_base_patch16_224"
    wanted = [
        vitjax("S/16", "bfloat16", "cudnn", 1024),
        timm(s, 1024),
        tests("accuracy in each precision", _ACCURACY),
        vitjax("S/16", "bfloat16_all", "cudnn", 1024),
        TRACE,
        vitjax("S/16", "tf32", "flax", 1024),
        vitjax("S/16", "float32", "flax", 1024),
        tests("repeats, checkpoints, memory", _REPEAT),
    ]
    if chip is not None:
        wanted.append(_plan(chip))
    rest = [
        vitjax("B/16", "bfloat16", "cudnn", 512),
        timm(b, 512),
        vitjax("S/16", "bfloat16", "flax", 1024),
        vitjax("S/16", "bfloat16", "xla", 1024),
        vitjax("S/16", "bfloat16", "cudnn", 256),
        timm(s, 256),
        timm(s, 1024, mode="max-autotune-no-cudagraphs"),
        *(
            vitjax("S/16", precision, impl, batch_size)
            for precision, batch_size, impl in itertools.product(
                ("tf32", "float32"), (1024, 256), ("xla", "flax")
            )
            if (batch_size, impl) != (1024, "flax")  # above
        ),
        Job(
            "a second run without flags of XLA",
            "repeat",
            ("parity.gpu.repeat", "--json="),
        ),
        timm(s, 1024, mode="eager"),
    ]
    return wanted + rest


def tiny() -> list[Job]:
    """Return one small job of each kind, for any machine."""
    sizes = {"image_size": 32, "steps": 5}
    return [
        vitjax("Ti/16", "bfloat16", "flax", 8, **sizes),
        timm("vit_tiny_patch16_224", 8, mode="eager", **sizes),
        timm("vit_tiny_patch16_224", 8, **sizes),
        tests("accuracy in each precision", _ACCURACY),
        TRACE,
        vitjax("Ti/16", "float32", "flax", 8, **sizes),
        tests("repeats, checkpoints, memory", _REPEAT),
        Job(
            "a second run with flags of XLA",
            "repeat",
            ("parity.gpu.repeat", f"--flags={DETERMINISTIC}", "--json="),
        ),
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
