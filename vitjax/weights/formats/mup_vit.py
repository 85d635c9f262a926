"""The state dict of mup-vit's SimpleVisionTransformer (github.com/EIFY/mup-vit).

simple_vit.py at ee4c63c uses torchvision's names, but `reg` (1, R, d) holds the class
token, if the model pools by it, and then the registers. They are prepended to the
patches after the position embeddings are added. A single token is an untrained buffer
of zeros. `pos_embedding` is (1, n, d) if learned, and a buffer (n, d) for posemb
"sincos2d".
"""

from collections.abc import Iterator

from vitjax.weights import table
from vitjax.weights.formats import torchvision
from vitjax.weights.table import Entry, Format, Parts

PARTS = {
    "cls": "reg",
    "registers": "reg",
    "pos_embedding": "pos_embedding",
    "pre_logits": "heads.pre_logits.weight",
    "head": "heads.head.weight",
}


def entries(parts: Parts) -> Iterator[Entry]:
    """Yield the table's entries."""
    yield from torchvision.body(parts)
    yield from table.tokens(PARTS["pos_embedding"], parts)


FORMAT = Format(
    title="mup-vit's SimpleVisionTransformer",
    table=entries,
    signature=("conv_proj.weight",),
    block=torchvision.LAYER + ".",
    parts=PARTS,
    tokens=("reg",),
    always=("head",),
    renames=torchvision.RENAMES,
    sincos_batch=False,
    square=True,
)
