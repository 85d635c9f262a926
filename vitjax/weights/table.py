"""The entries of a format's table: each equates some of their tensors with our leaves.

"Ours" are vitjax's leaves by name ("Transformer/encoder_norm/scale"), blocks unstacked.
"Theirs" are the tensors of another library by key. Arrays are numpy's, of any dtype.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Sequence[np.ndarray]
BLOCK = "Transformer/encoderblock_{}"
ATTENTION = "MultiHeadDotProductAttention_0"
QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Tensors of the other library and the leaves of ours with the same values.

    `join` converts ours to theirs; `split` converts theirs to ours, up to a reshape.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    join: Callable[[Arrays], Arrays]
    split: Callable[[Arrays], Arrays]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a model that decide which tensors it has."""

    depth: int
    cls: bool = False
    registers: bool = False
    map_head: bool = False
    pre_logits: bool = False
    head: bool = False
    pos_embedding: bool = False
    layer_scale: bool = False
    pre_norm: bool = False
    pool_norm: bool = False
    distilled: bool = False
    tokens: tuple[str, ...] = ()  # keys of theirs that hold cls and registers, in order
    extra_positions: int = 0  # their positions for cls and registers

    def has(self) -> set[str]:
        """Return the names of the parts that are present."""
        return {n for n, v in dataclasses.asdict(self).items() if v is True}


