"""The names of the rungs and what they compare. Nothing heavy: it is read for --help."""

import dataclasses

PRECISIONS = ("float64", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Rung:
    """What a rung compares, and in which precisions; none: it does not compute."""

    about: str
    precisions: tuple[str, ...] = ("float64", "float32")


RUNGS = {
    "initialisation": Rung("mean, deviation, least, greatest value of each parameter"),
    "forward": Rung("every stage; posemb x pooling x head, registers", PRECISIONS),
    "loss": Rung("softmax, sigmoid; hard, mixed and smoothed labels; mixup"),
    "gradients": Rung("of every parameter", PRECISIONS),
    "update": Rung("clip, Adam, mu_dtype, decay mask, schedule"),
    "trajectory": Rung("200 steps on real digits", PRECISIONS),
    "devices": Rung("one batch = microbatches = 8 devices, replicated and fsdp"),
    "evaluation": Rung("accuracy on padded batches, equal to the example"),
}


def explain() -> str:
    """The list that --help ends with."""
    lines = ["the rungs, each with the precisions in which it runs:"]
    for name, rung in RUNGS.items():
        lines.append(f"  {name:15} {rung.about}")
        lines.append(f"  {'':15}   {', '.join(rung.precisions) or 'exact'}")
    return "\n".join(lines)
