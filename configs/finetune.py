"""Fine-tune any ViT checkpoint on your own images, as is usual today.

    python -m vitjax.train --config configs/finetune.py:ckpt=vit.safetensors,data_dir=photos
    python -m vitjax.train --config configs/finetune.py:ckpt=runs/a,data_dir=photos,batch=256

The images are photos/{train,val}/CLASS/*.jpg. The classes are counted there. `classes=N`
overrides the number, and the data is then not read before the run. Without a folder
val, `train_split=train[:90%],val_split=train[90%:]` holds a tenth back. `data` is
huggingface or the name of a tfds data set, as in configs/transfer.py.

The model and the normalisation of images are inferred from the checkpoint, as in
configs/transfer.py, with the same arguments; a file that does not tell its normalisation
needs `norm`. `res` is by default the image size of a run, and 224 for a file.

The recipe is AdamW with a cosine schedule. `epochs` and `warmup` are in epochs. The rate
is 0.001 at a batch of 256, and grows with the square root of the batch; `lr` overrides it.
`wd` is the weight decay of torch's AdamW. Each block has `layer_decay` times the rate of
the block after it (https://arxiv.org/abs/2106.08254).

Training images are random crops of at least `area_min` per cent, flipped at random;
`flip=off` is for text, digits and whatever else has a left and a right. `randaug` is the
magnitude of torchvision's RandAugment, 0 to 30, and `mixup` the p of mixup; 0 turns them
off. `ema=0.99` evaluates an average of the parameters over about 1 / (1 - 0.99) steps; the
average should be much shorter than the run. The checkpoint with the best val/prec@1 is
kept.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import everyday, pretrained
from configs.common import About, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        ckpt=About("", "a run, or a file of weights: see model_init"),
        **pretrained.ARGUMENTS,
        **everyday.ARGUMENTS,
        res=About(0, "height and width of the images; 0: a run's own, 224 for a file"),
        epochs=About(20.0, "length of the run"),
        warmup=About(2.0, "length of the warm-up, in epochs"),
        layer_decay=About(0.75, "factor on the rate from each block to the one before"),
        mixup=About(0.1, "p of the Beta distribution; 0: off"),
        randaug=About(5, "magnitude, of 30, of two layers; 0: off"),
    )
    if not chosen.ckpt:
        raise ValueError(
            "the config argument ckpt is missing: give a run or a file of weights, or "
            "train from scratch with configs/scratch.py"
        )
    model = pretrained.model(chosen)
    res = chosen.res or pretrained.resolution(chosen.ckpt)
    values = pretrained.value_op(chosen)
    config: Any = everyday.recipe(chosen, res=res, values=values)
    if chosen.layer_decay != 1.0:
        model, config.lr_mults = pretrained.with_layer_decay(model, chosen.layer_decay)
    config.model_name = "vit"
    config.model = model
    config.model_init = chosen.ckpt
    config.model_init_channels = "sum"  # images are RGB here, also for a grey model
    config.dont_load = (pretrained.heads(model),)
    return config
