"""ViT-S/16 on ImageNet-1k: "Better plain ViT baselines" (arXiv:2205.01580).

    python -m vitjax.train --config configs/vit_s16_i1k.py

The paper reports 76.5 % top-1 on the validation set after 90 epochs (78.5 after 150,
80.0 after 300), in 6 h 30 on a TPUv3-8. Not yet measured with this code.

A preset sets the numerics (`:preset=NAME`); single arguments override it. All presets
shuffle and pair globally, which is reported to have no effect on accuracy.

  preset      head    data   what differs from big_vision's code         reported top-1
  big_vision  mlp     99 %   nothing                                     76.5
  fixed       linear  100 %  contrast, decoder and resizing corrected    76.87
  mup_vit     linear  100 %  fixed, and float32 moments, exact GELU      76.94

`:precision=bfloat16` is the fast form for accelerators; docs/numerics.md has the others.
Parameters are stored, updated and averaged in float32 with each.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import About, choose, parse_arg

PRESETS = {
    "big_vision": dict(
        head="mlp",
        data="99%",
        contrast="legacy",
        precise=False,
        antialias=False,
        resize="area",
        mu_dtype="bfloat16",
        gelu="tanh",
    ),
    # EIFY/big_vision, branch grad_accum_wandb, commit a318221.
    "fixed": dict(
        head="linear",
        data="100%",
        contrast="fixed",
        precise=True,
        antialias=True,
        resize="bilinear",
        mu_dtype="bfloat16",
        gelu="tanh",
    ),
    # EIFY/mup-vit at ee4c63c, with its default crop.
    "mup_vit": dict(
        head="linear",
        data="100%",
        contrast="fixed",
        precise=True,
        antialias=True,
        resize="bilinear",
        mu_dtype="float32",
        gelu="exact",
    ),
}
# The config that each precision adds. The softmax stays in float32 in all of them, since
# cuDNN has no other.
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},  # on accelerators too, where JAX alone would take less
    "tf32": dict(matmul_precision="high"),
    "bfloat16": dict(model=dict(dtype_mm="bfloat16", attn_impl="auto")),
    "bfloat16_all": dict(
        model=dict(dtype_mm="bfloat16", residual_dtype="bfloat16", attn_impl="auto")
    ),
}
# The meaning and the choices of each key of a preset.
NUMERICS = {
    "head": ("MLP head with a tanh layer, or a linear one", ("mlp", "linear")),
    "data": ("share of the training set that is trained on", ("99%", "100%")),
    "contrast": (
        "randaug's contrast: with big_vision's bug, or not",
        ("legacy", "fixed"),
    ),
    "precise": ("decode JPEG with the accurate transform", ()),
    "antialias": ("antialias where images are made smaller", ()),
    "resize": ("method of resizing in evaluations", ("area", "bilinear")),
    "mu_dtype": ("type of Adam's first moment", ("bfloat16", "float32")),
    "gelu": ("the approximation of flax, or PyTorch's default", ("tanh", "exact")),
}
GENERAL = dict(
    preset=About("big_vision", "the numerics below, as a whole", tuple(PRESETS)),
    variant=About("S/16", "size and patch size of the ViT"),
    epochs=About(90.0, "length of the run"),
    batch=About(1024, "examples per step"),
    posemb=About("sincos2d", "position embeddings: sincos2d, learn or none"),
    pool=About("gap", "mean of the tokens (gap), class token (tok), attention (map)"),
    crop=About("tf", "random crops: tf, torchvision, power(p) or beta(a, b)"),
    area_min=About(5.0, "a random crop has at least this percentage of the area"),
    randaug=About(
        "on", "RandAugment(2, 10) of big_vision, or torchvision's (tv); device: in the step",
        ("on", "off", "tv", "device"),
    ),
    mixup=About(True, "mix pairs of images, p = 0.2"),
    precision=About(
        "float32", "types of the computation; parameters stay float32",
        tuple(PRECISIONS),
    ),
)  # fmt: skip


def _arguments(arg: str | None) -> Any:
    """Return the preset's choices, overridden by those of `arg`."""

    def parse(preset: str) -> Any:
        numerics = PRESETS[preset].items()
        abouts = {key: About(value, *NUMERICS[key]) for key, value in numerics}
        return parse_arg(arg, **GENERAL, **abouts)

    # Parse once for the preset's name, then again with its values as defaults.
    chosen = parse(parse("big_vision").preset)
    choose("crop", chosen.crop.split("(")[0], ("tf", "torchvision", "power", "beta"))
    return chosen


