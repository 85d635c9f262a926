"""The state dict of torchvision.models.VisionTransformer; torchvision is not needed.

Build the torchvision model with its defaults, and the vitjax model with
pool_type="tok", posemb="learn" and gelu="exact".
"""

from collections.abc import Iterator

from vitjax.weights import table
from vitjax.weights.table import ATTENTION, BLOCK, Entry, Format, Parts

PARTS = {
    "cls": "class_token",
    "pos_embedding": "encoder.pos_embedding",
    "pre_logits": "heads.pre_logits.weight",
    "head": "heads.head.weight",
}
LAYER = "encoder.layers.encoder_layer_{}"
# Until 2022 the MLP's layers had other names; the published weights still use them.
RENAMES = (
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
    # Fine-tuned models often replace `heads` or `heads.head` by another layer, or by a
    # Sequential with one.
    (r"^heads\.(?!pre_logits\.)(\w+\.)*(weight|bias)$", r"heads.head.\2"),
)


def body(parts: Parts) -> Iterator[Entry]:
    """Yield all entries except those of the tokens and positions."""
    yield from table.conv("conv_proj", "embedding")
    for i in range(parts.depth):
        theirs, ours = LAYER.format(i), BLOCK.format(i)
        attention = f"{theirs}.self_attention"
        yield from table.norm(f"{theirs}.ln_1", f"{ours}/LayerNorm_0")
        yield from table.fused(
            f"{attention}.in_proj_weight",
            f"{attention}.in_proj_bias",
            f"{ours}/{ATTENTION}",
        )
        yield from table.dense(f"{attention}.out_proj", f"{ours}/{ATTENTION}/out", 2)
        yield from table.norm(f"{theirs}.ln_2", f"{ours}/LayerNorm_1")
        yield from table.dense(f"{theirs}.mlp.0", f"{ours}/MlpBlock_0/Dense_0")
        yield from table.dense(f"{theirs}.mlp.3", f"{ours}/MlpBlock_0/Dense_1")
    yield from table.norm("encoder.ln", "Transformer/encoder_norm")
    for part in ("pre_logits", "head"):
        if part in parts.has():
            yield from table.dense(f"heads.{part}", part)


def entries(parts: Parts) -> Iterator[Entry]:
    """Yield the table's entries."""
    yield from body(parts)
    yield from table.tokens(PARTS["pos_embedding"], parts)


FORMAT = Format(
    title="torchvision's VisionTransformer",
    table=entries,
    signature=("conv_proj.weight", "encoder.pos_embedding"),
    block=LAYER + ".",
    parts=PARTS,
    tokens=("class_token",),
    always=("cls", "pos_embedding"),
    renames=RENAMES,
    positions="all",
    square=True,
)
