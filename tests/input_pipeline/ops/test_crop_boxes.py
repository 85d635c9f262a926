"""The laws of the crops against torchvision, the torch reference and scipy."""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import torch

from input_pipeline.ops import crop_boxes
from parity.reference import crops
from tests.helpers.photographs import seeds
from vitjax.weights.libraries import import_torchvision


@functools.cache
def crop_boxes_of(shape, n, sampler, area=(0.05, 1.0), ratio=(0.75, 1.33)):
    law = crop_boxes.sampler_law(sampler)
    boxes = tf.data.Dataset.from_tensor_slices(seeds(n)).map(
        lambda seed: tf.stack(law(tf.constant((*shape[:2], 3)), seed, area, ratio)),
        num_parallel_calls=2,
    )
    return next(boxes.batch(n).as_numpy_iterator())


@pytest.mark.parametrize(
    ("shape", "tf_mean", "torchvision_mean"),
    [
        ((375, 500), 0.342, 0.416),
        ((500, 500), 0.376, 0.467),
        ((256, 512), 0.245, 0.289),
    ],
)
def test_mean_crop_areas(shape, tf_mean, torchvision_mean):
    n = 4000  # the standard error is 0.004
    for sampler, want in (("tf", tf_mean), ("torchvision", torchvision_mean)):
        y, x, h, w = crop_boxes_of(shape, n, sampler).T
        assert (h * w / (shape[0] * shape[1])).mean() == pytest.approx(want, abs=0.014)
        assert min(y.min(), x.min()) >= 0
        assert (y + h).max() <= shape[0]
        assert (x + w).max() <= shape[1]


def test_mean_crop_area_from_8_percent_and_the_share_of_small_crops():
    _, _, h, w = crop_boxes_of((375, 500), 4000, "torchvision", (0.08, 1)).T
    assert (h * w / 375 / 500).mean() == pytest.approx(0.433, abs=0.014)
    for sampler, want in (("tf", 0.091), ("torchvision", 0.044)):
        _, _, h, w = crop_boxes_of((375, 500), 4000, sampler).T
        assert (h * w / 375 / 500 < 0.08).mean() == pytest.approx(want, abs=0.014)


def torchvision_boxes(n, shape, area, ratio):
    torch.manual_seed(3)
    crop = import_torchvision().transforms.RandomResizedCrop
    image = torch.empty(1, *shape)
    return np.array([crop.get_params(image, [*area], [*ratio]) for _ in range(n)])


def tf_boxes(n, shape, area, ratio):
    generator = torch.Generator().manual_seed(3)
    return crops.boxes(n, *shape, area, ratio, generator).numpy()


LAWS = {"tf": tf_boxes, "torchvision": torchvision_boxes}


@pytest.mark.parametrize("sampler", LAWS)
@pytest.mark.parametrize(
    ("shape", "area", "ratio"),
    [
        ((100, 300), (0.3, 1.0), (0.75, 1.33)),
        ((300, 100), (0.3, 1.0), (0.75, 1.33)),
        # A hundred attempts at something that fits once in thirty times or so.
        ((100, 100), (0.93, 1.0), (0.3, 3.0)),
    ],
)
def test_samplers_have_the_laws_of_their_libraries(sampler, shape, area, ratio):
    n = 3000
    got = crop_boxes_of(shape, n, sampler, area, ratio)
    want = LAWS[sampler](n, shape, area, ratio)
    for g, w in zip(got.T, want.T, strict=True):
        # The two-sample Kolmogorov-Smirnov distance, far in its tail (p < 1e-5).
        assert scipy.stats.ks_2samp(g, w).statistic < 2.5 * np.sqrt(2 / n)


def test_fallbacks_when_no_crop_fits():
    shape, area, ratio = (100, 400), (0.95, 1.0), (0.75, 1.33)
    np.testing.assert_array_equal(
        np.unique(crop_boxes_of(shape, 20, "tf", area, ratio), axis=0),
        [[0, 0, 100, 400]],
    )
    for sampler in ("torchvision", "power(2)", "beta(2, 3)"):
        for shape, want in (
            ((100, 400), (0, 133, 100, 133)),
            ((400, 90), (140, 0, 120, 90)),
        ):
            boxes = crop_boxes_of(shape, 20, sampler, area, ratio)
            np.testing.assert_array_equal(np.unique(boxes, axis=0), [want])


