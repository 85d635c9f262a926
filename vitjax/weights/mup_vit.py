"""The state dict of mup-vit's SimpleVisionTransformer (github.com/EIFY/mup-vit).

torchvision's names without its class token: position embeddings stand at the top and
cover the patches only. Those of posemb "sincos2d" are a buffer there.
"""

from collections.abc import Iterator

from vitjax.weights import table, torchvision
from vitjax.weights.table import Entry, Format, Parts

PARTS = {
    "cls": "class_token",
    "pos_embedding": "pos_embedding",
    "pre_logits": "heads.pre_logits.weight",
    "head": "heads.head.weight",
}


def entries(parts: Parts) -> Iterator[Entry]:
    """The table."""
    yield from torchvision.body(parts)
    yield from table.tokens(PARTS, parts)


FORMAT = Format(
    title="mup-vit's SimpleVisionTransformer",
    table=entries,
    signature=("conv_proj.weight",),
    block=torchvision.LAYER + ".",
    parts=PARTS,
    always=("head",),
    renames=torchvision.RENAMES,
    stores_sincos=False,
    square=True,
)
