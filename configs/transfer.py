"""Fine-tune any ViT checkpoint on any image data set.

    python -m vitjax.train --config configs/transfer.py:ckpt=vit.npz,data_dir=~/pets,classes=37
    python -m vitjax.train --config configs/transfer.py:ckpt=runs/vit_s16_i1k,data=cifar10,classes=10
    python -m vitjax.train --config configs/transfer.py:ckpt=vit.npz,...,freeze=backbone

The model is inferred from the checkpoint: sizes, pooling, positions, head, registers
and LayerScale. The GELU and the LayerNorm eps come from the config of its run, or else
are the usual ones of its format. `variant`, `pool`, `posemb`, `mlp_head`, `gelu`, `eps`
and `dtype` override them; `heads` gives the number of heads where neither the file nor
a usual width determines it. Mismatches are listed. The checkpoint is read at each
start, also when a run resumes. All parameters are loaded except the head, which starts
at zero; position embeddings are resampled to `res`. The first CLIP weights need
`gelu=quick`, which no file records.

Images are normalised as in the checkpoint's training: as in the config of its run, in
timm's config.json or Hugging Face's preprocessor_config.json beside the file, and as
torchvision and big_vision always do. Other files need `norm`: half (-1 to 1, as timm's
augreg models and Google's ViTs), imagenet (DeiT, DINO, most of timm) or clip.

`data=folder` is data_dir/{train,val}/CLASS/*.jpg (`train_split` and `val_split` name
other splits). With `data=huggingface`, data_dir is a folder of `save_to_disk` or of
parquet files. Any other `data` is the name of a data set that tfds has prepared.

`schedule=bit` is BiT-HyperRule (https://arxiv.org/abs/1912.11370): SGD with momentum
0.9, rate 0.003 per 512 examples of a batch, a warm-up of a tenth of the run and of 500
steps at most, and a tenth of the rate after each of 30, 60 and 90 per cent of the run.
It takes 500 steps of batch 512 for fewer than 20,000 examples, 10,000 for fewer than
500,000, else 20,000; from 20,000 examples on it uses mixup 0.1. `steps`, `batch` and
`lr` override these.
`schedule=cosine` warms up over a tenth of the run, then follows a cosine to 0, as is
usual when ViTs are fine-tuned. `layer_decay=0.75` gives each block 0.75 times the rate
of the block after it; the head has the full rate (https://arxiv.org/abs/2106.08254).
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from configs.common import choose, parse_arg

DEPTHS = {"mu": 1, "Ti": 12, "S": 12, "M": 12, "B": 12, "L": 24, "So400m": 27, "H": 32}
# The model arguments that a variant sets.
SIZES = ("width", "depth", "mlp_dim", "num_heads", "patch_size", "variant")
ALWAYS = (*SIZES, "pool_type", "posemb", "gelu", "rep_size")  # kept even at defaults
HEADS = "head(_dist)?/.*"  # a distilled model has two
FEW = 20_000  # examples; below it BiT-HyperRule trains for 500 steps, without mixup
GELUS = ("tanh", "exact", "quick")


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config; arguments: checkpoint, model, data, and what is trained."""
    chosen = parse_arg(
        arg,
        ckpt="",  # a run, or a file: see model_init. Empty: from scratch
        variant="",  # from here to eps, empty or 0: the checkpoint's
        pool="",
        posemb="",
        gelu="",
        mlp_head="",  # on: tanh layer before the head, as big_vision's flagship has
        eps=0.0,  # LayerNorm's
        norm="",  # half, imagenet or clip; empty: as in the checkpoint's training
        heads=0,  # attention heads; 0: from the checkpoint
        data="folder",
        data_dir="",  # empty: data/photos for files
        train_split="train",
        val_split="",
        classes=10,
        examples=0,  # training examples, which set BiT's steps; 0: fewer than 20,000
        res=224,
        batch=512,
        schedule="bit",
        steps=0,
        lr=0.0,
        layer_decay=1.0,
        freeze="none",
        dtype="",  # empty: the checkpoint's, or float32
    )
    choose("schedule", chosen.schedule, ("bit", "cosine"))
    choose("freeze", chosen.freeze, ("none", "backbone"))
    config: Any = ConfigDict(dict(seed=0))
    config.total_steps = chosen.steps or _bit_steps(chosen.examples)
    config.num_classes = chosen.classes
    config.loss = "softmax_xent"
    if chosen.examples >= FEW:
        config.mixup = dict(p=0.1)

    model = _model(chosen)
    train, val = _data(chosen)
    config.input = ConfigDict()
    config.input.data = train
    config.input.batch_size = chosen.batch
    keep = "keep('image', 'label')"
    config.input.pp = f"decode_jpeg_and_inception_crop({chosen.res})|flip_lr|{keep}"
    config.device_pp = (
        f"{_value_op(chosen)}|onehot({chosen.classes}, key='label', "
        "key_result='labels')|keep('image', 'labels')"
    )

    config.model_name = "vit"
    if chosen.layer_decay != 1.0:
        model["scan"] = False  # scan stacks the blocks: one parameter, one rate
    config.model = model
    heads = HEADS if model.get("distilled") else "head/.*"
    if chosen.ckpt:
        config.model_init = chosen.ckpt
        config.dont_load = (heads,)

    config.grad_clip_norm = 1.0
    config.optax_name = "big_vision.momentum_hp"
    config.lr = chosen.lr or 0.003 * chosen.batch / 512
    config.wd = None
    config.schedule = _schedule(chosen, config.total_steps, heads)
    if chosen.layer_decay != 1.0:
        config.lr_mults = _lr_mults(model, chosen.layer_decay)

    config.log_training_percent = 0.01
    config.ckpt_percent = 0.2
    config.ckpt_best = dict(metric="val/prec@1")
    config.evals = ConfigDict()
    config.evals.val = dict(
        type="classification",
        data=val,
        pp_fn=f"decode|resize_small({round(chosen.res / 0.875)})"
        f"|central_crop({chosen.res})|{keep}",
        device_pp=config.device_pp,
        loss_name=config.loss,
        log_percent=0.1,
    )
    return config


