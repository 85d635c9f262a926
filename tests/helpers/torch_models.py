"""The models of tests/helpers/weights_cases.py in other libraries' own classes."""

import numpy as np
import pytest
import torch

from tests.helpers import weights_cases as cases
from vitjax.weights.libraries import import_torchvision

# For float64: far above rounding, far below the effect of a number in a wrong place.
BOUND = 1e-9


def torchvision_model(**kw):
    import_torchvision()
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        image_size=12,
        patch_size=4,
        num_layers=2,
        num_heads=cases.HEADS,
        hidden_dim=cases.WIDTH,
        mlp_dim=40,
        num_classes=cases.CLASSES,
        **kw,
    )


def timm_model(patch_size=4, image_size=12, distilled=False, **kw):
    import_torchvision()  # timm imports it
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    return (VisionTransformerDistilled if distilled else VisionTransformer)(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=cases.WIDTH,
        depth=2,
        num_heads=cases.HEADS,
        mlp_ratio=40 / cases.WIDTH,
        num_classes=cases.CLASSES,
        **{"fc_norm": False} | kw,
    )


def huggingface_config(**kw):
    transformers = pytest.importorskip("transformers")
    import_torchvision()  # transformers imports it where it is installed
    return transformers.ViTConfig(
        hidden_size=cases.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=cases.HEADS,
        intermediate_size=40,
        layer_norm_eps=1e-6,
        image_size=12,
        patch_size=4,
        num_labels=cases.CLASSES,
        **kw,
    )


@torch.no_grad()
def drawn(model, seed=0, keep=()):
    """The module in float64 with random weights, except those named in `keep`."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.double().eval().state_dict().items():
        if tensor.is_floating_point() and name not in keep:
            tensor.normal_(std=0.3, generator=generator)
    return model


@torch.no_grad()
def assert_logits(model, ours, image=None):
    """The module's logits (or those of its output) equal ours, to BOUND."""
    image = cases.image() if image is None else image
    theirs = model(torch.tensor(image).permute(0, 3, 1, 2))
    theirs = getattr(theirs, "logits", theirs).numpy()
    assert theirs.shape == ours.shape
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=BOUND)
