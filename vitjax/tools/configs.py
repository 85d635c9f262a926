"""List the config files that vitjax ships, or print one.

`python -m vitjax.tools.configs`
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import home
from vitjax.config import help, shipped
from vitjax.tools import command

# Only light imports here, so that --help is fast.
DESCRIPTION = """\
List the config files that vitjax ships, with one line on each; vitjax.train takes them by
name, in any folder: --config vit_s16_i1k. With NAME, print that file, so that you can
start one of your own."""
EXAMPLES = ("", "quickstart > mine.py", "--keys > docs/config.md")


def _list() -> None:
    files = shipped.configs()
    width = max(map(len, files))
    for name, file in files.items():
        print(f"{name:<{width}}  {shipped.first_sentence(file)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    parser = command.parser("configs", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="print this file (default: list all)"
    )
    parser.add_argument(
        "--keys", action="store_true", help="print every config key, as docs/config.md"
    )
    flags = parser.parse_args(home.expanded(argv))

    def work() -> None:
        if flags.keys:
            print(help.page(), end="")
        elif flags.name is None:
            _list()
        else:
            print(shipped.find(Path(flags.name)).read_text("utf-8"), end="")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
