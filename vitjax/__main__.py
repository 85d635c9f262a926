"""Run any command by its name: `vitjax train`, or `python -m vitjax train`."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from vitjax import command_line, commands
from vitjax.config import arguments, shipped
from vitjax.devices import failures


def _file(module: str) -> Path:
    """Return the file of a command's module, without importing it."""
    package, _, path = module.partition(".")
    home = shipped.root() / package if package == "parity" else Path(__file__).parent
    return home.joinpath(*path.split(".")).with_suffix(".py")


def _about(module: str) -> str:
    """Return a command's first sentence, as far as its colon."""
    return shipped.first_sentence(_file(module)).split(": ")[0].rstrip(".")


def help_text() -> str:
    """Return the list of all commands, one line each."""
    width = max(map(len, commands.COMMANDS))
    program = commands.program() or "python -m vitjax"
    lines = [f"usage: {program} COMMAND ...", "", "commands:"]
    for name, module in commands.COMMANDS.items():
        lines.append(f"  {name:<{width}}  {_about(module)}")
    lines += ["", f"{program} COMMAND --help says more; `python -m` does the same with"]
    lines.append("each command's module: python -m vitjax.train, vitjax.tools.plan.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return its exit status."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return 0
    if name not in commands.COMMANDS:
        error = arguments.unknown(name, commands.COMMANDS, "command")
        print(f"error: {error}", file=sys.stderr)
        return 2
    failures.leave_on_interrupt()  # the imports take seconds
    if name == "train":
        command_line.parse_flags(rest)  # answers --help before the imports
    if name == "parity":
        sys.path.insert(0, str(shipped.root()))
    command = importlib.import_module(commands.COMMANDS[name])
    return command.main(rest)


if __name__ == "__main__":
    sys.exit(main())
