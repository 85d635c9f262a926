"""Draw the training data: `python -m vitjax.tools.show --config FILE --out DIR`."""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from ml_collections import ConfigDict

from input_pipeline import home, places
from vitjax.config import names
from vitjax.config.files import from_big_vision, load
from vitjax.tools import command

# Only light imports here, so that --help is fast.
FLAGSHIP = "configs/vit_s16_i1k.py"
DESCRIPTION = """\
Draw the training data: the first batch, each augmentation of randaug on a test grid, the
values that randaug leaves, and the sizes of random crops. With --index, print every step
of one example, exactly as training sees it, and draw them into --out."""
EXAMPLES = (
    "--config configs/quickstart.py --index 12 --epoch 3\n--out pictures",
    "--out pictures",
)


def load_config(spec: str) -> Any:
    """Load the config of "file.py" or "file.py:argument" for its data.

    Raises ValueError, in one sentence, if the file is wrong or lacks `input` or `seed`.
    """
    config = load(spec)
    for key in ("input", "seed"):
        if key not in config:
            raise ValueError(f"the config of {spec!r} lacks {key!r}: set config.{key}")
    return ConfigDict(names.full_names(from_big_vision(config)[0].to_dict()))


def open_train(config: Any, data: str | None) -> tuple[Any, str]:
    """Open a config's training stream, also of other `data`; return (stream, `pp`)."""
    from input_pipeline import pipeline
    from vitjax.config import arguments

    section = dict(config.input)
    if data is not None:
        try:
            section["data"] = dict(**ast.literal_eval(data))
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(
                f"--data must be a dict in Python's syntax, got {data!r}: write it as in "
                "\"{'kind': 'arrays', 'name': 'digits', 'split': 'train'}\""
            ) from None
    section["prefetch"] = 0  # no batch is needed after the first
    stream, _ = arguments.call("input", pipeline.make_train, section, seed=config.seed)
    return stream, section["pp"]


def show_all(config: Any, data: str | None, out: Path) -> None:
    """Draw batch.png, calibration.png, spectrum.png and crops.png into a folder.

    If the data set is missing, batch.png is left out and stderr says why.
    """
    from input_pipeline import sources
    from input_pipeline.look import charts, story

    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "batch": lambda path: story.draw_batch(
            path, open_train(config, data)[0], config.get("device_pp") or ""
        ),
        "calibration": charts.draw_calibration,
        "spectrum": charts.draw_spectrum,
        "crops": charts.draw_crops,
    }
    for name, draw in pictures.items():
        path = out / f"{name}.png"
        try:
            draw(path)
        except sources.DataNotFound as error:
            print(f"no {path.name}: {error}", file=sys.stderr, flush=True)
        else:
            print(path, flush=True)


def show_one(
    config: Any, data: str | None, epoch: int, index: int, out: Path | None
) -> None:
    """Print the steps of one example in one epoch; draw them if `out` is given."""
    from input_pipeline.look import story

    stream, pp = open_train(config, data)
    example = story.tell(stream, pp, epoch, index, config.get("device_pp") or "")
    print(story.report(example, epoch, index))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"example_{index}_epoch_{epoch}.png"
        story.draw_story(path, example, epoch, index)
        print(path)


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line."""
    parser = command.parser("show", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--config", type=places.local_text, default=FLAGSHIP, metavar="FILE[:ARG]",
        help="a config file, as for vitjax.train (default: %(default)s)")  # fmt: skip
    command.add_out(parser, "DIR", "the pictures", "nowhere; needed without --index")
    add("--index", type=int, metavar="I",
        help="the example to show, counted from 0 (default: none)")  # fmt: skip
    add("--epoch", type=int, metavar="E",
        help="the epoch of the example, counted from 0 (default: 0)")  # fmt: skip
    add("--data", metavar="LITERAL",
        help="data to show in place of the config's, as in \"{'kind': 'folder', "
        "'data_dir': '~/pets', 'split': 'train'}\"")  # fmt: skip
    flags = parser.parse_args(home.expanded(argv))
    if flags.index is None and flags.epoch is not None:
        parser.error("--epoch needs an --index")
    if flags.index is None and flags.out is None:
        parser.error("give --out, a folder for the pictures, or --index, an example")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags = parse_flags(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        command.check_folder("--out", flags.out)
        config = load_config(flags.config)
        from input_pipeline import pipeline

        pipeline.hide_accelerators()
        if flags.index is None:
            show_all(config, flags.data, flags.out)
        else:
            show_one(config, flags.data, flags.epoch or 0, flags.index, flags.out)

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
