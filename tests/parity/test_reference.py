"""The torch side's own options, which no rung compares with vitjax, by hand or by torch."""

import math

import numpy as np
import pytest
import torch

from parity.reference import train, vit

SMALL = dict(
    num_classes=10,
    image_size=(8, 12),
    patch_size=(4, 4),
    width=16,
    depth=1,
    mlp_dim=32,
    num_heads=2,
)


def test_a_seed_draws_the_same_weights_and_another_others():
    a, b, c = (vit.ViT(seed=seed, **SMALL) for seed in (0, 0, 1))
    assert torch.equal(a.embedding.weight, b.embedding.weight)
    assert not torch.equal(a.embedding.weight, c.embedding.weight)


def trainer(model, **kw):
    kw = {"lr": 1e-3, "wd": 1e-4, "multiplier": train.warmup_cosine(100, 10), **kw}
    return train.Trainer(model, **kw)


def test_clip_with_torchs_epsilon_is_torchs():
    for norm in (0.5, 3.0):
        grads = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
        a, b = (torch.nn.Parameter(torch.zeros(50).double()) for _ in range(2))
        a.grad = grads * (norm / grads.norm())
        b.grad = a.grad.clone()
        train.clip_([a], 1.0, train.TORCH_CLIP_EPS)
        torch.nn.utils.clip_grad_norm_([b], 1.0)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-15, atol=0)
    train.clip_([a], 0.25, 0.0)
    assert a.grad.norm().item() == pytest.approx(0.25, rel=1e-14)


def test_first_moment_rests_and_decays_in_bfloat16():
    """By hand: optax's 0.9 in bfloat16 is 0.8984375, and the product is rounded too."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    (p,) = model.parameters()
    bfloat16 = torch.bfloat16
    steps = trainer(
        model,
        mu_dtype=bfloat16,
        mu_decay_dtype=bfloat16,
        mu_product_dtype=bfloat16,
        wd=0.0,
    )

    def rounded(x):
        return torch.tensor(x, dtype=torch.bfloat16).item()

    mu = 0.0
    for grad in (1.0, 0.3, -0.7):
        p.grad = torch.full_like(p, grad)
        steps.update()
        mu = rounded(rounded(0.8984375 * mu) + 0.1 * grad)
        assert steps.optimizer.state[p]["exp_avg"].item() == mu


def test_reordered_adamw_is_adamw():
    """To rounding, decay included; it has no bias corrections of its own.

    In float32 rounding of small gradients grows to 1e-6 of the updates on some processors.
    """
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        a, b = (vit.ViT(**SMALL).to(dtype) for _ in range(2))
        sides = [trainer(a), trainer(b, reordered=True)]
        image, labels = torch.rand(4, 8, 12, 3).to(dtype), torch.eye(10)[:4].to(dtype)
        for _ in range(4):
            rows = [side.step(image, labels, 0.7) for side in sides]
        assert rows[0]["l2_updates"] == pytest.approx(rows[1]["l2_updates"], rel=close)
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        assert any((x != y).any() for x, y in pairs), "nothing was reordered"


def test_norms_by_halves_are_norms_to_the_last_digits():
    xs = [torch.tensor([3.0, 0.0, 4.0]), torch.full((3, 5), 2.0)]
    assert train.l2_norm(xs, by_halves=True).item() == pytest.approx(85**0.5, rel=1e-7)
    x = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    exact = x.double().square().sum().sqrt().item()
    assert abs(train.l2_norm([x], by_halves=True).item() / exact - 1) < 2e-7
    # torch's own is coarser, and how much depends on the machine.
    assert abs(train.l2_norm([x]).item() / exact - 1) < 1e-4


def test_bias_corrections_in_float32_by_hand():
    """From a moment of 0 the first two updates are known, but for the corrections."""
    p = torch.nn.Linear(1, 1, bias=False).double()
    steps = trainer(p, multiplier=lambda at: 1.0, bias_correction_dtype=torch.float32)
    mu = nu = 0.0
    for at, grad in ((1, 0.5), (2, -0.2), (3, 0.1)):
        before = p.weight.item()
        p.weight.grad = torch.full_like(p.weight, grad)
        steps.update()
        mu, nu = 0.9 * mu + 0.1 * grad, 0.999 * nu + 0.001 * grad**2
        one, b1, b2 = (np.float32(x) for x in (1, 0.9, 0.999))
        c1 = float(one - np.float32(float(b1) ** at))
        c2 = float(one - np.float32(float(b2) ** at))
        update = mu / c1 / (math.sqrt(nu / c2) + 1e-8)
        expected = before - 1e-3 * update - 1e-4 * before
        assert p.weight.item() - before == pytest.approx(expected - before, rel=1e-10)
        exact = mu / (1 - 0.9**at) / (math.sqrt(nu / (1 - 0.999**at)) + 1e-8)
        assert abs(update / exact - 1) > 1e-7


def test_bfloat16_rounds_the_blocks_but_not_the_head():
    model = vit.ViT(**{**SMALL, "head_zeroinit": False}, bfloat16=True)
    _, out = model(torch.rand(2, 8, 12, 3))
    low = {"stem", "block00/attention", "block00/mlp"}
    for name, x in out.items():
        expected = torch.bfloat16 if name in low else torch.float32
        assert x.dtype == expected, name
