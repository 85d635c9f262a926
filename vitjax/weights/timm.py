"""timm's VisionTransformer: its state dict. No timm needed.

Its arguments for a model of ours: fc_norm=False (the last LayerNorm stands before the
pooling), global_pool="avg", "token" or "map", class_token only with "token", and
no_embed_class=True with registers; norm_layer with eps 1e-6 is its default. GELU is
exact there unless act_layer says otherwise.
"""

from collections.abc import Iterator

from vitjax.weights import table
from vitjax.weights.table import ATTENTION, BLOCK, Entry, Format, Parts

PARTS = {
    "cls": "cls_token",
    "registers": "reg_token",
    "pos_embedding": "pos_embed",
    "map_head": "attn_pool.latent",
    "head": "head.weight",
}


def entries(parts: Parts) -> Iterator[Entry]:
    """The table."""
    yield from table.conv("patch_embed.proj", "embedding")
    yield from table.tokens(PARTS, parts)
    for i in range(parts.depth):
        theirs, ours = f"blocks.{i}", BLOCK.format(i)
        attention, qkv = f"{ours}/{ATTENTION}", f"{theirs}.attn.qkv"
        yield from table.norm(f"{theirs}.norm1", f"{ours}/LayerNorm_0")
        yield from table.fused(f"{qkv}.weight", f"{qkv}.bias", attention)
        yield from table.dense(f"{theirs}.attn.proj", f"{attention}/out", 2)
        yield from table.norm(f"{theirs}.norm2", f"{ours}/LayerNorm_1")
        yield from table.dense(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0")
        yield from table.dense(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1")
    yield from table.norm("norm", "Transformer/encoder_norm")
    if parts.map_head:
        yield from _map_head("attn_pool", "MAPHead_0")
    if parts.head:
        yield from table.dense("head", "head")


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


FORMAT = Format(
    title="timm's VisionTransformer",
    table=entries,
    signature=("patch_embed.proj.weight",),
    block="blocks.{}.",
    parts=PARTS,
    positions="either",
    # Of MAE and DINOv2: for masked patches, and to paint them.
    beside=(r"^mask_token$", r"^decoder_"),
    unlike=(
        (
            r"^fc_norm\.",
            "its LayerNorm stands after the pooling; vitjax's models, and timm's with "
            "fc_norm=False, have it before",
        ),
        (r"^blocks\.\d+\.ls[12]\.", "vitjax has no LayerScale (init_values)"),
        (r"\.[qk]_norm\.", "vitjax has no normalization of queries and keys (qk_norm)"),
        (r"^norm_pre\.", "vitjax has no LayerNorm before the blocks (pre_norm)"),
    ),
)
