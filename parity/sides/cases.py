"""The models that are compared, and the numbers that go into both sides. No torch."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax.trees import flatten_with_names


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and a batch, in terms that both sides understand.

    The default is small, and no two of its sizes that could be confused are equal: its
    grid is 2 x 3, so that a transposition shows. `rep_size` 0 is a linear head.
    """

    width: int = 24
    depth: int = 2
    mlp_dim: int = 40
    num_heads: int = 3
    patch_size: tuple[int, int] = (4, 4)
    image_size: tuple[int, int] = (8, 12)
    posemb: str = "sincos2d"
    pool_type: str = "gap"
    rep_size: int = 20
    registers: int = 0
    gelu: str = "tanh"
    head_zeroinit: bool = True
    num_classes: int = 10
    batch_size: int = 8
    # Both sides'. bfloat16 is for matmuls only, bfloat16_all for the stream too.
    precision: str = "float64"
    num_seeds: int = 64  # seeds per side for the statistics of the initialisation
    num_steps: int = 200  # steps of the trajectory
    num_examples: int = 1797  # the evaluation's: all of scikit-learn's digits
    eval_batch_size: int = 128
    data: str = "digits"  # of the trajectory; "patterns" needs no scikit-learn
    attn_impl: str = "flax"  # vitjax's
    mlp_impl: str = "xla"  # vitjax's

    def model_kwargs(self) -> dict[str, Any]:
        """Return the arguments that vitjax's model and the reference share."""
        rest = {"image_size", "batch_size", "eval_batch_size", "precision"}
        rest |= {"num_seeds", "num_steps", "num_examples", "data"}
        rest |= {"attn_impl", "mlp_impl"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in rest}

    @property
    def dtype(self) -> str:
        """The dtype of parameters, images and losses."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def half(self) -> bool:
        """Whether matmuls are in bfloat16."""
        return self.precision.startswith("bfloat16")

    def shallow(self) -> "Case":
        """Return the case with two blocks at most.

        It is for options that do not touch the blocks.
        """
        return self.but(depth=min(self.depth, 2))

    def but(self, **kw: Any) -> "Case":
        """Return the same case with other values."""
        return dataclasses.replace(self, **kw)

    def label(self) -> str:
        """Return the options as a short text."""
        head = "mlp" if self.rep_size else "linear"
        options = [self.posemb, self.pool_type, head]
        options += [f"registers={self.registers}"] if self.registers else []
        options += [f"gelu={self.gelu}"] if self.gelu != "tanh" else []
        return " ".join(options)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer in terms that both sides understand; rates are the flagship's."""

    lr: float = 1e-3
    wd: float = 1e-4
    total_steps: int = 12
    warmup_steps: int = 3
    grad_clip_norm: float = 1.0
    mu_dtype: str | None = None  # None: the parameters'


@dataclasses.dataclass(frozen=True)
class Layout:
    """The devices of a step, their parameters' sharding, and microbatches on each."""

    num_devices: int = 1
    accum_freq: int = 1
    sharding: str = "replicate"


def variant_case(variant: str, batch_size: int = 2) -> Case:
    """Return the case of a named size ("S/16") on images of 14 x 14 patches.

    The options are the flagship's.
    """
    from vitjax.models import vit

    model = vit.Model(10, variant)
    rows, columns = model.patch_size
    return Case(
        width=model.width,
        depth=model.depth,
        mlp_dim=model.mlp_dim or 4 * model.width,
        num_heads=model.num_heads,
        patch_size=model.patch_size,
        image_size=(14 * rows, 14 * columns),
        rep_size=model.width,
        batch_size=batch_size,
        num_seeds=8,
        num_steps=30,
        num_examples=50,
        eval_batch_size=16,
    )


