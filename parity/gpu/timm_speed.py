"""Time timm's model of the same size in torch: `python -m parity.gpu.timm_speed`.

The step is as a user of torch would write it: uint8 images on the device, mixup,
bfloat16 by autocast, torch.compile, scaled_dot_product_attention, clipping, and the
fused AdamW. timm's model has learned position embeddings, the mean of the tokens and a
linear head; its products differ from vitjax's flagship by less than 1 %.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from input_pipeline import home, places
from vitjax.devices import chips
from vitjax.weights.libraries import import_torchvision

CLASSES = 1000
LAMBDA = 0.8  # mixup's, which changes no speed
WARM_UP = 3
EAGER = "eager"


def make_step(
    model: Any, run: Callable[..., Any], images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], Any]:
    """Return a function that takes one training step.

    Images are uint8 (b c h w), labels int64 (b,); `run` is the model, perhaps compiled.
    """
    device = images.device.type
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.1, fused=True
    )

    def mix(x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 0).lerp(x, LAMBDA)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        image = mix(images.float().div_(127.5).sub_(1))
        target = mix(F.one_hot(labels, CLASSES).float())
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(run(image), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def forward_flops(model: Any, image_size: int) -> float:
    """Return the operations of the forward pass of one image; a multiply-add counts 2."""
    counter = FlopCounterMode(display=False)
    # The counter does not know every fused attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, image_size, image_size))
    return float(counter.get_total_flops())


def measure(
    name: str, *, batch_size: int, image_size: int, steps: int, mode: str
) -> dict[str, Any]:
    """Compile and time the step; return figures by the names of vitjax.benchmark.

    `mode` is "eager", or a mode of torch.compile.
    """
    import_torchvision()  # timm imports it
    import timm

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    kwargs = {"num_classes": CLASSES, "img_size": image_size}
    pooled = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model = timm.create_model(name, pretrained=False, **kwargs, **pooled)
    flops = 3 * forward_flops(model, image_size) * batch_size
    model = model.to(device).train()
    run = model if mode == EAGER else torch.compile(model, mode=mode)
    shape = (batch_size, 3, image_size, image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels = torch.randint(0, CLASSES, (batch_size,), device=device)
    step = make_step(model, run, images, labels)
    wait = torch.cuda.synchronize if gpu else lambda: None

    start = time.perf_counter()
    for _ in range(WARM_UP):
        step()
    wait()
    first = time.perf_counter() - start
    block, seconds = max(1, steps // 5), []
    for _ in range(0, steps, block):
        start = time.perf_counter()
        for _ in range(block):
            step()
        wait()
        seconds.append((time.perf_counter() - start) / block)
    found = statistics.median(seconds)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "batch_size": batch_size,
        "compile and warm-up s": first,
        "ms/step": 1000 * found,
        "img/s per device": batch_size / found,
        "model TFLOP/s per device": flops / found / 1e12,
    }
    chip = chips.of_kind(figures["device"])
    if chip is not None:
        figures["MFU"] = flops / found / chip.peak("bfloat16")
    if gpu:
        figures["peak memory GiB per device"] = (
            torch.cuda.max_memory_allocated() / 2**30
        )
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.gpu.timm_speed",
        description="Time a training step of timm's model in bfloat16.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", default="vit_small_patch16_224", help="timm's name of the model")
    add("--batch_size", type=int, default=1024, help="images a step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--steps", type=int, default=20, help="timed steps")
    add("--mode", default="default", help="eager, or a mode of torch.compile")
    add(
        "--json",
        type=places.local,
        metavar="FILE",
        help="also write the figures to FILE",
    )
    flags = parser.parse_args(home.expanded(argv))
    figures = measure(
        flags.model,
        batch_size=flags.batch_size,
        image_size=flags.image_size,
        steps=flags.steps,
        mode=flags.mode,
    )
    text = json.dumps({"model": flags.model, "mode": flags.mode, **figures})
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
