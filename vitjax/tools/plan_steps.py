"""Compile the steps of a plan, print their tables, and suggest one of them."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vitjax import markdown
from vitjax.config.experiment import Experiment
from vitjax.devices import chips
from vitjax.estimate import compiled, tables
from vitjax.memory import doubled
from vitjax.tools import plan_cost

CPU_HEAD = ("memory GiB",)
Figures = dict[str, Any]


def say(text: str = "") -> None:
    """Print a line immediately."""
    print(text, flush=True)


def choices(
    e: Experiment, flags: argparse.Namespace, where: plan_cost.Place
) -> Iterator[list[Any]]:
    """Yield, for each remat_policy, the experiment with each accum_freq to try.

    Without --accum_freq, those are the config's own and its doubles, as long as they
    divide the batch. Raises ValueError if no accum_freq divides it.
    """
    model, batch_size = dict(e.model), e.input["batch_size"]
    if where.on_cpu and model.get("attn_impl") == "cudnn":
        print("note: attn_impl='cudnn' is planned as 'xla' on a CPU", file=sys.stderr)
        model["attn_impl"] = "xla"
    if where.target is not None:
        chips.check_attention(where.target, model.get("attn_impl"))
    count = len(where.devices)
    if batch_size % count:
        raise ValueError(
            f"a batch of {batch_size} does not divide over {count} devices: set "
            "--config.input.batch_size, or give another number of devices"
        )
    remats: Sequence[Any] = [None]
    if e.model_name == "vit":
        remats = flags.remat_policy or [model.get("remat_policy", "none")]
        # Rules that name single layers match nothing in the stacked layers of a scan.
        by_name = {"lr_mults", "wd_mults"} & e.optimizer.keys()
        if where.on_cpu and not by_name:
            model["scan"] = True
    asked = flags.accum_freq or doubled(e.accum_freq, batch_size, count)
    accums = [n for n in asked if batch_size % (n * count) == 0]
    if not accums:
        tried = flags.accum_freq or [e.accum_freq]
        raise ValueError(
            f"no accum_freq of {', '.join(map(str, tried))} divides a batch of "
            f"{batch_size} on {count} device(s): give another with --accum_freq"
        )
    for remat in remats:
        own = model if remat is None else {**model, "remat_policy": remat}
        yield [dataclasses.replace(e, accum_freq=n, model=own) for n in accums]


def compile_steps(
    planned: Iterable[Sequence[Any]],
    step: Callable[[Any], Figures],
    head: Sequence[str],
    enough: Callable[[Figures], bool],
) -> list[Figures]:
    """Return the figures of `step` of each; print its table row when it is known.

    Each inner sequence ends at the first step that is `enough`.
    """
    columns = ("accum_freq", "remat_policy", "state GiB", *head)
    say("\n".join(markdown.heading(columns)))
    rows = []
    for group in planned:
        for e in group:
            row = step(e)
            rows.append(row)
            own = tables.cells(row) if head == tables.HEAD else [f"{row[head[0]]:.3f}"]
            state = f"{row['state GiB']:.3f}"
            first = (row["accum_freq"], row["remat_policy"] or "-", state)
            say(markdown.line((*first, *own)))
            if enough(row):
                break
    say()
    return rows


def advice(e: Experiment) -> str:
    """Return what makes a step smaller than the smallest plan of `e`."""
    model = e.model
    ways = ["more chips"]
    if not any("fsdp" in strategy for _, strategy in e.sharding_strategy):
        ways.append("fsdp in sharding_strategy")
    if model.get("remat_policy", "none") == "none":
        ways.append("remat_policy='nothing_saveable'")
    if model.get("dtype_mm", "float32") == "float32":
        ways.append("dtype_mm='bfloat16'")
    return "use " + ", ".join([*ways, "or a smaller model"])


def suggestion(
    rows: Sequence[Figures], limit: float, otherwise: str
) -> tuple[str, Figures | None]:
    """Return (a sentence, the first row that fits `limit` GiB, or None).

    The rows are in order of preference, fewest recomputations first: by remat_policy,
    then by accum_freq. The sentence ends with `otherwise` if none fits.
    """
    # XLA may refuse a program without saying what it would take.
    sizes = [math.inf if r["memory GiB"] is None else r["memory GiB"] for r in rows]
    best = next((r for r, x in zip(rows, sizes, strict=True) if x <= limit), None)
    if best is None:
        least = f"{min(sizes):.1f}" if min(sizes) < math.inf else "more"
        return (
            f"no plan fits {limit:.1f} GiB (the smallest takes {least}): {otherwise}",
            None,
        )
    remat = best["remat_policy"]
    remat = f" with remat_policy={remat!r}" if remat else ""
    return (
        f"accum_freq={best['accum_freq']}{remat} fits {limit:.1f} GiB "
        f"({best['memory GiB']:.1f} planned)",
        best,
    )


def figures(
    planned: Sequence[Sequence[Any]],
    flags: argparse.Namespace,
    where: plan_cost.Place,
    limit: float | None,
    spec: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> tuple[Figures, Figures]:
    """Compile the steps and print their tables.

    Returns (figures of all, those of the suggested step). The first step takes its place
    where none is suggested.
    """
    head = CPU_HEAD if where.chip is None else tables.HEAD
    looped = ", scan=True" if planned[0][0].model.get("scan") else ""
    say(f"The training step on one device of {where.name}{looped}:\n")

    def enough(row: Figures) -> bool:
        memory = row["memory GiB"]
        fits = limit is None or (memory is not None and memory <= limit)
        # No accumulation makes the state smaller.
        return flags.accum_freq is None and (fits or row["state GiB"] > limit)

    def own(row: Figures) -> Figures:
        if where.chip is None or not flags.memory_gib:
            return row
        memory = row["memory GiB"]
        fits = memory is not None and memory <= flags.memory_gib
        return row | {"memory GiB of the chip": flags.memory_gib, "fits": fits}

    step = lambda e: own(plan_cost.step(e, spec, sizes, where))
    rows = compile_steps(planned, step, head, enough)
    found: Figures = {"steps": rows}
    best = rows[0]
    if limit is not None:
        found["suggestion"], fitting = suggestion(rows, limit, advice(planned[-1][-1]))
        for key in ("accum_freq", "remat_policy"):
            found[f"suggested {key}"] = fitting and fitting[key]
        best = fitting or best
        if fitting is not None or where.on_cpu:  # else it is the command's error
            say(found["suggestion"] + _pool(where, fitting) + "\n")
    if flags.eval:
        row = own(plan_cost.evaluation(planned[0][0], spec, sizes, where))
        found["evaluation"] = row
        say("Evaluation, the forward pass:\n")
        cells = tables.cells(row) if where.chip else [f"{row['memory GiB']:.3f}"]
        say(markdown.table(("batch", *head), [(row["batch_size"], *cells)]) + "\n")
    if "parts" in best:
        found["assumptions"] = compiled.ASSUMPTIONS
        say(f"{tables.LEGEND}\n\nThe time is {compiled.ASSUMPTIONS}.\n")
        if flags.kernels:
            say(
                f"The kernels that move most, by layer, with accum_freq={best['accum_freq']}:\n"
            )
            say(markdown.table(tables.PARTS, tables.parts(best, flags.kernels)) + "\n")
    return found, best


def _pool(where: plan_cost.Place, best: Figures | None) -> str:
    """Return what a GPU needs besides, if its pool of memory is too small for a row."""
    chip = where.chip
    if chip is None or chip.tpu or best is None:
        return ""
    if best["memory GiB"] * chips.GIB <= chips.TAKEN * chip.memory:
        return ""
    return (
        f"; JAX takes {chips.TAKEN:.0%} of a GPU's memory by default, so set "
        "XLA_CLIENT_MEM_FRACTION=0.92"
    )
