"""Fine-tune any ViT checkpoint on any image data set, by BiT's recipe of big_vision.

    python -m vitjax.train --config configs/transfer.py:ckpt=vit.npz,data_dir=~/pets,classes=37
    python -m vitjax.train --config configs/transfer.py:ckpt=runs/vit_s16_i1k,data=cifar10,classes=10
    python -m vitjax.train --config configs/transfer.py:ckpt=vit.npz,...,freeze=backbone

This is the recipe to compare with big_vision, at its batch of 512. Its rate falls with
the batch: at batch=32 SGD has 1.9e-4 and barely learns in 500 steps. For your own images,
and for any other batch, take configs/finetune.py.

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

from typing import Any

from ml_collections import ConfigDict

from configs import pretrained
from configs.common import OWN_DATA, About, finished_on_device, own_data, parse_arg

FEW = 20_000  # examples; below it BiT-HyperRule trains for 500 steps, without mixup


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        ckpt=About("", "a run, or a file: see model_init; empty: from scratch"),
        **pretrained.ARGUMENTS,
        **OWN_DATA,
        data_dir=About("", "folder of the data; empty: data/photos for files"),
        classes=About(10, "number of classes"),
        examples=About(0, "training examples, for BiT's steps; 0: fewer than 20,000"),
        res=About(224, "height and width of the images, in pixels"),
        batch=About(512, "examples per step"),
        schedule=About("bit", "BiT-HyperRule, or a cosine to 0", ("bit", "cosine")),
        steps=About(0, "length of the run; 0: BiT's"),
        lr=About(0.0, "learning rate; 0: 0.003 for a batch of 512, in proportion"),
        layer_decay=About(1.0, "factor on the rate from each block to the one before"),
        freeze=About("none", "backbone: train the head alone", ("none", "backbone")),
    )
    config: Any = ConfigDict(dict(seed=0))
    config.total_steps = chosen.steps or _bit_steps(chosen.examples)
    config.num_classes = chosen.classes
    config.loss = "softmax_xent"
    if chosen.examples >= FEW:
        config.mixup = dict(p=0.1)

    model = pretrained.model(chosen)
    train, val = own_data(chosen)
    config.input = ConfigDict()
    config.input.data = train
    config.input.batch_size = chosen.batch
    keep = "keep('image', 'label')"
    config.input.pp = f"decode_jpeg_and_inception_crop({chosen.res})|flip_lr|{keep}"
    config.device_pp = finished_on_device(chosen.classes, pretrained.value_op(chosen))

    config.model_name = "vit"
    if chosen.layer_decay != 1.0:
        model, config.lr_mults = pretrained.with_layer_decay(model, chosen.layer_decay)
    config.model = model
    heads = pretrained.heads(model)
    if chosen.ckpt:
        config.model_init = chosen.ckpt
        config.dont_load = (heads,)

    config.grad_clip_norm = 1.0
    config.optax_name = "big_vision.momentum_hp"
    config.lr = chosen.lr or 0.003 * chosen.batch / 512
    config.wd = None
    config.schedule = _schedule(chosen, config.total_steps, heads)

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


def _bit_steps(examples: int) -> int:
    """Return the number of updates by BiT-HyperRule."""
    return 500 if examples < FEW else 10_000 if examples < 500_000 else 20_000


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