def get_config(arg: str | None = None) -> ConfigDict:
    """Return the config."""
    chosen = _arguments(arg)
    config: Any = ConfigDict()
    config.seed = 0
    config.total_epochs = chosen.epochs
    config.num_classes = 1000
    config.loss = "softmax_xent"

    crop = (
        f"decode_jpeg_and_inception_crop(224, area_min={chosen.area_min:g}, "
        f"antialias={chosen.antialias}, precise={chosen.precise}, sampler={chosen.crop!r})"
    )
    randaug = f"randaug(2, 10, contrast={chosen.contrast!r})"
    augment = {
        "on": f"|{randaug}",
        "tv": "|randaug_tv(2, 10)",
        "device": "|randaug_plan(2)",  # the same draws
        "off": "",
    }[chosen.randaug]
    on_device = chosen.randaug == "device"
    config.input = ConfigDict()
    config.input.data = dict(
        name="imagenet2012", split="train" if chosen.data == "100%" else "train[:99%]"
    )
    config.input.batch_size = chosen.batch
    # The host sends uint8 images and int32 labels; device_pp converts them in the step.
    plan = ", 'randaug_plan'" if on_device else ""
    config.input.pp = f"{crop}|flip_lr{augment}|keep('image', 'label'{plan})"
    finish = (
        "value_range(-1, 1)|onehot(1000, key='label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    config.device_pp = f"{randaug}|{finish}" if on_device else finish

    config.log_training_steps = 50
    config.ckpt_steps = 1000

    config.model_name = "vit"
    config.model = dict(
        variant=chosen.variant,
        rep_size=chosen.head == "mlp",
        pool_type=chosen.pool,
        posemb=chosen.posemb,
        gelu=chosen.gelu,
    )
    config.update(PRECISIONS[chosen.precision])

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(mu_dtype=chosen.mu_dtype)
    config.lr = 0.001
    config.wd = 0.0001
    config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
    if chosen.mixup:
        config.mixup = dict(p=0.2)

    config.evals = _evals(chosen, config.loss, finish)
    return config


def _evals(chosen: Any, loss: str, device_pp: str) -> ConfigDict:
    """Return big_vision's five evaluations; minival only if training leaves it out."""
    resize = (
        f"resize_small(256, method={chosen.resize!r}, antialias={chosen.antialias})"
    )
    decode = f"decode(precise={chosen.precise})|{resize}|central_crop(224)"

    def section(split: str, name: str = "imagenet2012", required: bool = True) -> Any:
        return dict(
            type="classification",
            data=dict(name=name, split=split),
            pp_fn=f"{decode}|keep('image', 'label')",
            device_pp=device_pp,
            loss_name=loss,
            log_steps=2500,
            required=required,
        )

    evals: Any = ConfigDict()
    evals.train = section("train[:2%]")
    if chosen.data == "99%":
        evals.minival = section("train[99%:]")
    evals.val = section("validation")
    evals.v2 = section("test", "imagenet_v2", required=False)
    evals.real = section("validation", "imagenet2012_real", required=False)
    # ReaL gives an image any number of labels, so the host makes the multi-hot rows.
    evals.real.pp_fn = (
        f"{decode}|onehot(1000, key='real_label', key_result='labels')"
        "|keep('image', 'labels')"
    )
    evals.real.device_pp = "value_range(-1, 1)"
    return evals