def random_params(shapes: Any, seed: int = 0) -> dict[str, Any]:
    """Return float64 parameters of these shapes; none is zero, one or symmetric.

    Neither side's initialisation is used: a zero head would hide everything before it.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    for name, leaf in flatten_with_names(shapes):
        value = rng.standard_normal(leaf.shape)
        if name.endswith("/scale"):
            value = 1 + 0.1 * value
        elif name.endswith("/bias"):
            value = 0.1 * value
        elif name.endswith("/kernel"):
            heads_out = name.endswith(("query/kernel", "key/kernel", "value/kernel"))
            ins = leaf.shape[:1] if heads_out else leaf.shape[:-1]
            value /= np.sqrt(np.prod(ins))
        leaves[name] = value
    return unflatten_dict(leaves, sep="/")


def random_gradients(shapes: Any, at: int) -> dict[str, Any]:
    """Return synthetic gradients of step `at`.

    Their global norm is 3 at even steps and 0.5 at odd ones. Clipping to 1 therefore
    acts on every other step, which also changes Adam's moments.
    """
    leaves = dict(flatten_with_names(random_params(shapes, seed=100 + at)))
    norm = np.sqrt(sum(np.sum(x**2) for x in leaves.values()))
    scale = (0.5 if at % 2 else 3.0) / norm
    return unflatten_dict({k: v * scale for k, v in leaves.items()}, sep="/")


def random_batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return images (b h w 3), uniform in [-1, 1], and one-hot rows (b c)."""
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (case.batch_size, *case.image_size, 3))
    label = rng.integers(0, case.num_classes, case.batch_size)
    return image.astype(case.dtype), np.eye(case.num_classes, dtype=case.dtype)[label]


@functools.cache
def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


def _digit_images(case: Case, chosen: np.ndarray) -> np.ndarray:
    """Return digits in [-1, 1], enlarged by an integer, at the image's top left."""
    factor = min(case.image_size) // 8
    image = _digits().images[chosen] / 8 - 1
    image = image.repeat(factor, axis=1).repeat(factor, axis=2)
    rows, columns = (s - 8 * factor for s in case.image_size)
    image = np.pad(image, ((0, 0), (0, rows), (0, columns)), constant_values=-1)
    return np.repeat(image[..., None], 3, axis=-1).astype(case.dtype)


def train_batches(case: Case, num_steps: int) -> list[Any]:
    """Return the `num_steps` batches of a training, in the form of `random_batch`'s."""
    make = {"digits": digit_batches, "patterns": pattern_batches}[case.data]
    return make(case, num_steps)


def pattern_batches(case: Case, num_steps: int) -> list[Any]:
    """Return batches of a random pattern for each class, under as much noise."""
    rng = np.random.default_rng(4)
    shape = (*case.image_size, 3)
    patterns = rng.uniform(-0.5, 0.5, (case.num_classes, *shape))
    batches = []
    for _ in range(num_steps):
        label = rng.integers(0, case.num_classes, case.batch_size)
        noise = rng.uniform(-0.5, 0.5, (case.batch_size, *shape))
        labels = np.eye(case.num_classes, dtype=case.dtype)[label]
        batches.append(((patterns[label] + noise).astype(case.dtype), labels))
    return batches


def digit_batches(case: Case, num_steps: int) -> list[Any]:
    """Return `num_steps` batches of scikit-learn's handwritten digits.

    Each has the form of `random_batch`'s.
    """
    target = _digits().target
    rng = np.random.default_rng(2)
    batches = []
    for _ in range(num_steps):
        chosen = rng.choice(len(target), case.batch_size, replace=False)
        labels = np.eye(case.num_classes, dtype=case.dtype)[target[chosen]]
        batches.append((_digit_images(case, chosen), labels))
    return batches


def padded_batches(case: Case) -> Iterator[dict[str, np.ndarray]]:
    """Yield the digits in order, with integer labels; zeros pad the last batch.

    `_mask` is 1 for a digit and 0 for padding, whose label is 0 too.
    """
    size = case.eval_batch_size
    for start in range(0, case.num_examples, size):
        chosen = np.arange(start, min(start + size, case.num_examples))
        batch = {
            "image": _digit_images(case, chosen),
            "label": _digits().target[chosen].astype(np.int32),
            "_mask": np.ones(len(chosen), np.float32),
        }
        missing = size - len(chosen)
        yield {
            k: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
            for k, x in batch.items()
        }
