"""The ViT of a checkpoint, and the rates of its blocks, for configs that fine-tune."""

import dataclasses
from typing import Any

from configs.common import About, choose

GELUS = ("tanh", "exact", "quick")
# Config arguments on the model. Empty or 0: the checkpoint's.
ARGUMENTS: dict[str, Any] = dict(
    variant=About(
        "", "size and patch size; here to dtype, empty or 0: the checkpoint's"
    ),
    pool=About("", "mean of the tokens (gap), class token (tok), attention (map)"),
    posemb=About("", "position embeddings: learn, sincos2d or none"),
    gelu=About("", "the activation of the MLPs", GELUS),
    mlp_head=About("", "on: a tanh layer before the head, as in big_vision's flagship"),
    eps=About(0.0, "LayerNorm's"),
    norm=About("", "normalisation of the images: half, imagenet or clip"),
    heads=About(0, "attention heads"),
    dtype=About("", "type of the matrix products; without a checkpoint, float32"),
)
# The model arguments that a variant sets.
SIZES = ("width", "depth", "mlp_dim", "num_heads", "patch_size", "variant")
ALWAYS = (*SIZES, "pool_type", "posemb", "gelu", "rep_size")  # kept even at defaults


def model(chosen: Any) -> dict[str, Any]:
    """Return the model section: the checkpoint's or the flagship's, with overrides.

    `chosen` has `ckpt` and the arguments of ARGUMENTS. Raises ValueError if there is no
    such checkpoint, or if it holds no ViT.
    """
    found: dict[str, Any] = dict(
        variant="S/16",
        pool_type="gap",
        posemb="sincos2d",
        gelu="tanh",
        rep_size=False,
        dtype_mm="float32",
    )
    if chosen.ckpt:
        found = {"dtype_mm": "float32", **_of_checkpoint(chosen)}
    if chosen.variant:
        found = {k: v for k, v in found.items() if k not in SIZES}
        found["variant"] = chosen.variant
    if chosen.heads:
        found["num_heads"] = chosen.heads
    given = dict(pool_type=chosen.pool, posemb=chosen.posemb, gelu=chosen.gelu)
    given |= dict(norm_eps=chosen.eps, dtype_mm=chosen.dtype)
    found |= {key: value for key, value in given.items() if value}
    if chosen.mlp_head:
        switches = dict.fromkeys(("on", "true", "1"), True)
        switches |= dict.fromkeys(("off", "false", "0"), False)
        choose("mlp_head", chosen.mlp_head.lower(), tuple(switches))
        found["rep_size"] = switches[chosen.mlp_head.lower()]
    return found


def value_op(chosen: Any) -> str:
    """Return the op that normalises images: `norm`, else as the checkpoint's training.

    Raises ValueError, which asks for a name, if nothing tells the checkpoint's.
    """
    from vitjax.weights import normalisation

    if chosen.norm or not chosen.ckpt:
        return normalisation.named(chosen.norm or "half").op
    return normalisation.trained_with(chosen.ckpt).op


def resolution(ckpt: str) -> int:
    """Return the image height that a run was trained with; 224 for other files."""
    from vitjax import weights

    return weights.metadata(ckpt).get("image_shape", [224])[0]


def heads(section: dict[str, Any]) -> str:
    """Return the regex of the head's parameters; a distilled model has two heads."""
    return "head(_dist)?/.*" if section.get("distilled") else "head/.*"


def with_layer_decay(
    section: dict[str, Any], decay: float
) -> tuple[dict[str, Any], tuple[tuple[str, float], ...]]:
    """Return a model section and its lr_mults: the rate falls from the head downwards.

    Block i of n has decay^(n - i) times the rate, and what precedes the blocks has
    decay^(n + 1). Blocks are not stacked, since stacked ones have one rate. Raises
    ValueError if the depth is unknown.
    """
    from vitjax.models.vit import VARIANTS

    variant = section.get("variant", "")
    sizes = VARIANTS.get(variant.partition("/")[0], {})
    depth = section.get("depth") or sizes.get("depth")
    if depth is None:
        raise ValueError(
            f"layer_decay needs a variant of known depth ({', '.join(VARIANTS)}), got "
            f"{variant!r}: set lr_mults instead"
        )
    blocks = (
        (f"Transformer/encoderblock_{i}/.*", decay ** (depth - i)) for i in range(depth)
    )
    first = (
        "(embedding/.*|pos_embedding|cls|registers|pre_norm/.*)",
        decay ** (depth + 1),
    )
    return section | {"scan": False}, (first, *blocks)


def _of_checkpoint(chosen: Any) -> dict[str, Any]:
    """Return the checkpoint's model arguments, completed by the config's arguments."""
    from vitjax.models.vit import VARIANTS, ViT
    from vitjax.weights.checkpoint_model import model_of
    from vitjax.weights.describe import HeadsUnknown

    sizes = VARIANTS.get(chosen.variant.partition("/")[0], {})
    num_heads = chosen.heads or sizes.get("num_heads")
    try:
        found = model_of(
            chosen.ckpt, num_heads=num_heads, pool_type=chosen.pool or None
        )
    except HeadsUnknown as error:
        raise ValueError(f"{error}, as the config argument heads=N") from None
    # An extra key, even at its default, would change the config of a started run.
    defaults = {field.name: field.default for field in dataclasses.fields(ViT)}
    return {
        key: value
        for key, value in found.items()
        if key in ALWAYS or key not in defaults or value != defaults[key]
    }
