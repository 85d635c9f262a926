"""A torchvision ViT that regresses Fashion-MNIST's one-hot labels by squared error.

    make fashion-mnist
    python -m vitjax.train --config configs/fmnist_vit.py

Source: defgsus/nn-experiments, docs/logs/2023-11-27-transformers.md. It reports for
this model (2,185,610 parameters) after 2,000,000 inputs: validation MSE 0.01429, argmax
accuracy 0.9063, and 0.9076 for an SVC on the code. Its SVC is fitted on the validation
set and scored on the same examples (`evals.svc`); `evals.svc_train` is fitted on 10,000
training examples instead.

TrivialAugmentWide is drawn once per batch of 64, as torchvision's transform does on a
batch; `per_image` draws it per image. Weight decay is torch's 0.01 on every parameter,
which is wd = lr * 0.01 here. Sizes and data are arguments:

    --config configs/fmnist_vit.py:layer=8,head=8,code=784
"""

from ml_collections import ConfigDict

from configs.common import ORIGINS, About, parse_arg

DATA_DIR = "data/usr/share/datasets/fashion-mnist"


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = parse_arg(
        arg,
        model=About("vit", "the ViT, or the small CNN of the table", ("vit", "cnn")),
        layer=About(4, "blocks"),
        head=About(16, "attention heads"),
        hidden=About(256, "width of the tokens"),
        mlp=About(512, "width of the MLPs' hidden layers"),
        code=About(128, "length of the code, which the head and the SVC read"),
        patch=About(7, "height and width of a patch, in pixels"),
        drop=About(0.0, "dropout"),
        per_image=About(False, "draw TrivialAugmentWide per image, not per batch"),
        inputs=About(2_000_000, "length of the run, in images"),
        data_dir=About(DATA_DIR, "folder of the four *-ubyte.gz files"),
    )
    config = ConfigDict()
    config.seed = 0
    config.total_examples = chosen.inputs
    config.num_classes = 10
    config.loss = "mse"

    data = dict(kind="idx", data_dir=chosen.data_dir, origin=ORIGINS["fashion_mnist"])
    # The document's ViTs see the grey channel three times, its CNN once.
    channels = "" if chosen.model == "cnn" else "grayscale_to_rgb|"
    config.input = ConfigDict()
    config.input.data = dict(data, split="train")
    config.input.batch_size = 64
    config.input.pp = (
        f"trivial_augment_wide(per_batch={not chosen.per_image})|{channels}"
        "keep('image', 'label')"
    )
    config.device_pp = (
        "value_range(0, 1)|onehot(10, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )

    if chosen.model == "cnn":
        config.model_name = "small_cnn"
        config.model = dict(code_size=chosen.code)
    else:
        config.model_name = "torchvision_vit"
        config.model = dict(
            depth=chosen.layer,
            num_heads=chosen.head,
            width=chosen.hidden,
            mlp_dim=chosen.mlp,
            code_size=chosen.code,
            patch_size=(chosen.patch, chosen.patch),
            dropout=chosen.drop,
        )

    config.optax_name = "scale_by_adam"
    config.lr = 3e-4
    config.wd = 3e-4 * 0.01
    config.wd_mults = ((".*", 1.0),)
    config.schedule = dict(decay_type="cosine")

    config.log_training_steps = 100
    config.ckpt_epochs = 1
    config.ckpt_best = dict(metric="val/loss", mode="min")
    test = dict(
        data=dict(data, split="test"),
        pp_fn=f"{channels}keep('image', 'label')",
        device_pp=config.device_pp,
        batch_size=500,
    )
    config.evals = ConfigDict()
    config.evals.val = dict(
        type="classification", loss_name="mse", log_epochs=1, **test
    )
    svc = dict(type="svc_probe", feature="code", skip_first=True, log_epochs=5, **test)
    config.evals.svc = svc
    config.evals.svc_train = dict(svc, fit_data=dict(data, split="train[:10000]"))
    return config
