"""Compare parity/README.md with the code: figures with a dagger, and names of tests."""

import re
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import torch

from input_pipeline import randaug
from input_pipeline.randaug import torchvision_ops as tv
from parity.faults import models, self_test
from parity.faults.models import faults
from parity.faults.pixels import FACTORS
from parity.reference import crops, train, vit
from parity.reference.vit import TRUNCATED_STD
from parity.rungs import ladder, pixels
from parity.rungs.distributions import distance, noise
from parity.sides.cases import Case, digit_batches
from tests.helpers.photographs import encode, run
from vitjax.config.durations import steps
from vitjax.devices.sharding import batch_sharding
from vitjax.step import mixup
from vitjax.tools.compare_runs import welch

ROOT = Path(__file__).parents[2]
LEDGER = (ROOT / "parity" / "README.md").read_text()
PHOTOGRAPHS = sklearn.datasets.load_sample_images().images
SQUARES = [image[:, 100:527] for image in PHOTOGRAPHS]
SMALL = [
    np.asarray(PIL.Image.fromarray(x).resize((224, 224), PIL.Image.Resampling.BILINEAR))
    for x in SQUARES
]


def arrays(images):
    return np.stack([np.asarray(image, float) for image in images])


def difference(a, b):
    """(mean, largest, share in %) of |a - b| over all values."""
    d = np.abs(arrays(a) - arrays(b))
    return d.mean(), int(d.max()), 100 * (d > 0).mean()


def moved(name, argument, other):
    """The share of pixels, in %, in which an op differs from PIL's."""
    ours = [randaug.OPS[name](x, argument) for x in SMALL]
    theirs = [other(x) for x in SMALL]
    return 100 * (arrays(ours) != arrays(theirs)).any(axis=-1).mean()


def test_decoding():
    files = [encode(image, quality=90) for image in PHOTOGRAPHS]
    ours, precise = (
        [run(spec, file) for file in files]
        for spec in ("decode", "decode(precise=True)")
    )
    mean, largest, share = difference(ours, precise)
    line = f"quality 90: mean {mean:.2f}, at most {largest} levels; {share:.0f} % of"
    assert line in LEDGER


def test_resizing():
    plain = [run("resize(224)", x) for x in SQUARES]
    smooth = [run("resize(224, antialias=True)", x) for x in SQUARES]
    mean, largest, _ = difference(plain, smooth)
    assert f"427 -> 224: mean {mean:.1f}, at most {largest} levels†" in LEDGER
    mean, largest, _ = difference(smooth, SMALL)
    darker = (arrays(SMALL) - arrays(smooth)).mean()
    assert (
        f"427 -> 224: mean {mean:.2f}, at most {largest} level; darker by {darker:.2f}†"
    ) in LEDGER
    area = [run("resize_small(256)", x) for x in PHOTOGRAPHS]
    spec = "resize_small(256, method='bilinear', antialias=True)"
    mean, largest, _ = difference(area, [run(spec, x) for x in PHOTOGRAPHS])
    assert f"side 427 -> 256: mean {mean:.1f}, at most {largest} levels†" in LEDGER


def test_shapes_of_the_evaluation():
    """torchvision's Resize(256) and CenterCrop(224) as its documentation has them."""
    sides = np.arange(100, 801)
    h, w = np.meshgrid(sides, sides)
    h, w = h[h != w], w[h != w]
    small, large = np.minimum(h, w), np.maximum(h, w)
    rounded = np.round(large * (np.float32(256) / small.astype(np.float32)))
    truncated = 256 * large // small
    far = rounded - truncated
    assert set(far) == {0, 1}
    assert f"one pixel for {100 * far.mean():.0f} % of shapes†" in LEDGER
    ours = (rounded.astype(int) - 224) // 2
    theirs = np.round((truncated - 224) / 2)
    assert np.abs(ours - theirs).max() == 1
    share = 100 * (ours != theirs).mean()
    assert f"one pixel for {share:.0f} % of the same shapes†" in LEDGER


