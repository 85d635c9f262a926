"""Other libraries' own model classes, to check what was written for them.

The only place that makes them; each library is imported where it is asked for. Shapes:
b images of (height, width, channels) here, (channels, height, width) there.
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vitjax.config.lookup import lookup
from vitjax.models.vit import ViT
from vitjax.weights import safetensors
from vitjax.weights.libraries import Unusable, import_torchvision, importing

State = Mapping[str, np.ndarray]
# What from_pretrained tells of a file that does not fit its class.
WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def _torchvision(model: ViT, size: tuple[int, int], channels: int, state: State) -> Any:
    import_torchvision()
    from torchvision.models import VisionTransformer

    if channels != 3:
        raise ValueError(
            f"torchvision's class is for 3 channels, this model for {channels}"
        )
    other = VisionTransformer(
        image_size=size[0],
        patch_size=model.patch_size[0],
        num_layers=model.depth,
        num_heads=model.num_heads,
        hidden_dim=model.width,
        mlp_dim=model.mlp_dim or 4 * model.width,
        num_classes=model.num_classes or 1000,
        norm_layer=functools.partial(_torch().nn.LayerNorm, eps=model.norm_eps),
    )
    if model.num_classes is None:
        other.heads = _torch().nn.Identity()
    return _filled(other, state)


def _timm(model: ViT, size: tuple[int, int], channels: int, state: State) -> Any:
    import_torchvision()  # which timm imports
    with importing("timm"):
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import VisionTransformer

    pools: dict[str, Any] = {"gap": "avg", "tok": "token", "map": "map"}
    torch = _torch()
    other = (VisionTransformerDistilled if model.distilled else VisionTransformer)(
        img_size=size,
        patch_size=model.patch_size,
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=(model.mlp_dim or 4 * model.width) / model.width,
        num_classes=model.num_classes or 0,
        class_token=model.pool_type == "tok",
        global_pool=lookup(pools, model.pool_type, "pool_type of timm"),
        reg_tokens=0 if model.distilled else model.registers,
        in_chans=channels,
        # With registers, and only then, the class token has no position.
        no_embed_class=model.registers > 0 and not model.distilled,
        fc_norm=model.norm_after_pool,
        init_values=model.layer_scale,
        pre_norm=model.pre_norm,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=model.norm_eps),
        act_layer="quick_gelu"
        if model.gelu == "quick"
        else functools.partial(torch.nn.GELU, approximate=_gelu(model)),
    )
    return _filled(other, state)


def _huggingface(model: ViT, size: tuple[int, int], channels: int, state: State) -> Any:
    with contextlib.suppress(Unusable):
        import_torchvision()  # which transformers imports where it is installed
    with importing("transformers"):
        import transformers  # an optional extra

        library: Any = transformers
        # Imported when it is asked for. Beside a torch that is too old for it, this is a
        # stand-in, which says so when it is touched.
        from_pretrained = library.ViTForImageClassification.from_pretrained

    names = {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
    act = names[model.gelu]
    config = library.ViTConfig(
        image_size=size[0],
        patch_size=model.patch_size[0],
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_dim or 4 * model.width,
        num_channels=channels,
        num_labels=model.num_classes or 1000,
        layer_norm_eps=model.norm_eps,
        hidden_act=act,
    )
    # As its users do, from a folder: transformers 5 has other keys in memory than in
    # files, and only from_pretrained knows both.
    with tempfile.TemporaryDirectory() as name, _quiet(library.utils.logging):
        folder = Path(name)
        config.save_pretrained(folder)
        safetensors.write(folder / "model.safetensors", state, {"format": "pt"})
        other, told = from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # it tells them below, by name
        )
    # It only warns of these, and takes random numbers for what is missing.
    wrong = [
        f"{what}: {', '.join(map(str, told[what]))}" for what in WRONG if told[what]
    ]
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return other.float()


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without transformers' bar and report: what they say is checked."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


MODELS: dict[str, Callable[[ViT, tuple[int, int], int, State], Any]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": _huggingface,
}


def _gelu(model: ViT) -> str:
    return "none" if model.gelu == "exact" else "tanh"


def _torch() -> Any:
    with importing("torch"):
        import torch
    return torch


def _filled(other: Any, state: State) -> Any:
    """The torch module with these weights; every key must be used."""
    torch = _torch()
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    other.load_state_dict(tensors, strict=True)
    return other


def logits(
    format: str, model: ViT, state: State, images: Float[np.ndarray, "b h w c"]
) -> Float[np.ndarray, "b k"]:
    """What the library's own class makes of images, with a state dict of that format.

    Raises `vitjax.weights.libraries.Unusable` where the library or torch cannot be
    imported, KeyError for a format without a class, and RuntimeError for weights that do
    not fit the class.
    """
    torch = _torch()
    _, height, width, channels = images.shape
    other = MODELS[format](model, (height, width), channels, state)
    with torch.no_grad():
        out = other.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return np.asarray(getattr(out, "logits", out).numpy())
