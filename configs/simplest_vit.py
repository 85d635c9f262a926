"""SimplEsT-ViT, a ViT without LayerNorm and residuals, and SimpleViT for comparison.

    python -m vitjax.train --config configs/simplest_vit.py:data_dir=cifar-10-batches-py
    python -m vitjax.train --config configs/simplest_vit.py:opt=shampoo,setup=simplevit
    python -m vitjax.train --config configs/simplest_vit.py:model=simple,out_proj=off

Source: richardcepka/SimplEsT-ViT. It reports, for S-sized models after 90 epochs, the
fraction of the validation set classified correctly (SimpleViT always with
out_proj=off):

    setup      model     opt      cifar10  cifar100  tiny_imagenet  imagenet
    tat        simple    adam     0.8334   0.5880    0.4529
    tat        simplest  adam     0.7936   0.4687    0.3847
    tat        simplest  shampoo  0.8243   0.5506    0.4208         0.7053
    simplevit  simple    adam     0.8733   0.6439    0.5152
    simplevit  simplest  adam     0.7894   0.4776    0.3966
    simplevit  simplest  shampoo  0.8496   0.5899    0.4490         0.7071

It does not say which settings each figure used: the rate (adam: 5e-4 or 3e-4, and 1e-3
for SimpleViT; shampoo: 7e-4 or 5e-4, 3e-4 on ImageNet), l2 (0 or 5e-5; 1e-5 on
ImageNet), the dropout of the tat setup (0 or 0.2), and cropping and flipping in the tat
setup (`crop_flip`). lr, l2 and dropout are arguments; the defaults are the first rate,
the nonzero l2 and the nonzero dropout. No figure of the table was measured with this
code, because the data were not available.

CIFAR's "python version" is at https://www.cs.toronto.edu/~kriz/cifar.html, Tiny
ImageNet at http://cs231n.stanford.edu/tiny-imagenet-200.zip; data_dir is the unpacked
folder. `source=tfds` reads CIFAR as prepared by tfds, `source=folder` reads
`data_dir`/{train,test}/CLASS/*.png. ImageNet is tfds' imagenet2012. Fashion-MNIST,
which `make fashion-mnist` unpacks, is not in the document. It is padded to 32 x 32, its
grey channel repeated three times, and shows the effect of the initialisation: 64 blocks
learn with it and do not learn without it. The numbers are the mean training loss of ten
of the last 50 of 300 steps (one seed); a constant answer has ln 10 = 2.303:

    D=data=fashion_mnist,depth=64,width=96,patch=8,batch=16,l2=0,dropout=0,crop_flip=off
    python -m vitjax.train --config configs/simplest_vit.py:$D,init=espa_tat,lr=3e-5 \\
        --config.total_steps=300 --config.evals=None     # 1.54; at lr=1e-4 1.64
    (the same with) init=lecun                           # 2.303 at lr 1e-5 and 1e-4, 2.304 at 1e-3
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import ORIGINS, About, choose, cifar_data, parse_arg

# Training examples, pixels, patches, mean and deviation of the channels, and source.
DATA: dict[str, dict[str, Any]] = {
    "cifar10": dict(
        val="test",
        classes=10,
        examples=50_000,
        size=32,
        patch=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        first="",  # ops before all others
    ),
    "cifar100": dict(
        val="test",
        classes=100,
        examples=50_000,
        size=32,
        patch=4,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        first="",
    ),
    "tiny_imagenet": dict(
        data=dict(kind="folder", data_dir="tiny-imagenet-200"),
        val="val",
        classes=200,
        examples=100_000,
        size=64,
        patch=8,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        first="decode|resize(64)|",
    ),
    "imagenet": dict(
        data=dict(kind="tfds", name="imagenet2012"),
        val="validation",
        classes=1000,
        examples=1_281_167,
        size=224,
        patch=16,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first="decode|",
    ),
    "fashion_mnist": dict(
        data=dict(kind="idx", data_dir="data/usr/share/datasets/fashion-mnist"),
        val="test",
        classes=10,
        examples=60_000,
        size=32,
        patch=4,
        mean=(0.2860,) * 3,
        std=(0.3530,) * 3,
        first="grayscale_to_rgb|pad_to_shape((32, 32, 3), where='both')|",
    ),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen, facts = _arguments(arg)
    config = ConfigDict()
    config.seed = 0
    # Batches are full: the remainder of an epoch is not trained on.
    config.total_steps = int(chosen.epochs * (facts["examples"] // chosen.batch))
    config.num_classes = facts["classes"]
    config.loss = "softmax_xent"
    if chosen.setup == "tat":
        config.label_smoothing = 0.1
    else:
        config.mixup = dict(p=0.2)

    where, decode = _where(chosen, facts)
    before, before_val = _ops(chosen, {**facts, "first": facts["first"] or decode})
    config.input = ConfigDict()
    config.input.data = dict(where, split="train")
    config.input.batch_size = chosen.batch
    config.input.pp = f"{before}keep('image', 'label')"
    config.device_pp = (
        f"normalize({facts['mean']}, {facts['std']})"
        f"|onehot({facts['classes']}, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    if chosen.data == "imagenet":
        config.accum_freq = 2

    config.model_name = f"{chosen.model}_vit"
    config.model = _model(chosen)

    config.grad_clip_norm = 1.0
    config.lr = chosen.lr
    config.schedule = dict(
        warmup_steps=10_000 if chosen.data == "imagenet" else 75, decay_type="cosine"
    )
    if chosen.l2:
        # On everything but biases, so on LayerNorm scales too.
        config.l2 = chosen.l2
        config.l2_mults = ((".*/bias$", 0.0), (".*", 1.0))
    if chosen.opt == "adam":
        config.optax_name = "scale_by_adam"
    else:
        config.optax_name = "vitjax.scale_by_shampoo"
        config.optax = dict(every=25, start=25)
    if chosen.sam:
        config.sam = dict(rho=0.05)

    config.log_training_steps = 10
    config.ckpt_epochs = 10
    config.evals = ConfigDict()
    config.evals.val = dict(
        type="classification",
        data=dict(where, split=facts["val"]),
        pp_fn=f"{before_val}keep('image', 'label')",
        device_pp=config.device_pp,
        loss_name="softmax_xent",
        log_epochs=1,
    )
    return config


def _where(chosen: Any, facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the data section without its split, and the ops that decode CIFAR."""
    if "data" not in facts:  # CIFAR, which is kept in several forms
        return cifar_data(chosen.source or "cifar", chosen.data_dir, chosen.data)
    kind = facts["data"]["kind"]
    choose("source", chosen.source or kind, (kind,))
    where = dict(facts["data"])
    if chosen.data in ORIGINS:
        where["origin"] = ORIGINS[chosen.data]
    if chosen.data_dir:
        where["data_dir"] = chosen.data_dir
    return where, ""