# The name of each part in error messages.
NAMES = {
    "cls": "a class token (pool_type 'tok')",
    "registers": "registers",
    "map_head": "attention pooling (pool_type 'map')",
    "pre_logits": "a pre_logits layer (rep_size)",
    "head": "a head",
    "pos_embedding": "stored position embeddings",
    "layer_scale": "LayerScale (layer_scale)",
    "pre_norm": "a LayerNorm before the blocks (pre_norm)",
    "pool_norm": "a LayerNorm after the pooling (norm_after_pool)",
    "distilled": "a head of the distillation token (distilled)",
}
# Part -> the leaf whose presence shows that our model has it.
OURS = {
    "cls": "cls",
    "registers": "registers",
    "map_head": "MAPHead_0/probe",
    "pre_logits": "pre_logits/kernel",
    "head": "head/kernel",
    "pos_embedding": "pos_embedding",
    "layer_scale": f"{BLOCK.format(0)}/LayerScale_0/gamma",
    "pre_norm": "pre_norm/scale",
    "pool_norm": "pool_norm/scale",
    "distilled": "head_dist/kernel",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """The layout of a ViT in another library's state dict.

    Attributes:
      title: the other library's class, as it appears in error messages.
      table: returns the entries of a model with these parts.
      signature: keys that a state dict of this format must all have.
      block: the prefix of the keys of block {}.
      parts: part -> the key whose presence shows that a state dict has it; the format
        cannot express a part without a key. If cls and registers share a key, its
        tensor may hold both.
      tokens: keys of tensors (1, n, d) of tokens, in the order in which they come
        before the patches; each but the last holds one token.
      distillation: which of `tokens` holds the one register of a model with distilled.
      always: the parts that every such model has.
      renames: (regex, replacement) for keys of other versions of the library.
      adapt: converts a state dict of another program that has the same keys for most
        tensors.
      unlike: (regex, sentence) for keys of models that vitjax cannot express.
      positions: what has a position: "patches", "all" (tokens come first) or "either"
        (a model with registers is written as "patches", others as "all").
      stores_sincos: True if state dicts contain constant position embeddings.
      sincos_batch: True if those are (1, n, d), False if (n, d).
      square: True if grid and patches must be square.
      bare: the signature of a model without its head, if its keys differ.
      ignored: regexes of keys, under this version's names, that such files may have but
        a classifier does not use, such as those of a decoder.
    """

    title: str
    table: Callable[[Parts], Iterable[Entry]]
    signature: tuple[str, ...]
    block: str
    parts: Mapping[str, str]
    tokens: tuple[str, ...] = ()
    distillation: str = ""
    always: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    adapt: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda state: (
        state
    )
    unlike: tuple[tuple[str, str], ...] = ()
    positions: str = "patches"
    stores_sincos: bool = True
    sincos_batch: bool = True
    square: bool = False
    bare: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def ignores(self, key: str) -> bool:
        """Return True if a key is not part of a classifier."""
        return any(re.search(regex, self.renamed(key)) for regex in self.ignored)

    def renamed(self, key: str) -> str:
        """Return a key under this version's name."""
        for regex, replacement in self.renames:
            key = re.sub(regex, replacement, key)
        return key

    def rename(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the state dict under this version's keys."""
        old: dict[str, str] = {}
        for key in state:
            if (new := self.renamed(key)) in old:
                raise ValueError(
                    f"the state dict has {new!r} under two names, {old[new]!r} and "
                    f"{key!r}"
                )
            old[new] = key
        return self.adapt({new: state[key] for new, key in old.items()})

    def refuse_others(self, keys: Iterable[str]) -> None:
        """Raise ValueError, with the reason, for a key that vitjax cannot express."""
        for key in keys:
            for regex, sentence in self.unlike:
                if re.search(regex, key):
                    raise ValueError(f"{key!r} of {self.title}: {sentence}")

    def theirs(self, keys: Iterable[str]) -> Parts:
        """Return the parts of a state dict with these keys, but not extra_positions."""
        keys = set(keys)
        pattern = re.compile(re.escape(self.block).replace(r"\{\}", r"(\d+)"))
        blocks = {m[1] for m in map(pattern.match, keys) if m}
        found: dict[str, Any] = {p: k in keys for p, k in self.parts.items()}
        return Parts(len(blocks), **found)

    def with_tokens(self, parts: Parts) -> Parts:
        """Add to our parts the keys that hold the tokens in this format."""
        keys = dict(self.parts)
        if parts.distilled:
            keys["registers"] = self.distillation
        own = [keys[p] for p in ("cls", "registers") if p in parts.has()]
        return dataclasses.replace(parts, tokens=tuple(dict.fromkeys(own)))

    def check_expresses(self, parts: Parts) -> None:
        """Raise ValueError, in one sentence, if the format cannot express the parts."""
        for part in sorted(parts.has() - self.parts.keys()):
            raise ValueError(
                f"{self.title} cannot express {NAMES[part]}, which these parameters have"
            )
        for part in self.always:
            if part not in parts.has():
                raise ValueError(
                    f"{self.title} always has {NAMES[part]}, "
                    "which these parameters do not have"
                )


def our_parts(names: Iterable[str]) -> Parts:
    """Return the parts of a vitjax model with these leaves."""
    names = set(names)
    blocks = {n.split("/")[1] for n in names if n.startswith(BLOCK.format(""))}
    found: dict[str, Any] = {part: leaf in names for part, leaf in OURS.items()}
    return Parts(len(blocks), **found)


def same(theirs: str, ours: str) -> Entry:
    """Map one tensor, unchanged."""
    return Entry((theirs,), (ours,), lambda leaves: leaves, lambda tensors: tensors)


def matrix(theirs: str, ours: str, num_in: int = 1) -> Entry:
    """Map a kernel (in..., out...) with `num_in` input dims to torch's (out, in)."""

    def join(leaves: Arrays) -> Arrays:
        return [_torch_matrix(leaves[0], num_in)]

    return Entry((theirs,), (ours,), join, lambda tensors: [tensors[0].T])


def dense(theirs: str, ours: str, num_in: int = 1) -> Iterator[Entry]:
    """Map a Linear layer."""
    yield matrix(f"{theirs}.weight", f"{ours}/kernel", num_in)
    yield same(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Iterator[Entry]:
    """Map a LayerNorm."""
    yield same(f"{theirs}.weight", f"{ours}/scale")
    yield same(f"{theirs}.bias", f"{ours}/bias")


def conv(theirs: str, ours: str, bias: bool = True) -> Iterator[Entry]:
    """Map a convolution (height, width, in, out) to (out, in, height, width)."""
    yield Entry(
        (f"{theirs}.weight",),
        (f"{ours}/kernel",),
        lambda leaves: [leaves[0].transpose(3, 2, 0, 1)],
        lambda tensors: [tensors[0].transpose(2, 3, 1, 0)],
    )
    if bias:
        yield same(f"{theirs}.bias", f"{ours}/bias")


def fused(
    weight: str, bias: str, ours: str, parts: Sequence[str] = QKV
) -> Iterator[Entry]:
    """Map parts of an attention layer to one matrix and one bias, stacked by rows."""

    def split(tensors: Arrays) -> Arrays:
        return [x.T for x in np.split(tensors[0], len(parts))]

    kernels, biases = (
        tuple(f"{ours}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias")
    )
    yield Entry(
        (weight,),
        kernels,
        lambda leaves: [np.concatenate([_torch_matrix(x, 1) for x in leaves])],
        split,
    )
    yield Entry(
        (bias,),
        biases,
        lambda leaves: [np.concatenate([x.reshape(-1) for x in leaves])],
        split,
    )


def flat(theirs: str, ours: str) -> Iterator[Entry]:
    """Map query, key or value to a Linear layer, with the heads concatenated."""
    yield matrix(f"{theirs}.weight", f"{ours}/kernel")
    yield Entry(
        (f"{theirs}.bias",),
        (f"{ours}/bias",),
        lambda leaves: [leaves[0].reshape(-1)],
        lambda tensors: tensors,
    )


def tokens(position: str, parts: Parts) -> Iterator[Entry]:
    """Map class token, registers and position embeddings (their key is `position`).

    Their tokens, in order, are our class token and then our registers. Their first
    `parts.extra_positions` positions belong to the tokens. Ours have no such positions:
    reading adds them to the tokens, and writing stores zeros.
    """
    has, theirs, extra = parts.has(), parts.tokens, parts.extra_positions
    ours = tuple(p for p in ("cls", "registers") if p in has)
    if "pos_embedding" in has and not extra:
        yield same(position, "pos_embedding")
    if not ours:
        return

    def join(leaves: Arrays) -> Arrays:
        held = np.concatenate(leaves[: len(ours)], axis=1)
        made = np.split(held, range(1, len(theirs)), axis=1)
        if not extra:
            return made
        positions = leaves[-1]
        zeros = np.zeros((1, extra, positions.shape[-1]), positions.dtype)
        return [*made, np.concatenate([zeros, positions], axis=1)]

    def split(tensors: Arrays) -> Arrays:
        held = np.concatenate(tensors[: len(theirs)], axis=1)
        rest = []
        if extra:
            added, rest = tensors[-1][:, :extra], [tensors[-1][:, extra:]]
            # Adding zero would turn -0.0 into 0.0, which has other bits.
            held = np.where(added == 0, held, held + added)
        return [*np.split(held, range(1, len(ours)), axis=1), *rest]

    last = (position,) if extra else ()
    yield Entry(
        theirs + last, ours + (("pos_embedding",) if extra else ()), join, split
    )


def _torch_matrix(kernel: np.ndarray, num_in: int) -> np.ndarray:
    fan_in = int(np.prod(kernel.shape[:num_in]))
    return kernel.reshape(fan_in, -1).T
