"""The state dict of Hugging Face's ViTForImageClassification.

The config that matches a vitjax model: layer_norm_eps=1e-6 (the default is 1e-12),
hidden_act "gelu" for gelu="exact" and "gelu_pytorch_tanh" for "tanh". transformers 5
uses shorter keys in memory than in files; both are read, and the keys of files are
written. The keys of a ViTModel, without a head and without the prefix "vit.", are read
too.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitjax.models.vit import ViT
from vitjax.weights import table
from vitjax.weights.table import ATTENTION, BLOCK, QKV, Entry, Format, Parts

EMBEDDINGS = "vit.embeddings"
PARTS = {
    "cls": f"{EMBEDDINGS}.cls_token",
    "pos_embedding": f"{EMBEDDINGS}.position_embeddings",
    "head": "classifier.weight",
}
RENAMES = (
    (r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"vit.\1."),
    (r"^vit\.layers\.(\d+)\.", r"vit.encoder.layer.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attention.attention.\1."),
    (r"\.attention\.q\.", ".attention.query."),
    (r"\.attention\.k\.", ".attention.key."),
    (r"\.attention\.v\.", ".attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def entries(parts: Parts) -> Iterator[Entry]:
    """Yield the table's entries."""
    yield from table.conv(f"{EMBEDDINGS}.patch_embeddings.projection", "embedding")
    yield from table.tokens(PARTS["pos_embedding"], parts)
    for i in range(parts.depth):
        theirs, ours = f"vit.encoder.layer.{i}", BLOCK.format(i)
        attention, mlp = f"{ours}/{ATTENTION}", f"{ours}/MlpBlock_0"
        yield from table.norm(f"{theirs}.layernorm_before", f"{ours}/LayerNorm_0")
        for part in QKV:
            yield from table.flat(
                f"{theirs}.attention.attention.{part}", f"{attention}/{part}"
            )
        yield from table.dense(
            f"{theirs}.attention.output.dense", f"{attention}/out", 2
        )
        yield from table.norm(f"{theirs}.layernorm_after", f"{ours}/LayerNorm_1")
        yield from table.dense(f"{theirs}.intermediate.dense", f"{mlp}/Dense_0")
        yield from table.dense(f"{theirs}.output.dense", f"{mlp}/Dense_1")
    yield from table.norm("vit.layernorm", "Transformer/encoder_norm")
    if parts.head:
        yield from table.dense("classifier", "head")


FORMAT = Format(
    title="Hugging Face's ViTForImageClassification",
    table=entries,
    signature=(f"{EMBEDDINGS}.patch_embeddings.projection.weight",),
    bare=("embeddings.patch_embeddings.projection.weight",),
    # A ViTModel's tanh layer, which ViTForImageClassification omits too; other heads.
    ignored=(
        r"^vit\.pooler\.",
        r"^vit\.embeddings\.mask_token$",
        r"^(?!vit\.|classifier\.)",
    ),
    block="vit.encoder.layer.{}.",
    parts=PARTS,
    tokens=(f"{EMBEDDINGS}.cls_token",),
    always=("cls", "pos_embedding"),
    renames=RENAMES,
    positions="all",
    unlike=(
        (r"^vit\.pooler\.", "vitjax has no layer between its class token and head"),
    ),
)


def model_config(model: ViT, image_shape: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of transformers' ViTConfig for a model, without its labels.

    `image_shape` is height, width and channels of its images.
    """
    height, width, channels = image_shape
    rows, columns = model.patch_size
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": rows if rows == columns else [rows, columns],
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_dim or 4 * model.width,
        "num_channels": channels,
        "layer_norm_eps": model.norm_eps,
        "hidden_act": {
            "exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu",
        }[model.gelu],
    }  # fmt: skip


def config_json(path: Path) -> dict[str, Any]:
    """Read the config.json of a model's folder, or of a file's folder; {} if none."""
    return beside(path, "config.json")


def beside(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON object `name` in a model's folder, or next to a file; {} if none.

    Raises ValueError if it is not JSON.
    """
    file = (path if path.is_dir() else path.parent) / name
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}
