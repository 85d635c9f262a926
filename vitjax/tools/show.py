"""Draw the training data: `python -m vitjax.tools.show --config FILE --out DIR`."""

import argparse
import ast
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from input_pipeline import home


def load_config(spec: str) -> Any:
    """Call get_config of "path/to/file.py" or "path/to/file.py:argument".

    Raises ValueError, in one sentence, if the file, its function or its config is
    missing or wrong.
    """
    name, colon, argument = spec.partition(":")
    path = Path(name)
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(
            f"there is no config file {name!r}: give a Python file, such as "
            "configs/quickstart.py"
        )
    module_spec: Any = importlib.util.spec_from_file_location("shown_config", path)
    module = importlib.util.module_from_spec(module_spec)
    # A config file may import its own package, even if that is not installed.
    root = str(path.resolve().parent.parent)
    sys.path.append(root)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"config file {name!r} cannot be read: {error}") from None
    finally:
        sys.path.remove(root)
    function = getattr(module, "get_config", None)
    if function is None:
        raise ValueError(f"config file {name!r} has no function get_config(arg)")
    if colon and not inspect.signature(function).parameters:
        raise ValueError(f"config file {name!r} takes no argument, got {argument!r}")
    config = function(argument) if colon else function()
    for key in ("input", "seed"):
        if key not in config:
            raise ValueError(f"the config of {name!r} lacks {key!r}: set config.{key}")
    return config


def open_train(config: Any, data: str | None) -> tuple[Any, str]:
    """Open a config's training stream, also of other `data`; return (stream, `pp`)."""
    from input_pipeline import pipeline

    section = dict(config.input)
    if data is not None:
        try:
            section["data"] = dict(**ast.literal_eval(data))
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(
                "--data is a Python literal such as \"{'kind': 'arrays', 'name': "
                f"'digits', 'split': 'train'}}\", but it is {data!r}"
            ) from None
    # No batches are needed after the one that is shown.
    section["prefetch"] = 0
    # Some of big_vision's configs have it here, but it does not concern the data.
    section.pop("accum_freq", None)
    try:
        stream, _ = pipeline.make_train(seed=config.seed, **section)
    except TypeError as error:
        raise ValueError(f"the config's input section is wrong: {error}") from None
    return stream, section["pp"]


def show_all(config: Any, data: str | None, out: Path) -> None:
    """Draw batch.png, calibration.png, spectrum.png and crops.png into a folder.

    If the data set is missing, batch.png is left out and stderr says why.
    """
    from input_pipeline import sources
    from input_pipeline.look import charts, story

    out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "batch": lambda path: story.draw_batch(path, open_train(config, data)[0]),
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
    example = story.tell(stream, pp, epoch, index)
    print(story.report(example, epoch, index))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"example_{index}_epoch_{epoch}.png"
        story.draw_story(path, example, epoch, index)
        print(path)


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vitjax.tools.show",
        description="Draw what the training data looks like: the first batch, each "
        "augmentation of randaug on a test grid, the values that randaug leaves, and "
        "the sizes of random crops. With --index: all that is done to one example, "
        "step by step, exactly as training sees it.",
        epilog="example: python -m vitjax.tools.show --config configs/quickstart.py "
        "--index 12 --epoch 3 --out pictures",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        default="configs/vit_s16_i1k.py",
        metavar="FILE[:ARG]",
        help="a file with get_config(arg), e.g. configs/vit_s16_i1k.py:preset=fixed "
        "(default: %(default)s)",
    )
    add("--out", type=Path, metavar="DIR", help="where the pictures go")
    add("--index", type=int, metavar="I", help="the example to tell about, from 0")
    add("--epoch", type=int, metavar="E", help="in which epoch, from 0 (default: 0)")
    add(
        "--data",
        metavar="LITERAL",
        help="other data than the config's, e.g. \"{'kind': 'folder', 'data_dir': "
        "'~/pets', 'split': 'train'}\"",
    )
    flags = parser.parse_args(home.expanded(argv))
    if flags.index is None and flags.epoch is not None:
        parser.error("--epoch needs an --index")
    if flags.index is None and flags.out is None:
        parser.error("give --out, a folder for the pictures, or --index")
    return flags


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after one sentence on stderr."""
    flags = parse_flags(sys.argv[1:] if argv is None else argv)
    try:
        config = load_config(flags.config)
        from input_pipeline import pipeline

        pipeline.hide_accelerators()
        if flags.index is None:
            show_all(config, flags.data, flags.out)
        else:
            show_one(config, flags.data, flags.epoch or 0, flags.index, flags.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli())
