"""Training from scratch on one's own images: the model and the recipe."""

import pytest

from configs import everyday, scratch
from vitjax.models import MODELS

SAY = "data_dir=photos,classes=3"


@pytest.mark.parametrize(
    ("arg", "width", "patch"),
    [("", 384, 16), ("variant=Ti,patch=4", 192, 4), ("variant=B/32,patch=8", 768, 8)],
)
def test_the_model_has_the_variant_and_the_patch(arg, width, patch):
    c = scratch.get_config(f"{SAY},{arg}")
    model = MODELS["vit"](num_classes=3, **c.model.to_dict())
    assert (model.width, model.patch_size) == (width, (patch, patch))
    assert "model_init" not in c


def test_the_recipe_has_no_evaluator_of_imagenet():
    c = scratch.get_config(f"{SAY},data=cifar10,res=32,batch=1024,epochs=10,warmup=1")
    assert list(c.evals) == ["val"]
    assert c.evals.val.data.to_dict() == {
        "name": "cifar10", "data_dir": "photos", "split": "test",
    }  # fmt: skip
    assert c.lr == pytest.approx(2 * everyday.RATE)
    assert c.schedule.warmup_percent == pytest.approx(0.1)
    assert c.input.pp.startswith("decode_jpeg_and_inception_crop(32,")


def test_a_variant_without_a_patch_is_one_sentence():
    with pytest.raises(ValueError, match="variant='Ti' has no patch size"):
        scratch.get_config(f"{SAY},variant=Ti")
