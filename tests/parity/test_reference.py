"""The torch side against hand computations, the papers' figures and torch itself."""

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
S16 = dict(
    num_classes=1000,
    image_size=(224, 224),
    patch_size=(16, 16),
    width=384,
    depth=12,
    mlp_dim=1536,
    num_heads=6,
)


def test_sincos2d_values():
    table = vit.sincos2d(2, 3, 8)[0].numpy()
    sin, cos = math.sin(1), math.cos(1)
    slow_sin, slow_cos = math.sin(1e-4), math.cos(1e-4)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_allclose(table[1], [sin, slow_sin, cos, slow_cos, 0, 0, 1, 1])
    np.testing.assert_allclose(table[3], [0, 0, 1, 1, sin, slow_sin, cos, slow_cos])


@pytest.mark.parametrize(
    ("rep_size", "params", "decayed"),
    [(384, 22_122_472, 22_060_032), (0, 21_974_632, 0)],
)
def test_s16_has_big_visions_parameters(rep_size, params, decayed):
    model = vit.ViT(rep_size=rep_size, **S16)
    assert sum(p.numel() for p in model.parameters()) == params
    if decayed:
        kernels = train.decayed(model)
        assert sum(p.numel() for p in kernels) == decayed
        assert len(kernels) == 3 + 12 * 4  # with in_proj as three: 75 leaves


def test_first_loss_is_the_logarithm_of_the_number_of_classes():
    model = vit.ViT(**SMALL)
    logits, _ = model(torch.rand(4, 8, 12, 3))
    loss = train.softmax_xent(logits, torch.eye(10)[:4])
    assert loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_initial_deviations_and_limits():
    model = vit.ViT(**{**SMALL, "width": 192, "mlp_dim": 768, "patch_size": (2, 4)})
    stem = model.embedding.weight
    fan_in = 2 * 4 * 3
    assert stem.std().item() == pytest.approx(fan_in**-0.5, rel=0.03)
    limit = 2 * fan_in**-0.5 / 0.87962566103423978
    assert 0.98 * limit < stem.abs().max().item() <= limit
    block = model.blocks[0]
    attention = block.attention
    for weight, limit in (
        (attention.in_proj_weight, math.sqrt(3 / 192)),
        (attention.out_proj.weight, math.sqrt(3 / 192)),
        (block.mlp.fc1.weight, math.sqrt(6 / 960)),
        (block.mlp.fc2.weight, math.sqrt(6 / 960)),
    ):
        assert 0.999 * limit < weight.abs().max().item() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert block.mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.1)
    zeros = (attention.in_proj_bias, attention.out_proj.bias, model.head.weight)
    assert all(torch.count_nonzero(x) == 0 for x in zeros)


def test_a_seed_draws_the_same_weights_and_another_others():
    a, b, c = (vit.ViT(seed=seed, **SMALL) for seed in (0, 0, 1))
    assert torch.equal(a.embedding.weight, b.embedding.weight)
    assert not torch.equal(a.embedding.weight, c.embedding.weight)


def test_schedule_values():
    s = train.warmup_cosine(total_steps=6, warmup_steps=2)
    expected = [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]
    np.testing.assert_allclose([s(i) for i in range(7)], expected, atol=1e-6)
    s = train.warmup_cosine(total_steps=111_477, warmup_steps=10_000)
    assert [s(0), s(1), s(5000), s(10_000)] == [0, 1e-4, 0.5, 1]
    assert s(60_000) == pytest.approx(0.51143, abs=1e-5)
    assert 0 < s(111_476) < 1e-9


def trainer(model, **kw):
    kw = {"lr": 1e-3, "wd": 1e-4, "multiplier": train.warmup_cosine(100, 10), **kw}
    return train.Trainer(model, **kw)


def test_decay_follows_the_schedule_but_not_the_rate():
    """With zero gradients: -1e-5 and -2e-5 of the kernel at the second and third step."""
    model = vit.ViT(**{**SMALL, "head_zeroinit": False}).double()
    with torch.no_grad():
        model.embedding.bias.fill_(1.0)
    steps = trainer(model)
    for count in range(3):
        before = model.head.weight.detach().clone()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        steps.update()
        change = (model.head.weight.detach() - before) / before
        expected = torch.full_like(change, -1e-5 * count)
        torch.testing.assert_close(change, expected, rtol=1e-9, atol=1e-15)
    assert torch.all(model.embedding.bias == 1)


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


def test_losses_by_hand():
    logits = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    labels = np.array([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    exp = np.exp(logits)
    log_softmax = np.log(exp / exp.sum(axis=1, keepdims=True))
    smooth = 0.9 * labels + 0.1 / 3
    softmax = train.softmax_xent(torch.tensor(logits), torch.tensor(labels), 0.1)
    assert softmax.item() == pytest.approx(-(smooth * log_softmax).sum() / 2)
    p = exp / (1 + exp)
    rows = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1)
    sigmoid = train.sigmoid_xent(torch.tensor(logits), torch.tensor(labels))
    assert sigmoid.item() == pytest.approx(rows.mean())


def test_mixup_partner_is_the_row_before():
    mixed = train.mix(torch.eye(3), 0.75)
    expected = [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]
    assert mixed.tolist() == expected


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


def test_microbatches_make_the_same_step():
    rows = []
    for accum_freq in (1, 2, 4):
        model = vit.ViT(**{**SMALL, "head_zeroinit": False}).double()
        image = torch.rand(4, 8, 12, 3, generator=torch.Generator().manual_seed(0))
        steps = trainer(model, accum_freq=accum_freq)
        rows.append(steps.step(image.double(), torch.eye(10)[:4].double(), 0.7))
    for row in rows[1:]:
        assert row == pytest.approx(rows[0], rel=1e-12)


def test_evaluation_by_hand_leaves_out_what_fills_up():
    """4 examples and 2 rows of padding, which would count as right."""
    logits = torch.eye(10)[[3, 0, 5, 6, 0, 0]] * 4 - torch.arange(10) / 100
    logits[1, 1:] = torch.arange(9) / 10 + 5  # 0 is the last of ten
    batch = {
        "image": logits,
        "label": torch.tensor([3, 0, 9, 6, 0, 0]),
        "_mask": torch.tensor([1.0, 1, 1, 1, 0, 0]),
    }
    found, hits = train.evaluate(lambda x: x, [batch])
    assert hits["prec@1"].tolist() == [True, False, False, True, False, False]
    assert found["prec@1"] == 0.5
    assert found["prec@5"] == 0.5
    p = torch.log_softmax(logits[:4], dim=-1)
    expected = -(p[0, 3] + p[1, 0] + p[2, 9] + p[3, 6]) / 4
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_bfloat16_rounds_the_blocks_but_not_the_head():
    model = vit.ViT(**{**SMALL, "head_zeroinit": False}, bfloat16=True)
    _, out = model(torch.rand(2, 8, 12, 3))
    low = {"stem", "block00/attention", "block00/mlp"}
    for name, x in out.items():
        expected = torch.bfloat16 if name in low else torch.float32
        assert x.dtype == expected, name
