"""The recipe on torch.optim: mixup, softmax cross-entropy, clip, AdamW, cosine.

A batch is NHWC images and label rows (b, c) that sum to 1.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

TORCH_CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds this to the norm


def mix(x: torch.Tensor, lam: float) -> torch.Tensor:
    """Mix every row with the row before it, cyclically: mixup (arXiv:1710.09412)."""
    return lam * x + (1 - lam) * x.roll(1, dims=0)


def softmax_xent(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean over rows of -sum(labels * log softmax(logits))."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def sigmoid_xent(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean over rows of the binary cross-entropies summed over classes.

    Smoothing mixes each label with the uniform distribution, as for softmax.
    """
    labels = (1 - label_smoothing) * labels + label_smoothing / labels.shape[-1]
    rows = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return rows.sum(dim=-1).mean()


LOSSES = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent}


def warmup_cosine(total_steps: int, warmup_steps: int) -> Callable[[int], float]:
    """Return the multiplier as a function of the step, which starts at 0.

    It rises linearly from 0, then falls along half a cosine to 0.
    """

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return multiplier


def torch_weight_decay(lr: float, wd: float) -> float:
    """Return the weight_decay of torch's AdamW, which multiplies it by lr again."""
    return wd / lr


def decayed(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of linear maps: no bias, norm, position, token or probe."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found.append(module.in_proj_weight)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            found.append(module.weight)
    return found


def l2_norm(tensors, by_halves: bool = False) -> torch.Tensor:
    """Return the norm of all tensors as one vector.

    `by_halves` adds up the squares as torch.sum does, by pairwise summation. torch's
    norm keeps a few running sums: its measured error is 4e-6 for the millions of
    float32 squares of a ViT-S/16. The pairwise error is less than 1e-7.
    """
    if not by_halves:
        return torch.nn.utils.get_total_norm(list(tensors))
    sums = [x.detach().square().sum() for x in tensors]
    return torch.stack(sums).sum().sqrt()


@torch.no_grad()
def clip_(params: list[nn.Parameter], max_norm: float, eps: float) -> None:
    """Scale the gradients by max_norm / (norm + eps) where that is below 1.

    With eps = 1e-6 this is torch's clip_grad_norm_; with 0 the norm is exact.
    """
    scale = max_norm / (l2_norm(p.grad for p in params) + eps)
    if scale < 1:
        for p in params:
            assert p.grad is not None
            p.grad.mul_(scale)


def part_weight(accum_freq: int) -> float:
    """Return the weight of each of `accum_freq` parts' mean loss in the batch's."""
    return 1 / accum_freq


class ReorderedAdamW(torch.optim.AdamW):
    """AdamW summed in another order, to measure the effect of rounding.

    torch decays the parameters first and then adds Adam's update. This class adds both
    first, and divides the moments by their bias corrections before the root and the
    quotient. The corrections are torch's: numbers in float64.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step."""
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                b1, b2 = group["betas"]
                update = self._adam(p, b1, b2, group["eps"])
                p.sub_(group["lr"] * (update + group["weight_decay"] * p))

    def _adam(self, p: torch.Tensor, b1: float, b2: float, eps: float) -> torch.Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(p) for _ in "mv")
        state["step"] += 1
        mu, nu = state["exp_avg"], state["exp_avg_sq"]
        mu.copy_((1 - b1) * p.grad + b1 * mu)
        nu.copy_((1 - b2) * p.grad**2 + b2 * nu)
        c1, c2 = (1 - b ** state["step"] for b in (b1, b2))
        return (mu / c1) / ((nu / c2).sqrt() + eps)


def bias_correction(b: float, step: int, dtype: torch.dtype) -> float:
    """Return 1 - b ** step with `b`, power and difference rounded to `dtype`.

    `step` is 1, 2, ... The rounding of 0.999 to float32, as in optax, is up to 2^-25,
    and the relative error of 1 - 0.999 therefore up to 3e-5. torch computes in float64.
    """
    # Round once: torch's float32 power also rounds intermediate products.
    power = torch.tensor(b, dtype=dtype).double() ** step
    return (1 - power.to(dtype)).item()


