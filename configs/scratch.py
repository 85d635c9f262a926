"""Train a ViT from scratch on your own images.

    python -m vitjax.train --config configs/scratch.py:data_dir=photos,variant=S/16
    python -m vitjax.train --config configs/scratch.py:data_dir=icons,variant=Ti,patch=4,res=32

The images are photos/{train,val}/CLASS/*.jpg. The arguments on data, batch, length,
augmentation and average are those of configs/finetune.py. `variant`, `patch` (pixels) and
`res` (pixels) describe the model, a ViT with average pooling and fixed positions. A
checkpoint, where there is one, learns more from few images: see configs/finetune.py.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import everyday
from configs.common import About, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        **everyday.ARGUMENTS,
        variant=About("S/16", "size and patch size of the ViT"),
        patch=About(0, "height and width of a patch, in pixels; 0: the variant's"),
        dtype=About("float32", "type of the matrix products"),
        res=About(224, "height and width of the images, in pixels"),
        epochs=About(100.0, "length of the run"),
        warmup=About(5.0, "length of the warm-up, in epochs"),
        mixup=About(0.2, "p of the Beta distribution; 0: off"),
        randaug=About(9, "magnitude, of 30, of two layers; 0: off"),
    )
    size, _, own_patch = chosen.variant.partition("/")
    if not (chosen.patch or own_patch):
        raise ValueError(
            f"config argument variant={chosen.variant!r} has no patch size: give the side "
            "of a patch in pixels, as in patch=16"
        )
    config: Any = everyday.recipe(chosen, res=chosen.res)
    config.model_name = "vit"
    config.model = dict(
        variant=f"{size}/{chosen.patch or own_patch}",
        pool_type="gap",
        posemb="sincos2d",
        rep_size=False,
        dtype_mm=chosen.dtype,
    )
    return config