def _model(chosen: Any) -> dict[str, Any]:
    """Return the checkpoint's or the flagship's model section, with overrides."""
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
    if chosen.gelu:
        choose("gelu", chosen.gelu, GELUS)
    given = dict(pool_type=chosen.pool, posemb=chosen.posemb, gelu=chosen.gelu)
    given |= dict(norm_eps=chosen.eps, dtype_mm=chosen.dtype)
    found |= {key: value for key, value in given.items() if value}
    if chosen.mlp_head:
        switches = dict.fromkeys(("on", "true", "1"), True)
        switches |= dict.fromkeys(("off", "false", "0"), False)
        choose("mlp_head", chosen.mlp_head.lower(), tuple(switches))
        found["rep_size"] = switches[chosen.mlp_head.lower()]
    return found


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


def _value_op(chosen: Any) -> str:
    """Return the op that normalises images."""
    from vitjax.weights import normalisation

    if chosen.norm or not chosen.ckpt:
        return normalisation.named(chosen.norm or "half").op
    return normalisation.trained_with(chosen.ckpt).op


def _bit_steps(examples: int) -> int:
    """Return the number of updates by BiT-HyperRule."""
    return 500 if examples < FEW else 10_000 if examples < 500_000 else 20_000


def _data(chosen: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the data sections of training and evaluation."""
    files = chosen.data in ("folder", "huggingface")
    data = dict(kind=chosen.data) if files else dict(name=chosen.data)
    if chosen.data_dir or files:
        data["data_dir"] = chosen.data_dir or "data/photos"
    val = chosen.val_split or ("val" if chosen.data == "folder" else "test")
    return dict(data, split=chosen.train_split), dict(data, split=val)


def _schedule(chosen: Any, total: int, heads: str) -> Any:
    """Return the schedule, for all parameters or for the head alone."""
    if chosen.schedule == "bit":
        # Fractions, so that a length given as --config.total_epochs moves them too.
        section: dict[str, Any] = dict(
            decay_type="stair",
            percent=(0.3, 0.6, 0.9),
            mults=(0.1, 0.01, 0.001),
            warmup_percent=min(500, total // 10) / total,
        )
    else:
        section = dict(decay_type="cosine", warmup_percent=0.1)
    if chosen.freeze == "backbone":
        return ((heads, section), (".*", None))
    return section


def _lr_mults(model: dict[str, Any], decay: float) -> tuple[tuple[str, float], ...]:
    """Return decay^(n - i) for block i of n, decay^(n + 1) for what precedes them."""
    variant = model.get("variant", "")
    depth = model.get("depth") or DEPTHS.get(variant.partition("/")[0])
    if depth is None:
        raise ValueError(
            f"layer_decay needs a variant of known depth ({', '.join(DEPTHS)}), got "
            f"{variant!r}: set lr_mults instead"
        )
    blocks = (
        (f"Transformer/encoderblock_{i}/.*", decay ** (depth - i)) for i in range(depth)
    )
    first = (
        "(embedding/.*|pos_embedding|cls|registers|pre_norm/.*)",
        decay ** (depth + 1),
    )
    return (first, *blocks)