def _arguments(arg: str | None) -> tuple[Any, dict[str, Any]]:
    """Return the arguments, some defaults set by others, and the data's facts."""
    general = dict(
        data=About("cifar10", "the data set", tuple(DATA)),
        setup=About("tat", "the document's two recipes", ("tat", "simplevit")),
        opt=About("adam", "the optimizer", ("adam", "shampoo")),
        model=About("simplest", "SimplEsT-ViT or SimpleViT", ("simplest", "simple")),
        depth=About(12, "blocks"),
        width=About(384, "length of a token's vector"),
        heads=About(6, "attention heads"),
        att_bias=About(True, "model=simplest has biases in its attention"),
        row_norm=About(
            "correct", "correct or original: models/reproductions/signal_propagation.py"
        ),
        init=About("espa_tat", "lecun: neither E-SPA nor TAT", ("espa_tat", "lecun")),
        eta=About(0.9, "TAT's; fewer than 7 blocks reach only a smaller one"),
        out_proj=About(True, "the attention's last product, in the simple model"),
        crop_flip=About(True, "random crops and flips"),
        sam=About(False, "sharpness-aware minimization"),
        epochs=About(90.0, "length of the run"),
        source=About("", "CIFAR's: cifar (its archive), tfds or folder"),
        data_dir=About("", "folder of the data; empty: the source's default"),
    )

    def parse(**own: Any) -> Any:
        meanings = dict(
            batch="examples per step",
            lr="learning rate",
            l2="coupled weight decay",
            dropout="dropout",
            patch="height and width of a patch, in pixels",
            dtype="type of the matrix products",
        )
        abouts = {name: About(value, meanings[name]) for name, value in own.items()}
        return parse_arg(arg, **general, **abouts)

    # Parse once for what the other defaults depend on, then again with those defaults.
    first = parse(batch=0, lr=0.0, l2=0.0, dropout=0.0, patch=0, dtype="")
    facts = DATA[first.data]
    imagenet = first.data == "imagenet"
    adam = 1e-3 if first.model == "simple" else 5e-4
    chosen = parse(
        batch=1024 if imagenet else 2048,
        lr=adam if first.opt == "adam" else 3e-4 if imagenet else 7e-4,
        l2=1e-5 if imagenet else 5e-5,
        dropout=0.2 if first.setup == "tat" else 0.0,
        patch=facts["patch"],
        dtype="float32" if first.data == "fashion_mnist" else "bfloat16",
    )
    return chosen, facts


def _model(chosen: Any) -> dict[str, Any]:
    """Return the model section."""
    sizes = dict(
        depth=chosen.depth,
        width=chosen.width,
        num_heads=chosen.heads,
        patch_size=(chosen.patch, chosen.patch),
        dropout=chosen.dropout,
        dtype_mm=chosen.dtype,
    )
    if chosen.model == "simple":
        return dict(sizes, out_proj=chosen.out_proj)
    return dict(
        sizes,
        att_bias=chosen.att_bias,
        row_norm=chosen.row_norm,
        init_scheme=chosen.init,
        eta=chosen.eta,
    )


def _ops(chosen: Any, facts: dict[str, Any]) -> tuple[str, str]:
    """Return the ops of training and of evaluation that come before normalization."""
    first = facts["first"]
    randaug = "" if chosen.setup == "tat" else "randaug_tv(2, 10)|"
    if chosen.data == "imagenet":
        small = "resize_small(256, method='bilinear', antialias=True)"
        crop = f"{first}random_resized_crop(224)|flip_lr|"
        return f"{crop}{randaug}", f"{first}{small}|central_crop(224)|"
    crop = f"pad_crop({facts['size']}, 4)|flip_lr|" if chosen.crop_flip else ""
    return f"{first}{crop}{randaug}", first