def shares(sampler, area, n=3000):
    """Areas of square crops of a large square, where each attempt fits."""
    side = 30_000
    _, _, h, w = crop_boxes_of((side, side), n, sampler, area, (1, 1)).T
    np.testing.assert_array_equal(h, w)
    return (h / side) ** 2


@pytest.mark.parametrize("p", [0.5, 1, 2, 3.5])
def test_power_makes_a_power_of_the_area_uniform(p):
    low, high = 0.05, 0.9
    root = shares(f"power({p})", (low, high)) ** (1 / p)
    start, end = low ** (1 / p), high ** (1 / p)
    uniform = scipy.stats.uniform(start, end - start)
    assert scipy.stats.kstest(root, uniform.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(root**1.2, uniform.cdf).pvalue < 1e-6  # it can fail


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1), (2, 5), (0.5, 0.5), (1, 2), (30, 7), (0.1, 0.3)]
)
def test_beta_areas_are_beta_distributed(a, b):
    low, high = 0.05, 0.9
    share = (shares(f"beta({a}, {b})", (low, high)) - low) / (high - low)
    # Rounded sides: the smallest shares are known to 1e-4 only.
    law = scipy.stats.beta(a, b)
    values = np.linspace(1e-3, 1 - 1e-3, 500)
    cdf = np.searchsorted(np.sort(share), values, "right") / len(share)
    assert np.abs(cdf - law.cdf(values)).max() < 2 / np.sqrt(len(share))
    assert np.abs(cdf - scipy.stats.beta(a, b * 1.2).cdf(values)).max() > 0.02


def test_laws_that_are_the_same_are_so_to_the_bit():
    shape, n = (100, 300), 200
    want = crop_boxes_of(shape, n, "torchvision")
    np.testing.assert_array_equal(crop_boxes_of(shape, n, "power(1)"), want)
    np.testing.assert_array_equal(crop_boxes_of(shape, n, "power"), want)
    assert (crop_boxes_of(shape, n, "power(1.1)") != want).any()


def test_power_2_is_near_tensorflows_law():
    """Its mean areas are close; those of "torchvision" are 0.12 larger."""
    for shape, want in (((500, 500), 0.376), ((375, 500), 0.342)):
        _, _, h, w = crop_boxes_of(shape, 4000, "power(2)").T
        assert (h * w).mean() / np.prod(shape) == pytest.approx(want, abs=0.035)


@pytest.mark.parametrize("sampler", ["tf", "torchvision", "power(2)", "beta(1, 2)"])
def test_boxes_depend_on_the_seed_alone(sampler):
    draw = crop_boxes_of.__wrapped__
    first, second = (draw((90, 120), 50, sampler) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first, axis=0)) > 45
    law = crop_boxes.sampler_law(sampler)
    for seed, box in zip(seeds(3), first, strict=False):
        eager = law(
            tf.constant([90, 120, 3]), tf.constant(seed), (0.05, 1), (0.75, 1.33)
        )
        assert [int(side) for side in eager] == box.tolist()


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("pil", "'pil': use 'tf', 'torchvision', 'power\\(p\\)' or 'beta\\(a, b\\)'"),
        ("", "use 'tf'"),
        ("tf|tf", "use 'tf'"),
        ("power(2", "use 'tf'"),
        ("tf(2)", "too many .*called as tf\\(\\)"),
        ("power(0)", "p must be positive"),
        ("power(1e999)", "p must be positive"),
        ("power('2')", "p cannot be '2'; it is called as power\\(p=1.0\\)"),
        ("power(1, 2)", "too many"),
        ("power(q=1)", "unexpected keyword argument 'q'"),
        ("beta", "missing .*'a'; it is called as beta\\(a, b\\)"),
        ("beta(1)", "missing .*'b'"),
        ("beta(0, 1)", "0.1 to 1000"),
        ("beta(1, True)", "b cannot be True"),
    ],
)
def test_a_sampler_is_read_strictly(sampler, message):
    with pytest.raises(ValueError, match=f"(?s)sampler cannot be .*{message}"):
        crop_boxes.sampler_law(sampler)