def test_contrast():
    legacy = [randaug.OPS["Contrast"](x, 1.9) for x in SMALL]
    fixed = [randaug.OPS["Contrast"](x, 1.9, contrast="fixed") for x in SMALL]
    mean, largest, _ = difference(legacy, fixed)
    assert f"factor 1.9: mean {mean:.0f}, at most {largest} levels†" in LEDGER


def test_warps():
    found = {
        "Rotate": moved("Rotate", 30.0, lambda x: tv.rotate(x, 30.0, fill=128)),
        "ShearX": moved("ShearX", 0.3, lambda x: tv.shear_x(x, 0.3, fill=128)),
        "ShearY": moved("ShearY", 0.3, lambda x: tv.shear_y(x, 0.3, fill=128)),
        # A positive argument moves the other way.
        "X": moved("TranslateX", 100.0, lambda x: tv.translate_x(x, -100, fill=128)),
        "Y": moved("TranslateY", 100.0, lambda x: tv.translate_y(x, -100, fill=128)),
    }
    assert found["Rotate"] == found["X"] == found["Y"] == 0
    assert (
        "Rotate, TranslateX, TranslateY: none; "
        f"ShearX {found['ShearX']:.1f} %, ShearY {found['ShearY']:.1f} % of pixels†"
    ) in LEDGER


def test_fill():
    white = np.full((224, 224, 3), 255, np.uint8)
    shares = {
        name: 100 * np.mean(np.asarray(randaug.OPS[name](white, argument)) == 128)
        for name, argument in (("Rotate", 30.0), ("ShearX", 0.3), ("TranslateX", 100.0))
    }
    assert (
        f"Rotate 30°: {shares['Rotate']:.0f} %, ShearX 0.3: {shares['ShearX']:.0f} %, "
        f"TranslateX 100: {shares['TranslateX']:.0f} % of 224 x 224†"
    ) in LEDGER


def test_enhancers():
    for name in ("Sharpness", "Color", "Contrast", "Brightness"):
        kwargs = {"contrast": "fixed"} if name == "Contrast" else {}
        ours = [randaug.OPS[name](x, 1.9, **kwargs) for x in SMALL]
        theirs = [getattr(tv, name.lower())(x, 1.9) for x in SMALL]
        _, largest, _ = difference(ours, theirs)
        assert largest == (0 if name == "Brightness" else 1)
    assert "Color and (fixed) Contrast at most 1 level†; Brightness none" in LEDGER


