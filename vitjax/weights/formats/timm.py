"""The state dict of timm's VisionTransformer; timm itself is not needed.

The timm arguments that match a vitjax model: fc_norm is norm_after_pool, init_values is
layer_scale, pre_norm is the same, global_pool is "avg", "token" or "map", class_token
only with "token", and no_embed_class=True with registers. norm_layer has eps 1e-6 by
default (1e-5 for timm's CLIP models, all with pre_norm). GELU is exact unless act_layer
is set ("quick_gelu" for gelu="quick"). A vitjax model with distilled is a
VisionTransformerDistilled. A class token that the model does not pool by (files with
fc_norm, such as MAE's fine-tuned ones) is a register here.
"""

from collections.abc import Iterator

import numpy as np

from vitjax.weights import table
from vitjax.weights.table import ATTENTION, BLOCK, Entry, Format, Parts

PARTS = {
    "cls": "cls_token",
    "registers": "reg_token",
    "pos_embedding": "pos_embed",
    "map_head": "attn_pool.latent",
    "head": "head.weight",
    "layer_scale": "blocks.0.ls1.gamma",
    "pre_norm": "norm_pre.weight",
    "pool_norm": "fc_norm.weight",
    "distilled": "head_dist.weight",
}


def entries(parts: Parts) -> Iterator[Entry]:
    """Yield the table's entries."""
    yield from table.conv("patch_embed.proj", "embedding", bias=not parts.pre_norm)
    yield from table.tokens(PARTS["pos_embedding"], parts)
    for i in range(parts.depth):
        theirs, ours = f"blocks.{i}", BLOCK.format(i)
        attention, qkv = f"{ours}/{ATTENTION}", f"{theirs}.attn.qkv"
        yield from table.norm(f"{theirs}.norm1", f"{ours}/LayerNorm_0")
        yield from table.fused(f"{qkv}.weight", f"{qkv}.bias", attention)
        yield from table.dense(f"{theirs}.attn.proj", f"{attention}/out", 2)
        yield from table.norm(f"{theirs}.norm2", f"{ours}/LayerNorm_1")
        yield from table.dense(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0")
        yield from table.dense(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1")
        if parts.layer_scale:
            yield table.same(f"{theirs}.ls1.gamma", f"{ours}/LayerScale_0/gamma")
            yield table.same(f"{theirs}.ls2.gamma", f"{ours}/LayerScale_1/gamma")
    if parts.pre_norm:
        yield from table.norm("norm_pre", "pre_norm")
    if parts.pool_norm:
        yield from table.norm("fc_norm", "pool_norm")
    else:
        yield from table.norm("norm", "Transformer/encoder_norm")
    if parts.map_head:
        yield from _map_head("attn_pool", "MAPHead_0")
    if parts.head:
        yield from table.dense("head", "head")
    if parts.distilled:
        yield from table.dense("head_dist", "head_dist")


def _map_head(theirs: str, ours: str) -> Iterator[Entry]:
    attention = f"{ours}/{ATTENTION}"
    yield table.same(f"{theirs}.latent", f"{ours}/probe")
    yield from table.flat(f"{theirs}.q", f"{attention}/query")
    kv = f"{theirs}.kv"
    yield from table.fused(f"{kv}.weight", f"{kv}.bias", attention, ("key", "value"))
    yield from table.dense(f"{theirs}.proj", f"{attention}/out", 2)
    yield from table.norm(f"{theirs}.norm", f"{ours}/LayerNorm_0")
    yield from table.dense(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0")
    yield from table.dense(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1")


def _adapt(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the registers of DINOv2's own files, where the class token has a position."""
    if "register_tokens" not in state or not {"cls_token", "pos_embed"} <= state.keys():
        return state
    state = dict(state)
    state["reg_token"] = state.pop("register_tokens")
    positions = np.asarray(state["pos_embed"])
    state["cls_token"] = np.asarray(state["cls_token"]) + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]
    return state


FORMAT = Format(
    title="timm's VisionTransformer",
    table=entries,
    signature=("patch_embed.proj.weight",),
    block="blocks.{}.",
    parts=PARTS,
    tokens=("cls_token", "dist_token", "reg_token"),
    distillation="dist_token",
    renames=(
        # DeiT-III's published files use these names.
        (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),
        # A head that was replaced by a Linear layer after a Dropout.
        (r"^head\.(\w+\.)+(weight|bias)$", r"head.\2"),
        # DINOv2's training groups blocks in chunks, blocks.CHUNK.BLOCK.
        (r"^blocks\.\d+\.(\d+\.)", r"blocks.\1"),
    ),
    adapt=_adapt,
    positions="either",
    # The token for masked patches (MAE, DINOv2), and the decoder that paints them.
    ignored=(r"^mask_token$", r"^decoder_"),
    unlike=(
        (r"\.[qk]_norm\.", "vitjax has no normalization of queries and keys (qk_norm)"),
    ),
)
