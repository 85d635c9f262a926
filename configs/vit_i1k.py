"""ViT-B/16 and ViT-L/16 on ImageNet-1k, with big_vision's recipe for them.

    python -m vitjax.train --config configs/vit_i1k.py:variant=B/16

Class token, learned positions, MLP head, sigmoid loss (the head starts at probability
1/1000 per class), 300 epochs at batch 4096, AugReg's "medium2" (arXiv:2106.10270).
`:optimizer=adafactor` is big_vision's Adafactor with momentum in bfloat16, which needs
a third of Adam's memory. `beta2_cap=0.95` caps its second-moment decay (the default is
0.999), which is big_vision's remedy for unstable runs. About 79 % top-1 is reported for
B/16 (big_vision issue 7). Not yet measured with this code.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import vit_s16_i1k
from configs.common import About, parse_arg

# AugReg's settings: (magnitude of two layers of RandAugment, p of mixup).
AUG = {
    "none": (None, 0.0),
    "light1": (0, 0.0),
    "light2": (10, 0.2),
    "medium1": (15, 0.2),
    "medium2": (15, 0.5),
    "strong1": (20, 0.5),
    "strong2": (20, 0.8),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        variant=About("B/16", "size and patch size of the ViT"),
        aug=About("medium2", "AugReg's RandAugment and mixup", tuple(AUG)),
        epochs=About(300.0, "length of the run"),
        batch=About(4096, "examples per step"),
        optimizer=About(
            "adam", "adafactor needs a third of the memory", ("adam", "adafactor")
        ),
        precision=vit_s16_i1k.GENERAL["precision"],
        beta2_cap=About(0.999, "adafactor's largest decay of second moments"),
    )
    if chosen.optimizer != "adafactor" and chosen.beta2_cap != 0.999:
        raise ValueError("config argument beta2_cap needs optimizer=adafactor")
    magnitude, mixup = AUG[chosen.aug]
    config: Any = vit_s16_i1k.get_config(
        f"variant={chosen.variant},epochs={chosen.epochs},batch={chosen.batch},"
        "posemb=learn,pool=tok,randaug=off,mixup=off,"
        f"precision={chosen.precision}"
    )
    if magnitude is not None:
        randaug = f"|randaug(2, {magnitude})|keep("
        config.input.pp = config.input.pp.replace("|keep(", randaug)
    if mixup:
        config.mixup = dict(p=mixup)
    config.loss = "sigmoid_xent"
    config.init_head_bias = -6.9
    for section in config.evals.values():
        section.loss_name = config.loss
    if chosen.optimizer == "adafactor":
        config.optax_name = "big_vision.scale_by_adafactor"
        config.optax = ConfigDict(dict(beta2_cap=chosen.beta2_cap))
    return config