def test_numbers_without_images():
    x = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    gelu = torch.nn.functional.gelu
    largest = (gelu(x) - gelu(x, approximate="tanh")).abs().max().item()
    assert f"{largest:.1e} at most in one activation†".replace("e-0", "e-") in LEDGER
    assert f"deviation x {TRUNCATED_STD:.4f}†" in LEDGER
    config = {"total_epochs": 90}
    ours = steps("total", config, data_size=1_281_167, batch_size=1024)
    theirs = 90 * (1_281_167 // 1024)
    assert f"{ours:,}†" in LEDGER
    assert f"{theirs:,}†" in LEDGER
    assert f"{ours - theirs} steps" in LEDGER
    assert f"{76.38 * 49 * 1024 / 50_000:.2f} = 76.38 · 49 · 1024 / 50,000†" in LEDGER
    three = np.array([-0.07, 0.0, 0.07])
    assert np.std(three, ddof=1) == pytest.approx(0.07)
    assert f"the interval is ± {welch(three, three, 0.05).half:.2f}" in LEDGER
    assert f"0.9 to bfloat16, {float(torch.tensor(0.9).bfloat16()):.4f}" in LEDGER


def trained(seed, learned):
    """50 losses of the small model with one register, and the last class token."""
    case = Case(pool_type="tok", registers=1, rep_size=0)
    kwargs = {"image_size": case.image_size, "seed": seed}
    model = vit.ViT(**kwargs, **case.model_kwargs()).double()
    if not learned:
        model.cls.register_hook(torch.zeros_like)
    schedule = train.warmup_cosine(50, 8)
    recipe = {"lr": 1e-3, "wd": 1e-4, "multiplier": schedule, "grad_clip_norm": 1.0}
    trainer = train.Trainer(model, **recipe)
    rows = [
        trainer.step(torch.tensor(image), torch.tensor(labels))
        for image, labels in digit_batches(case, 50)
    ]
    return np.array([row["training_loss"] for row in rows]), model.cls.detach()


def test_constant_class_token():
    learned, token = trained(0, learned=True)
    constant, zero = trained(0, learned=False)
    other, _ = trained(1, learned=True)
    assert zero.norm() == 0
    apart, seeds = (np.abs(learned - x).max() for x in (constant, other))
    assert (
        f"at most {apart:.3f} apart†, by another seed of the initialisation "
        f"{seeds:.3f}†; the learned token's norm is then {token.norm():.3f}†"
    ) in LEDGER


def test_folded_lambda():
    """Mix random rows by vitjax's lambdas and by unfolded ones."""
    keys = jax.random.split(jax.random.key(0), 2000)
    folded = np.asarray(jax.vmap(lambda key: mixup.sample_lambda(key, 0.2))(keys))
    rng = np.random.default_rng(0)
    plain = rng.beta(0.2, 0.2, 2000)
    own, partner = rng.random((2, 2000))
    a, b = (lam * own + (1 - lam) * partner for lam in (folded, plain))
    assert f"KS distance {distance(a, b):.3f}†, noise up to {noise(2000):.3f}" in LEDGER
    assert f"lambda itself {distance(folded, plain):.2f}†" in LEDGER


def test_scope_of_partners():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.device_put(np.arange(1024), batch_sharding(mesh))
    pairs = [np.asarray(mixup.partners(rows, mesh, s)) for s in mixup.SCOPES]
    others = (pairs[0] != pairs[1]).sum()
    assert f"8 devices at 1024: another partner for {others} rows† of" in LEDGER


def test_greatest_aspect_ratio():
    def ratios(most):
        equal = torch.Generator().manual_seed(0)
        box = crops.boxes(20_000, 375, 500, (0.05, 1.0), (0.75, most), equal)
        return (box[:, 3] / box[:, 2]).numpy()

    apart = distance(ratios(1.33), ratios(4 / 3))
    assert f"crops' ratios {apart:.4f}† (375 x 500, 20,000 equal draws" in LEDGER
    assert f"other draws: up to {noise(20_000):.3f})" in LEDGER


def test_every_reason_and_factor_is_there():
    text = " ".join(LEDGER.split())
    for what, why in pixels.REASONS.items():
        assert f"- {what}: {why}." in text
    for rung, factor in FACTORS.items():
        assert f"{rung} {factor:g}" in text
    assert self_test.Mutation("", (), None, "", None).factor == 1e3
    lower = {m.title: m.factor for m in models.MUTATIONS if m.factor != 1e3}
    assert lower == {"truncation not corrected for": 100}
    assert "by 1e3 bounds in float64, by 100 for the truncation of the init" in text


def test_every_dagger_is_accounted_for():
    """Another number of them means that a figure is new or gone: test it here."""
    tables = LEDGER[LEDGER.index("## The model") :]
    assert tables.count("†") == 23


def test_tests_and_faults_that_it_names_exist():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", LEDGER))
    assert len(named) > 20
    for name in named:
        assert f"def {name}(" in tests, name
    for path in re.findall(r"`((?:tests|parity)/[\w/]+\.py)`", LEDGER):
        assert (ROOT / path).exists(), path
    titles = {fault.title for fault in faults(ladder.RUNGS)}
    lists = re.findall(r'mutations? ((?:"[^"]+"(?:, )?)+)', LEDGER)
    models = {title for words in lists for title in re.findall(r'"([^"]+)"', words)}
    assert len(models) > 10
    assert models <= titles, models - titles


def test_tables_are_whole():
    for line in LEDGER.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8, line
