"""TowerViT, or its sibling of growing width, on CIFAR-10.

    python -m vitjax.train --config configs/towervit.py:data_dir=cifar-10-batches-py
    python -m vitjax.train --config configs/towervit.py:variant=vit

Source: Notgard/Visual_Transformers. Its event files report, after 200 epochs of SGD
with momentum at a constant rate and without augmentation, the fraction of the test set
classified correctly: TowerViT (117,514 parameters) 0.5441, the ViT 0.6000 (0.6117 at
best, in epoch 194). The ViT ran without position embeddings (874,826 parameters);
`posemb=learn` adds the intended ones.

The Python version of CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html;
`data=tfds` reads it as prepared by tfds, `data=folder` reads
`data_dir`/{train,test}/CLASS/*.png.
"""

from ml_collections import ConfigDict

from configs.common import CIFAR_KINDS, About, cifar_data, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        variant=About(
            "tower", "TowerViT, or its sibling of growing width", ("tower", "vit")
        ),
        posemb=About(
            "",
            "position embeddings; empty: the variant's default",
            ("learn", "none"),
        ),
        epochs=About(200.0, "length of the run"),
        data=About(
            "cifar", "CIFAR-10's archive, prepared by tfds, or in folders", CIFAR_KINDS
        ),
        data_dir=About("", "empty: cifar-10-batches-py, tfds' folder, or data/cifar10"),
    )
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
        config.model.posemb = chosen.posemb

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