class Trainer:
    """AdamW with big_vision's `wd`, which is times the schedule, not times `lr`.

    Args:
      multiplier: the schedule of step 0, 1, ...
      grad_clip_norm: the maximum norm; 0 does not clip.
      clip_eps: as in `clip_`.
      mu_dtype: the dtype in which the first moment is stored between steps. torch's own
        AdamW has no such option.
      mu_decay_dtype: the dtype to which `b1` is rounded before it multiplies the first
        moment. optax uses mu_dtype; in bfloat16, 0.9 is 0.8984375.
      mu_product_dtype: the dtype of that product, if it is not the parameters'.
      accum_freq: the number of parts of each batch, whose gradients are averaged.
      bias_correction_dtype: the dtype of Adam's bias corrections. None is torch's
        float64; optax uses the parameters'.
      reordered: use `ReorderedAdamW`, and norms by halves.
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
        mu_product_dtype: torch.dtype | None = None,
        loss: str = "softmax_xent",
        accum_freq: int = 1,
        bias_correction_dtype: torch.dtype | None = None,
        reordered: bool = False,
    ):
        self.model, self.loss, self.accum_freq = model, LOSSES[loss], accum_freq
        self.params = list(model.parameters())
        self.b1, self.mu_dtype, self.mu_decay_dtype = b1, mu_dtype, mu_decay_dtype
        self.mu_product_dtype = mu_product_dtype
        self.grad_clip_norm, self.clip_eps = grad_clip_norm, clip_eps
        kernels = decayed(model)
        chosen = {id(p) for p in kernels}
        rest = [p for p in self.params if id(p) not in chosen]
        groups = [
            {"params": kernels, "weight_decay": torch_weight_decay(lr, wd)},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.betas, self.eps = (b1, b2), eps
        self.bias_correction_dtype, self.num_updates = bias_correction_dtype, 0
        adamw = ReorderedAdamW if reordered else torch.optim.AdamW
        self.optimizer = adamw(groups, lr=lr, betas=(b1, b2), eps=eps)
        self.norm = functools.partial(l2_norm, by_halves=reordered)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, multiplier)

    def update(self) -> None:
        """Take one step with the gradients that the parameters hold."""
        if self.grad_clip_norm:
            clip_(self.params, self.grad_clip_norm, self.clip_eps)
        if self.mu_decay_dtype is not None:
            b1 = torch.tensor(self.b1, dtype=self.mu_decay_dtype)
            for mu in self._moments():  # AdamW then multiplies by the exact b1
                product = mu * b1.to(mu.dtype)
                if self.mu_product_dtype is not None:
                    product = product.to(self.mu_product_dtype)
                mu.copy_(product.to(mu.dtype) / self.b1)
        self.num_updates += 1
        self._step()
        self.schedule.step()
        if self.mu_dtype is not None:
            for mu in self._moments():
                mu.copy_(mu.to(self.mu_dtype))

    def _step(self) -> None:
        """Take AdamW's step, with the bias corrections in their dtype.

        torch divides by its own corrections, c1 and c2, instead of d1 and d2. With
        r = sqrt(c2 / d2), dividing eps by r and multiplying lr by c1 / (d1 r) gives
        mu / d1 / (sqrt(nu / d2) + eps). torch multiplies the decay by lr, so the decay
        is divided by the factor of lr.
        """
        if self.bias_correction_dtype is None:
            self.optimizer.step()
            return
        at, dtype = self.num_updates, self.bias_correction_dtype
        c1, c2 = (1 - b**at for b in self.betas)
        d1, d2 = (bias_correction(b, at, dtype) for b in self.betas)
        r = math.sqrt(c2 / d2)
        factor = c1 / (d1 * r)
        groups = self.optimizer.param_groups
        kept = [{k: g[k] for k in ("lr", "eps", "weight_decay")} for g in groups]
        for group in groups:
            group["lr"] *= factor
            group["eps"] /= r
            group["weight_decay"] /= factor
        self.optimizer.step()
        for group, old in zip(groups, kept, strict=True):
            group.update(old)

    def _moments(self) -> list[torch.Tensor]:
        return [state["exp_avg"] for state in self.optimizer.state.values()]

    def step(
        self, image: torch.Tensor, labels: torch.Tensor, lam: float = 1.0
    ) -> dict[str, float]:
        """Mix, differentiate and update; return the metrics by big_vision's names."""
        before = [p.detach().clone() for p in self.params]
        self.optimizer.zero_grad()
        images = mix(image, lam).chunk(self.accum_freq)
        rows = mix(labels, lam).chunk(self.accum_freq)
        loss = torch.zeros(())
        for part, label in zip(images, rows, strict=True):
            logits, _ = self.model(part)
            share = self.loss(logits, label) * part_weight(self.accum_freq)
            share.backward()
            loss = loss + share.detach()
        l2_grads = self.norm(p.grad for p in self.params)
        self.update()
        now = [p.detach() for p in self.params]
        metrics = {
            "training_loss": loss,
            "l2_grads": l2_grads,
            "l2_params": self.norm(now),
            "l2_updates": self.norm(a - b for a, b in zip(now, before, strict=True)),
        }
        return {name: value.item() for name, value in metrics.items()}


def counted(mask: torch.Tensor) -> torch.Tensor:
    """Return which rows (b,) of a batch are examples, not padding."""
    return mask > 0


@torch.no_grad()
def evaluate(
    predict: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[Mapping[str, torch.Tensor]],
    loss: str = "softmax_xent",
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return top-1 and top-5 accuracy and the mean loss, and the hits by row.

    The hits (n,) say of each row of all batches whether it is right; padding is not.
    There is one array per accuracy. `predict` maps images to logits (b, c). A batch has
    image, label (b,) and _mask (b,).
    """
    hits: dict[str, list[torch.Tensor]] = {"prec@1": [], "prec@5": []}
    total, seen = 0.0, 0
    for batch in batches:
        rows = counted(batch["_mask"])
        label = batch["label"][rows].long()
        logits = predict(batch["image"][rows])
        top = logits.topk(5, dim=-1).indices == label[:, None]
        for name, hit in (("prec@1", top[:, 0]), ("prec@5", top.any(dim=1))):
            hits[name].append(torch.zeros_like(rows).masked_scatter(rows, hit))
        onehot = F.one_hot(label, logits.shape[-1]).to(logits)
        total += LOSSES[loss](logits, onehot).item() * len(label)
        seen += len(label)
    by_row = {name: torch.cat(found) for name, found in hits.items()}
    means = {name: found.sum().item() / seen for name, found in by_row.items()}
    return {**means, "loss": total / seen}, by_row
