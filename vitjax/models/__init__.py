"""The models by name, for `config.model_name`."""

from vitjax.models import vit
from vitjax.models.reproductions import (
    nanovit,
    simple_vit,
    simplest_vit,
    torchvision_vit,
    tower,
)

MODELS = {
    "vit": vit.Model,
    "torchvision_vit": torchvision_vit.Model,
    "small_cnn": torchvision_vit.Cnn,
    "tower": tower.Model,
    "nanovit": nanovit.Model,
    "simplest_vit": simplest_vit.Model,
    "simple_vit": simple_vit.Model,
}
