"""The ladder: the rungs by name, without heavy imports, for --help."""

import dataclasses
from collections.abc import Iterable
from typing import Any

PRECISIONS = ("float64", "float32", "bfloat16", "bfloat16_all")


@dataclasses.dataclass(frozen=True)
class Rung:
    """The subject of a rung and its precisions; a rung without any runs once.

    `pixels`: the rung is about bytes and grey levels and needs a separate process.
    """

    about: str
    precisions: tuple[str, ...] = ("float64", "float32")
    pixels: bool = False

    @property
    def units(self) -> str:
        """The precisions, or else the units of the differences, in words."""
        once = (
            "grey levels" if self.pixels else "standard errors over seeds; no precision"
        )
        return ", ".join(self.precisions) or once


RUNGS = {
    "initialisation": Rung(
        "mean, deviation, least, greatest value of each parameter; limits", ()
    ),
    "forward": Rung("every stage; posemb x pooling x head, registers", PRECISIONS),
    "loss": Rung("softmax, sigmoid; hard, mixed and smoothed labels; mixup"),
    "gradients": Rung("of every parameter; the same options in float64", PRECISIONS),
    "update": Rung("clip, Adam, mu_dtype, decay mask, schedule"),
    "trajectory": Rung("200 steps on real digits", PRECISIONS),
    "devices": Rung("one batch = microbatches = 8 devices, replicated and fsdp"),
    "evaluation": Rung("hits by example, accuracy and loss on padded batches"),
    "decoding": Rung("JPEGs of every kind against PIL", (), True),
    "resize": Rung("against PIL and torchvision, in grey levels", (), True),
    "augmentation": Rung(
        "ops, randaug and crops against PIL and torchvision", (), True
    ),
}


def rungs(names: Iterable[str]) -> dict[str, Any]:
    """Return the functions of these rungs (`parity.rungs.comparison.RungFn`).

    Those about pixels import TensorFlow.
    """
    from parity.rungs import model, training

    names = list(names)
    known = {**model.RUNGS, **training.RUNGS}
    if not known.keys() >= set(names):
        from parity.rungs import pixels

        known |= pixels.RUNGS
    assert known.keys() <= RUNGS.keys()
    return {name: known[name] for name in names}


def explain() -> str:
    """Return the list of rungs at the end of --help."""
    lines = ["the rungs, each with the precisions in which it runs:"]
    for name, rung in RUNGS.items():
        lines.append(f"  {name:15} {rung.about}")
        lines.append(f"  {'':15}   {rung.units}")
    return "\n".join(lines)
