"""Run other libraries' model classes, to check the state dicts written for them.

No other module builds these classes. Each library is imported on demand. Shapes: b
images, here (height, width, channels), in torch (channels, height, width).
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vitjax.config.arguments import lookup
from vitjax.models.vit import ViT
from vitjax.weights import files
from vitjax.weights.formats import huggingface
from vitjax.weights.libraries import Unusable, import_torchvision, importing

State = Mapping[str, np.ndarray]
# The keys under which from_pretrained reports a file that does not fit its class.
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
    import_torchvision()  # timm imports it
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
        # The class token lacks a position only in a model with registers.
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
    library = _transformers()
    settings = huggingface.model_config(model, (*size, channels))
    config = library.ViTConfig(**settings, num_labels=model.num_classes or 1000)
    # Loaded from a folder, as users do: transformers 5 uses other keys in memory than
    # in files, and only from_pretrained maps between them.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config.save_pretrained(folder)
        files.write(folder / "model.safetensors", state, {"format": "pt"})
        return from_pretrained(folder)


def _transformers() -> Any:
    with contextlib.suppress(Unusable):
        import_torchvision()  # transformers imports it if it is installed
    with importing("transformers"):
        import transformers  # an optional extra

        library: Any = transformers
        # The attribute is imported lazily. With a torch that is too old for
        # transformers, it is a placeholder that raises on access.
        _ = library.ViTForImageClassification.from_pretrained
    return library


def from_pretrained(folder: Path) -> Any:
    """Open a folder with transformers' ViTForImageClassification, in float32.

    Raises RuntimeError, which names the keys, unless the weights fit the config.
    """
    _torch()
    library = _transformers()
    with _quiet(library.utils.logging):
        other, report = library.ViTForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # checked below, by name
        )
    # from_pretrained only warns of these, and initialises missing weights at random.
    wrong = [
        f"{what}: {', '.join(map(str, report[what]))}" for what in WRONG if report[what]
    ]
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return other.float()


def processed(folder: Path, photo: Any) -> Float[np.ndarray, "1 h w c"]:
    """Prepare a PIL image by the image processor of a folder, with AutoImageProcessor."""
    library = _transformers()
    with _quiet(library.utils.logging):
        processor = library.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True
        )
    pixels = processor(photo, return_tensors="np")["pixel_values"]
    return np.asarray(pixels).transpose(0, 2, 3, 1)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Silence transformers' progress bar and report; the caller checks the result."""
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
    """Load the weights into the torch module; every key must be used."""
    torch = _torch()
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    other.load_state_dict(tensors, strict=True)
    return other


def logits(
    format: str, model: ViT, state: State, images: Float[np.ndarray, "b h w c"]
) -> Float[np.ndarray, "b k"]:
    """Return the logits of the library's class for images, given a state dict.

    Raises `vitjax.weights.libraries.Unusable` if the library or torch cannot be
    imported, KeyError for a format without a class, and RuntimeError if the weights do
    not fit the class.
    """
    _torch()  # first, so that its absence is reported and not that of what needs it
    _, height, width, channels = images.shape
    return run(MODELS[format](model, (height, width), channels, state), images)


def run(other: Any, images: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b k"]:
    """Return the logits of a torch module for images."""
    torch = _torch()
    with torch.no_grad():
        out = other.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return np.asarray(getattr(out, "logits", out).numpy())
