"""Other libraries' own model classes, to check what was written for them.

The only place that makes them; each library is imported where it is asked for. Shapes:
b images of (height, width, channels) here, (channels, height, width) there.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vitjax.lookup import lookup
from vitjax.models.vit import ViT


def _torchvision(model: ViT, size: tuple[int, int], channels: int) -> Any:
    from torchvision.models import VisionTransformer

    if channels != 3:
        raise ValueError(
            f"torchvision's class is for 3 channels, this model for {channels}"
        )
    return VisionTransformer(
        image_size=size[0],
        patch_size=model.patch_size[0],
        num_layers=model.depth,
        num_heads=model.num_heads,
        hidden_dim=model.width,
        mlp_dim=model.mlp_dim or 4 * model.width,
        num_classes=model.num_classes or 1000,
        norm_layer=functools.partial(_torch().nn.LayerNorm, eps=1e-6),
    )


def _timm(model: ViT, size: tuple[int, int], channels: int) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    pools: dict[str, Any] = {"gap": "avg", "tok": "token", "map": "map"}
    return VisionTransformer(
        img_size=size,
        patch_size=model.patch_size,
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=(model.mlp_dim or 4 * model.width) / model.width,
        num_classes=model.num_classes or 0,
        class_token=model.pool_type == "tok",
        global_pool=lookup(pools, model.pool_type, "pool_type of timm"),
        reg_tokens=model.registers,
        in_chans=channels,
        # With registers, and only then, the class token has no position.
        no_embed_class=model.registers > 0,
        fc_norm=False,
        act_layer=functools.partial(_torch().nn.GELU, approximate=_gelu(model)),
    )


def _huggingface(model: ViT, size: tuple[int, int], channels: int) -> Any:
    # An optional extra.
    from transformers import (  # pyright: ignore[reportMissingImports]
        ViTConfig,
        ViTForImageClassification,
    )

    act = "gelu" if model.gelu == "exact" else "gelu_pytorch_tanh"
    config: Any = ViTConfig(
        image_size=size[0],
        patch_size=model.patch_size[0],
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_dim or 4 * model.width,
        num_channels=channels,
        num_labels=model.num_classes or 1000,
        layer_norm_eps=1e-6,
        hidden_act=act,
    )
    return ViTForImageClassification(config)


MODELS: dict[str, Callable[[ViT, tuple[int, int], int], Any]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": _huggingface,
}


def _gelu(model: ViT) -> str:
    return "none" if model.gelu == "exact" else "tanh"


def _torch() -> Any:
    import torch

    return torch


def logits(
    format: str,
    model: ViT,
    state: Mapping[str, np.ndarray],
    images: Float[np.ndarray, "b h w c"],
) -> Float[np.ndarray, "b k"]:
    """What the library's own class makes of images, with a state dict of that format.

    Raises ImportError where the library (or torch) is not installed, KeyError for a
    format without a class, and whatever the class says of weights that do not fit.
    """
    torch = _torch()
    _, height, width, channels = images.shape
    other = MODELS[format](model, (height, width), channels)
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    # timm's models with a class token store its position apart; all keys must be used.
    other.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        out = other.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return np.asarray(getattr(out, "logits", out).numpy())
