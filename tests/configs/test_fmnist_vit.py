"""The recipe of the Fashion-MNIST ViT: its rate, its length, one op for each batch."""

import numpy as np
import pytest

from configs import fmnist_vit
from input_pipeline import pipeline
from vitjax.config import durations
from vitjax.optim import make_optimizer

pytestmark = pytest.mark.slow


def test_two_million_inputs_with_half_the_rate_in_the_middle():
    """31,250 steps of 64; half a cosine from 3e-4 to 0; torch's weight decay of 0.01."""
    c = fmnist_vit.get_config()
    sizes = dict(data_size=60_000, batch_size=c.input.batch_size)
    total = durations.steps("total", c, **sizes)
    assert total == 31_250
    params = {"head": {"kernel": np.zeros(2, np.float32)}}
    _, [rate] = make_optimizer(
        params, total_steps=total, **sizes, lr=c.lr, wd=c.wd, wd_mults=c.wd_mults,
        optax_name=c.optax_name, schedule=c.schedule,
    )  # fmt: skip
    found = [float(rate(step)) for step in (0, 15_625, 31_250)]
    assert found == pytest.approx([3e-4, 1.5e-4, 0], abs=1e-10)
    assert c.wd / c.lr == pytest.approx(0.01)


@pytest.fixture(scope="module")
def one_image(tmp_path_factory):
    """A file of 256 copies of one image."""
    path = tmp_path_factory.mktemp("one") / "one.npz"
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    images = np.repeat(image[None], 256, axis=0)
    np.savez(path, images=images, labels=np.zeros(256, np.int64))
    return str(path), image


@pytest.mark.parametrize("per_image", [False, True])
def test_all_images_of_a_batch_share_the_op_or_none_do(one_image, per_image):
    path, image = one_image
    pp = fmnist_vit.get_config(f"per_image={per_image}").input.pp
    data = dict(kind="npz", path=path, split="all", num_classes=1)
    stream, _ = pipeline.make_train(data=data, batch_size=64, seed=0, pp=pp)
    batches = [batch["image"] for batch, _ in zip(stream, range(12), strict=False)]
    distinct = [len({x.tobytes() for x in batch}) for batch in batches]
    if per_image:
        assert min(distinct) > 30
    else:
        assert set(distinct) == {1}
        ways = {batch.tobytes() for batch in batches}
        assert len(ways) > 5, "another op in another batch"
    assert batches[0].shape == (64, 28, 28, 3)
    assert image.shape == (28, 28)
