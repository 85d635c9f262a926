"""The commands by name, and how the user of this process starts them."""

import sys
from pathlib import Path

# Module of each command; its function `main(argv)` returns the exit status.
COMMANDS = {
    "train": "vitjax.train",
    "configs": "vitjax.tools.configs",
    "show": "vitjax.tools.show",
    "plan": "vitjax.tools.plan",
    "profile": "vitjax.tools.profile",
    "sweep": "vitjax.tools.sweep",
    "evaluate": "vitjax.tools.evaluate",
    "predict": "vitjax.tools.predict",
    "features": "vitjax.tools.features",
    "attention_rollout": "vitjax.tools.attention_rollout",
    "plot": "vitjax.tools.plot",
    "compare_runs": "vitjax.tools.compare_runs",
    "average_checkpoints": "vitjax.tools.average_checkpoints",
    "export": "vitjax.tools.export",
    "convert": "vitjax.tools.convert",
    "benchmark": "vitjax.benchmark",
    "parity": "parity.__main__",
}


def program() -> str | None:
    """Return "vitjax" or "python -m vitjax", the program of this process; else None."""
    started = Path(sys.argv[0])
    if started.stem == "vitjax":
        return "vitjax"
    if started.name == "__main__.py" and started.parent.name == "vitjax":
        return "python -m vitjax"
    return None


def called(module: str) -> str:
    """Return how to start a module's command: "vitjax plan", for help and messages.

    It is "python -m vitjax.tools.plan" where this process was started in that way.
    """
    started = program()
    names = {path: name for name, path in COMMANDS.items()}
    if started is None or module not in names:
        return f"python -m {module.removesuffix('.__main__')}"
    return f"{started} {names[module]}"
