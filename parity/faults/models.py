"""The faults that parity.faults.self_test plants in the torch side."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from parity.faults.self_test import DRAWS, Mutation
from parity.reference import train, vit
from parity.rungs import ladder


def _model_with(**changes: Any) -> Callable[..., vit.ViT]:
    make = vit.ViT
    return lambda **kw: make(**{**kw, **changes})


def _fused_xavier_(attention: nn.MultiheadAttention, generator: Any) -> None:
    # torch draws one matrix of 3 d rows, hence a bound smaller by sqrt(2).
    nn.init.xavier_uniform_(attention.in_proj_weight, generator=generator)
    nn.init.xavier_uniform_(attention.out_proj.weight, generator=generator)
    nn.init.zeros_(attention.in_proj_bias)
    nn.init.zeros_(attention.out_proj.bias)


def _untruncated_(weight: torch.Tensor, generator: Any) -> None:
    nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)


def _swapped_sincos2d(height: int, width: int, dim: int) -> torch.Tensor:
    sin_x, cos_x, sin_y, cos_y = _sincos2d(height, width, dim).chunk(4, dim=-1)
    return torch.cat([sin_y, cos_y, sin_x, cos_x], dim=-1)


def _post_ln(self: Any, x: torch.Tensor, out: dict, name: str) -> torch.Tensor:
    out[f"{name}/attention"], _ = self.attention(x, x, x, need_weights=False)
    out[f"{name}/+attention"] = x = self.norm1(x + out[f"{name}/attention"])
    out[f"{name}/mlp"] = self.mlp(x)
    out[f"{name}/+mlp"] = x = self.norm2(x + out[f"{name}/mlp"])
    return x


def _early_warmup(total_steps: int, warmup_steps: int) -> Callable[[int], float]:
    multiplier = _warmup_cosine(total_steps, warmup_steps)

    def early(step: int) -> float:
        inside = step < warmup_steps
        return (step + 1) / warmup_steps if inside else multiplier(step)

    return early


class _ClipAfterAdam(train.Trainer):
    """A trainer that clips Adam's updates instead of its gradients."""

    def update(self) -> None:
        """Run Adam on the raw gradients; scale the update if above the maximum norm."""
        max_norm, self.grad_clip_norm = self.grad_clip_norm, 0.0
        before = [p.detach().clone() for p in self.params]
        multiplier = self.schedule.get_last_lr()[0]
        super().update()
        self.grad_clip_norm = max_norm
        if not max_norm or not multiplier:
            return
        pairs = list(zip(self.params, before, strict=True))
        norm = train.l2_norm((p.detach() - old) / multiplier for p, old in pairs)
        with torch.no_grad():
            for p, old in pairs:
                p.copy_(old + (p - old) * min(1.0, max_norm / norm.item()))


