"""Helpers that the config files share."""

import difflib
import re
from typing import Any, NamedTuple

from ml_collections import ConfigDict

_CIFAR = "of https://www.cs.toronto.edu/~kriz/cifar.html, and give the unpacked folder"
# Hints for the error about a missing data set: its source, and where to put it.
ORIGINS = {
    "mnist": "put the four *-ubyte.gz files of http://yann.lecun.com/exdb/mnist, or of a "
    "mirror such as https://ossci-datasets.s3.amazonaws.com/mnist, into data_dir",
    "fashion_mnist": "`make fashion-mnist` fetches it (Debian's dataset-fashion-mnist); or "
    "put the four files of https://github.com/zalandoresearch/fashion-mnist into data_dir",
    "cifar10": f"unpack cifar-10-python.tar.gz {_CIFAR} cifar-10-batches-py as data_dir",
    "cifar100": f"unpack cifar-100-python.tar.gz {_CIFAR} cifar-100-python as data_dir",
    "tiny_imagenet": "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip, and give "
    "the folder tiny-imagenet-200 as data_dir",
    "imagenet100": "100 classes of ImageNet, as data_dir/{train,val}/CLASS/*.jpg; "
    "data=huggingface takes clane9/imagenet-100 from the hub",
    "imagenet100_hub": "without access to the hub, give a folder of save_to_disk or of "
    "parquet files as data_dir",
    "cifar10_folder": "put the images of CIFAR-10 into data_dir/{train,test}/CLASS/*.png, or "
    "take its archive (kind cifar)",
    "cifar100_folder": "put the images of CIFAR-100 into data_dir/{train,test}/CLASS/*.png, "
    "or take its archive (kind cifar)",
}
FILES = ("folder", "huggingface")  # kinds of data that are files of one's own
CIFAR_KINDS = ("cifar", "tfds", "folder")


def cifar_data(kind: str, data_dir: str, name: str = "cifar10") -> tuple[dict, str]:
    """Return CIFAR-10's or -100's data section without its split, and the first ops.

    `kind` is cifar (the unpacked archive), tfds, or folder
    (`data_dir`/{train,test}/CLASS/*.png).
    """
    choose("data", kind, CIFAR_KINDS)
    own = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    data: dict[str, Any] = {"kind": kind}
    if kind == "tfds":
        data["name"] = name
    else:
        data["origin"] = ORIGINS[name if kind == "cifar" else f"{name}_folder"]
        data["data_dir"] = own if kind == "cifar" else f"data/{name}"
    if data_dir:
        data["data_dir"] = data_dir
    # A file's size is unknown before it is read; resize(32) keeps 32 x 32 pixels as is.
    return data, "" if kind == "cifar" else "decode(channels=3)|resize(32)|"


def own_data(chosen: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the data sections of training and evaluation for one's own images.

    `chosen` has data (folder, huggingface, or the name of a tfds data set), data_dir,
    train_split and val_split.
    """
    files = chosen.data in FILES
    data = dict(kind=chosen.data) if files else dict(name=chosen.data)
    if chosen.data_dir or files:
        data["data_dir"] = chosen.data_dir or "data/photos"
    val = chosen.val_split or ("val" if chosen.data == "folder" else "test")
    return dict(data, split=chosen.train_split), dict(data, split=val)


def finished_on_device(classes: int, values: str) -> str:
    """Return the device_pp of integer labels, and of images that the op `values` maps."""
    return (
        f"{values}|onehot({classes}, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )


class About(NamedTuple):
    """A default of `parse_arg` with what --help says of the argument."""

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()  # allowed besides the default; (): any of its type


# The arguments of `own_data`, besides data_dir, whose meaning differs.
OWN_DATA: dict[str, Any] = dict(
    data=About("folder", "folder, huggingface, or the name of a data set of tfds"),
    train_split=About("train", "split to train on"),
    val_split=About("", "split to evaluate on; empty: val of a folder, else test"),
)


def parse_arg(arg: str | None, **defaults: Any) -> Any:
    """Parse "a=1,b=x,flag"; `defaults` gives the names, the types and the defaults.

    A default may be an `About`. A bare name sets a flag to True; "on"/"off",
    "true"/"false" and "1"/"0" are bools. Raises ValueError on an unknown name, a value
    of another type, or a value that is none of the choices.
    """
    choices = {n: x.choices for n, x in defaults.items() if isinstance(x, About)}
    defaults = {
        n: x.default if isinstance(x, About) else x for n, x in defaults.items()
    }
    values = dict(defaults)
    # Split at commas outside parentheses: beta(1, 2) is one value.
    parts = re.split(r",(?![^()]*\))", arg or "")
    for item in filter(None, (part.strip() for part in parts)):
        name, equals, text = (part.strip() for part in item.partition("="))
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown config argument {name!r}{hint} "
                f"(known: {', '.join(sorted(defaults))})"
            )
        values[name] = _read(name, text if equals else "true", defaults[name])
        if choices.get(name) and values[name] != defaults[name]:
            choose(name, str(values[name]), choices[name])
    return ConfigDict(values)


def _read(name: str, text: str, default: Any) -> Any:
    """Convert `text` to the type of `default`."""
    kind = type(default)
    booleans = {
        "on": True,
        "true": True,
        "1": True,
        "off": False,
        "false": False,
        "0": False,
    }
    try:
        return booleans[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = "on or off" if kind is bool else f"of type {kind.__name__}"
        raise ValueError(
            f"config argument {name}={text!r} is not {expected}, e.g. {name}={default}"
        ) from None


def choose(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value`; raise ValueError with the choices if it is not one of them."""
    if value not in choices:
        raise ValueError(
            f"config argument {name}={value!r} is not one of {', '.join(choices)}"
        )
    return value
