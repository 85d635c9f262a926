"""The reference recipe on torch.optim: mixup, softmax cross-entropy, clip, AdamW, cosine.

It eats the batches that it is given: NHWC images and label rows (b, c) that sum to 1.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

TORCH_CLIP_EPS = 1e-6  # what torch.nn.utils.clip_grad_norm_ adds to the norm


def mix(x: torch.Tensor, lam: float) -> torch.Tensor:
    """mixup (arXiv:1710.09412) of every row with the row before it, cyclically."""
    return lam * x + (1 - lam) * x.roll(1, dims=0)


def softmax_xent(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean over rows of -sum(labels * log softmax(logits))."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def sigmoid_xent(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean over rows of the sum over classes of the binary cross-entropies.

    Smoothing mixes each label with the uniform distribution, as for softmax.
    """
    labels = (1 - label_smoothing) * labels + label_smoothing / labels.shape[-1]
    rows = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return rows.sum(dim=-1).mean()


LOSSES = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent}


def warmup_cosine(total_steps: int, warmup_steps: int) -> Callable[[int], float]:
    """The multiplier of step 0, 1, ...: linear from 0, then half a cosine down to 0."""

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return multiplier


def torch_weight_decay(lr: float, wd: float) -> float:
    """What AdamW must be given, since it multiplies its weight_decay by lr again."""
    return wd / lr


def decayed(model: nn.Module) -> list[nn.Parameter]:
    """The matrices of linear maps; no bias, norm, position, token or probe."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found.append(module.in_proj_weight)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            found.append(module.weight)
    return found


def l2_norm(tensors) -> torch.Tensor:
    """The norm of all tensors taken as one vector."""
    return torch.nn.utils.get_total_norm(list(tensors))


@torch.no_grad()
def clip_(params: list[nn.Parameter], max_norm: float, eps: float) -> None:
    """Scale the gradients by max_norm / (norm + eps) where that is below 1.

    With eps = 1e-6 this is torch's clip_grad_norm_; with 0 it is the exact norm.
    """
    scale = max_norm / (l2_norm(p.grad for p in params) + eps)
    if scale < 1:
        for p in params:
            assert p.grad is not None
            p.grad.mul_(scale)


class Trainer:
    """AdamW as big_vision's recipe has it: `wd` is times the schedule, not times `lr`.

    `multiplier` gives the schedule of step 0, 1, ... `grad_clip_norm` 0 does not clip;
    `clip_eps` as in `clip_`. `mu_dtype` is the type in which the first moment rests
    between steps (torch's own AdamW has no such choice), `mu_decay_dtype` the one in
    which it is multiplied by `b1`, itself rounded: optax uses mu_dtype, and in bfloat16
    0.9 is 0.8984375.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        wd: float,
        multiplier: Callable[[int], float],
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        grad_clip_norm: float = 0.0,
        clip_eps: float = 0.0,
        mu_dtype: torch.dtype | None = None,
        mu_decay_dtype: torch.dtype | None = None,
        loss: str = "softmax_xent",
    ):
        self.model, self.loss = model, LOSSES[loss]
        self.params = list(model.parameters())
        self.b1, self.mu_dtype, self.mu_decay_dtype = b1, mu_dtype, mu_decay_dtype
        self.grad_clip_norm, self.clip_eps = grad_clip_norm, clip_eps
        kernels = decayed(model)
        chosen = {id(p) for p in kernels}
        rest = [p for p in self.params if id(p) not in chosen]
        groups = [
            {"params": kernels, "weight_decay": torch_weight_decay(lr, wd)},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(b1, b2), eps=eps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, multiplier)

    def update(self) -> None:
        """One step from the gradients that the parameters hold."""
        if self.grad_clip_norm:
            clip_(self.params, self.grad_clip_norm, self.clip_eps)
        if self.mu_decay_dtype is not None:
            b1 = torch.tensor(self.b1, dtype=self.mu_decay_dtype)
            for mu in self._moments():  # AdamW is about to multiply by the exact b1
                product = mu.to(self.mu_decay_dtype) * b1
                mu.copy_(product.to(mu.dtype) / self.b1)
        self.optimizer.step()
        self.schedule.step()
        if self.mu_dtype is not None:
            for mu in self._moments():
                mu.copy_(mu.to(self.mu_dtype))

    def _moments(self) -> list[torch.Tensor]:
        return [state["exp_avg"] for state in self.optimizer.state.values()]

    def step(
        self, image: torch.Tensor, labels: torch.Tensor, lam: float = 1.0
    ) -> dict[str, float]:
        """Mix, forward, backward, update; the metrics under big_vision's names."""
        before = [p.detach().clone() for p in self.params]
        self.optimizer.zero_grad()
        logits, _ = self.model(mix(image, lam))
        loss = self.loss(logits, mix(labels, lam))
        loss.backward()
        l2_grads = l2_norm(p.grad for p in self.params)
        self.update()
        now = [p.detach() for p in self.params]
        metrics = {
            "training_loss": loss.detach(),
            "l2_grads": l2_grads,
            "l2_params": l2_norm(now),
            "l2_updates": l2_norm(a - b for a, b in zip(now, before, strict=True)),
        }
        return {name: value.item() for name, value in metrics.items()}