def _sigmoid_mean(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> Any:
    return _sigmoid_xent(logits, labels, smoothing) / logits.shape[-1]


def _decayed_tokens(model: vit.ViT) -> list[nn.Parameter]:
    ends = ("pos_embedding", "cls", "probe")
    named = model.named_parameters()
    return _decayed(model) + [p for name, p in named if name.endswith(ends)]


def _pooled_register(x: torch.Tensor, first: int, num_patches: int) -> torch.Tensor:
    # With registers, shift by one: the first register replaces the first patch.
    first += x.shape[1] > first + num_patches
    return x[:, first : first + num_patches]


def _exchanged(predict: Any, batches: Any, loss: str = "softmax_xent") -> Any:
    """Exchange the images of a right and a wrong example of the same class.

    Every mean stays the same.
    """
    batches = list(batches)
    image, label, mask = (
        torch.cat([batch[key] for batch in batches])
        for key in ("image", "label", "_mask")
    )
    right = _evaluate(predict, batches, loss)[1]["prec@1"]
    wrong = ~right & (mask > 0)
    pairs = (label[:, None] == label) & right[:, None] & wrong
    for i, j in pairs.nonzero()[:1].tolist():
        image[[i, j]] = image[[j, i]]
    images = image.split([len(batch["image"]) for batch in batches])
    changed = [{**b, "image": x} for b, x in zip(batches, images, strict=True)]
    return _evaluate(predict, changed, loss)


_decayed = train.decayed
_sincos2d, _warmup_cosine = vit.sincos2d, train.warmup_cosine
_sigmoid_xent, _evaluate = train.sigmoid_xent, train.evaluate

MUTATIONS = (
    Mutation(
        "xavier bound of the fused in_proj",
        ("initialisation",),
        vit,
        "init_attention_",
        _fused_xavier_,
    ),
    Mutation(
        "untruncated normal",
        ("initialisation",),
        vit,
        "lecun_normal_",
        _untruncated_,
    ),
    Mutation(
        "truncation not corrected for",
        ("initialisation",),
        vit,
        "TRUNCATED_STD",
        1.0,
        DRAWS,
    ),
    Mutation(
        "exact GELU for tanh",
        ("forward", "gradients", "trajectory"),
        vit,
        "ViT",
        _model_with(gelu="exact"),
    ),
    Mutation(
        "LayerNorm eps 1e-5",
        ("forward", "gradients", "trajectory"),
        vit,
        "ViT",
        _model_with(eps=1e-5),
    ),
    Mutation(
        "post-LN for pre-LN",
        ("forward", "gradients", "trajectory"),
        vit.EncoderBlock,
        "forward",
        _post_ln,
    ),
    Mutation(
        "x and y swapped in sincos2d", ("forward",), vit, "sincos2d", _swapped_sincos2d
    ),
    Mutation(
        "H and W transposed",
        ("forward",),
        vit,
        "to_nchw",
        lambda image: image.permute(0, 3, 2, 1),
    ),
    Mutation(
        "a register among the pooled tokens",
        ("forward",),
        vit,
        "patch_tokens",
        _pooled_register,
    ),
    Mutation(
        "mixup with the next row",
        ("loss", "gradients", "trajectory"),
        train,
        "mix",
        lambda x, lam: lam * x + (1 - lam) * x.roll(-1, dims=0),
    ),
    Mutation(
        "sigmoid loss averaged over classes",
        ("loss",),
        train,
        "LOSSES",
        {**train.LOSSES, "sigmoid_xent": _sigmoid_mean},
    ),
    Mutation(
        "decay multiplied by lr",
        ("update", "trajectory"),
        train,
        "torch_weight_decay",
        lambda lr, wd: wd,
    ),
    Mutation(
        "decay on biases",
        ("update", "trajectory"),
        train,
        "decayed",
        lambda model: list(model.parameters()),
    ),
    Mutation(
        "decay on positions, class token and probe",
        ("update", "trajectory"),
        train,
        "decayed",
        _decayed_tokens,
    ),
    Mutation(
        "warm-up from 1 / warmup_steps",
        ("update", "trajectory"),
        train,
        "warmup_cosine",
        _early_warmup,
    ),
    Mutation(
        "clip after Adam",
        ("update", "trajectory"),
        train,
        "Trainer",
        _ClipAfterAdam,
    ),
    Mutation(
        "microbatches summed, not averaged",
        ("devices",),
        train,
        "part_weight",
        lambda accum_freq: 1.0,
    ),
    Mutation(
        "mean over padded rows",
        ("evaluation",),
        train,
        "counted",
        lambda mask: torch.ones_like(mask) > 0,
    ),
    Mutation(
        "two examples exchanged, no mean changed",
        ("evaluation",),
        train,
        "evaluate",
        _exchanged,
    ),
)


def faults(names: Iterable[str]) -> list[Mutation]:
    """Return the faults that concern some of these rungs."""
    names = set(names)
    known = [*MUTATIONS]
    if any(ladder.RUNGS[name].pixels for name in names):
        from parity.faults import pixels  # imports TensorFlow

        known += pixels.MUTATIONS
    return [fault for fault in known if names & set(fault.rungs)]
