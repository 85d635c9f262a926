"""The reference in another summation order: the control of float32 and bfloat16.

A network sums over the pixels of a patch, tokens, width, heads, hidden units and rows
of the batch. Permuting these in weights and images alike changes results only by
rounding. The size of the change is therefore the effect of rounding.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from parity.sides.cases import Case

Index = tuple[np.ndarray | None, ...]  # per dimension: new position -> old; None: as is

# Dimensions of the reference's tensors: B batch, P pixels of a patch, T patch tokens,
# S all tokens, W width, H heads' dims one after the other, Q three times H, M hidden,
# R pre_logits, F the head's input, C classes, "-" never permuted.
_DIMS = (
    (r"embedding\.weight", "WP"),
    (r"pos_embedding", "-TW"),
    (r"cls|registers|map_head\.probe", "--W"),
    (r".*attention\.in_proj_weight", "QW"),
    (r".*attention\.in_proj_bias", "Q"),
    (r".*attention\.out_proj\.weight", "WH"),
    (r".*mlp\.fc1\.weight", "MW"),
    (r".*mlp\.fc1\.bias", "M"),
    (r".*mlp\.fc2\.weight", "WM"),
    (r"pre_logits\.weight", "RW"),
    (r"pre_logits\.bias", "R"),
    (r"head\.weight", "CF"),
    (r"head\.bias", "C"),
    (r"embedding\.bias|.*norm\d?\.(weight|bias)|.*(out_proj|fc2)\.bias", "W"),
)
_STAGES = (
    (r"stem|with_posemb", "BTW"),
    (r"block.*|encoded", "BSW"),
    (r"head_input", "BW"),
    (r"pre_logits", "BF"),
    (r"logits", "BC"),
)


@dataclasses.dataclass(frozen=True)
class Order:
    """One permutation of every dimension that is summed over, by letters of `_DIMS`."""

    case: Case
    index: Mapping[str, np.ndarray | None]

    def _of(self, table: Any, name: str) -> Index:
        dims = next(dims for pattern, dims in table if re.fullmatch(pattern, name))
        return tuple(self.index[letter] for letter in dims)

    def state(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return parameters or gradients, by the reference's names, in this order."""
        return {k: self._tensor(k, x, _take) for k, x in state.items()}

    def undo_state(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Invert `state`."""
        return {k: self._tensor(k, x, _put) for k, x in state.items()}

    def _tensor(self, name: str, x: np.ndarray, move: Callable) -> np.ndarray:
        flat = x.reshape(len(x), -1) if name == "embedding.weight" else x
        return move(flat, self._of(_DIMS, name)).reshape(x.shape)

    def undo_stages(self, out: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the model's intermediates in the usual order."""
        return {k: _put(x, self._of(_STAGES, k)) for k, x in out.items()}

    def image(self, image: np.ndarray) -> np.ndarray:
        """Permute images (b h w c).

        Rows, patches of the grid and pixels of each patch change places.
        """
        (p, q), (b, h, w, c) = self.case.patch_size, image.shape
        x = image.reshape(b, h // p, p, w // q, q, c).transpose(0, 1, 3, 5, 2, 4)
        x = x.reshape(b, (h // p) * (w // q), c * p * q)
        x = _take(x, tuple(self.index[letter] for letter in "BTP"))
        x = x.reshape(b, h // p, w // q, c, p, q).transpose(0, 1, 4, 2, 5, 3)
        return np.ascontiguousarray(x.reshape(image.shape))

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Permute the rows and classes of labels or logits (b c)."""
        return _take(labels, tuple(self.index[letter] for letter in "BC"))

    def undo_labels(self, labels: np.ndarray) -> np.ndarray:
        """Invert `labels`."""
        return _put(labels, tuple(self.index[letter] for letter in "BC"))

    @torch.no_grad()
    def permute(self, model: torch.nn.Module) -> None:
        """Bring a reference model into this order, its fixed posemb included."""
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        for name, x in tensors.items():
            x.copy_(torch.tensor(self._tensor(name, x.numpy(), _take)))

    def whole_rows(self) -> "Order":
        """Return this order for batches of any size, whose rows are not permuted."""
        return dataclasses.replace(self, index={**self.index, "B": None})


def make_order(case: Case, seed: int) -> Order:
    """Draw an order. The batch is only rotated: mixup pairs neighbouring rows."""
    rng = np.random.default_rng([7, seed])
    grid = [s // p for s, p in zip(case.image_size, case.patch_size, strict=True)]
    tokens = rng.permutation(grid[0] * grid[1])
    first = int(case.pool_type == "tok")
    after = first + len(tokens) + np.arange(case.registers)
    head_dim = case.width // case.num_heads
    heads, dims = rng.permutation(case.num_heads), rng.permutation(head_dim)
    h = (heads[:, None] * head_dim + dims).ravel()
    w = rng.permutation(case.width)
    r = rng.permutation(case.rep_size)
    index = {
        "-": None,
        "B": np.roll(np.arange(case.batch_size), 1 + seed % (case.batch_size - 1)),
        "P": rng.permutation(3 * case.patch_size[0] * case.patch_size[1]),
        "T": tokens,
        "S": np.concatenate([np.arange(first), first + tokens, after]),
        "W": w,
        "H": h,
        "Q": np.concatenate([h, case.width + h, 2 * case.width + h]),
        "M": rng.permutation(case.mlp_dim),
        "R": r,
        "F": r if case.rep_size else w,
        "C": rng.permutation(case.num_classes),
    }
    return Order(case, index)


def _take(x: np.ndarray, index: Index) -> np.ndarray:
    for dim, order in enumerate(index):
        if order is not None:
            x = np.take(x, order, axis=dim)
    return x


def _put(x: np.ndarray, index: Index) -> np.ndarray:
    """Invert `_take`."""
    return _take(x, tuple(None if i is None else np.argsort(i) for i in index))
