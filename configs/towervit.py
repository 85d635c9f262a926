"""TowerViT, or its sibling of growing width, on CIFAR-10.

    python -m vitjax.train --config configs/towervit.py:data_dir=cifar-10-batches-py
    python -m vitjax.train --config configs/towervit.py:variant=vit

After Notgard/Visual_Transformers, whose event files have, after 200 epochs of SGD with
momentum at a constant rate, without augmentation: TowerViT (117,514 parameters) 0.5441 of
the test set right, the ViT 0.6000 (0.6117 at best, in epoch 194). The ViT has no positions
as it ran (874,826 parameters); `posemb=learn` gives it those that were meant.

The Python version of CIFAR-10 comes from https://www.cs.toronto.edu/~kriz/cifar.html;
`data=tfds` reads it as tfds has prepared it, `data=folder` `data_dir`/{train,test}/CLASS/*.png.
"""

from ml_collections import ConfigDict

from configs.common import choose, cifar_data, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: the variant, its positions, and where the data is."""
    chosen = parse_arg(
        arg,
        variant="tower",
        posemb="",  # the variant's own; learn, none
        epochs=200.0,
        data="cifar",  # tfds, folder
        data_dir="",  # cifar-10-batches-py, tfds' own, data/cifar10
    )
    choose("variant", chosen.variant, ("tower", "vit"))
    config = ConfigDict()
    config.seed = 0
    config.total_epochs = chosen.epochs
    config.num_classes = 10
    config.loss = "softmax_xent"

    data, decode = cifar_data(chosen.data, chosen.data_dir)
    config.input = ConfigDict()
    config.input.data = dict(data, split="train")
    config.input.batch_size = 128
    config.input.pp = f"{decode}keep('image', 'label')"
    config.device_pp = (
        "value_range(0, 1)|onehot(10, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )

    config.model_name = "tower"
    config.model = ConfigDict(dict(variant=chosen.variant))
    if chosen.posemb:
        config.model.posemb = choose("posemb", chosen.posemb, ("learn", "none"))

    config.optax_name = "trace"
    config.optax = dict(decay=0.9)
    config.lr = 3e-4

    config.log_training_steps = 19
    config.ckpt_epochs = 1
    config.ckpt_best = dict(metric="val/loss", mode="min")
    config.evals = ConfigDict()
    config.evals.val = dict(
        type="classification",
        data=dict(data, split="test"),
        pp_fn=f"{decode}keep('image', 'label')",
        device_pp=config.device_pp,
        batch_size=1000,
        loss_name="softmax_xent",
        log_epochs=1,
    )
    return config
