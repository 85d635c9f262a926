"""The recipe for one's own images that finetune.py and scratch.py share."""

from typing import Any

from ml_collections import ConfigDict

from configs.common import FILES, OWN_DATA, About, finished_on_device, own_data

RATE = 1e-3  # at a batch of 256
# Config arguments that both files have, with the same defaults.
ARGUMENTS: dict[str, Any] = dict(
    **OWN_DATA,
    data_dir=About("", "folder of the data, which files need"),
    classes=About(0, "number of classes; 0: counted in the data"),
    batch=About(64, "examples per step"),
    lr=About(0.0, "learning rate; 0: by the square root of the batch"),
    wd=About(0.05, "weight decay as torch's AdamW has it: times the rate"),
    flip=About(True, "mirror half of the images"),
    area_min=About(25.0, "a random crop has at least this percentage of the area"),
    ema=About(0.0, "decay of the parameters' average per step; 0: no average"),
)


def recipe(chosen: Any, *, res: int, values: str = "value_range(-1, 1)") -> Any:
    """Return the config without its model: data, augmentation, AdamW, evaluation.

    Args:
      chosen: the values of ARGUMENTS, and epochs, warmup (epochs), mixup and randaug.
      res: height and width of the model's images, in pixels.
      values: the op that normalises them.

    The rate grows with the square root of the batch, as suits Adam
    (https://arxiv.org/abs/2205.10287).

    Raises ValueError for arguments that contradict each other, and for data that a
    classifier cannot learn.
    """
    train, val = _data(chosen)
    if not 0 <= chosen.warmup < chosen.epochs:
        raise ValueError(
            f"config argument warmup={chosen.warmup:g} must be at least 0 and less than "
            f"epochs={chosen.epochs:g}"
        )
    if chosen.batch < 1:
        raise ValueError(f"config argument batch={chosen.batch} must be at least 1")
    classes = chosen.classes or _count_classes(train, val, chosen.batch)

    config: Any = ConfigDict()
    config.seed = 0
    config.total_epochs = chosen.epochs
    config.num_classes = classes
    config.loss = "softmax_xent"
    config.input = ConfigDict()
    config.input.data = train
    config.input.batch_size = chosen.batch
    config.input.pp = _augmentation(chosen, res)
    config.device_pp = finished_on_device(classes, values)
    if chosen.mixup:
        config.mixup = dict(p=chosen.mixup)

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.lr = chosen.lr or RATE * (chosen.batch / 256) ** 0.5
    config.wd = chosen.wd * config.lr
    # A fraction, so that a length given as --config.total_epochs moves it too.
    warmup = chosen.warmup / chosen.epochs
    config.schedule = dict(decay_type="cosine", warmup_percent=warmup)
    if chosen.ema:
        config.ema = dict(decay=chosen.ema)

    config.log_training_percent = 0.01
    config.ckpt_percent = 0.2
    config.ckpt_best = dict(metric="val/prec@1")
    resize = f"resize_small({round(res / 0.875)}, method='bilinear', antialias=True)"
    config.evals = ConfigDict()
    config.evals.val = dict(
        type="classification",
        data=val,
        pp_fn=f"decode|{resize}|central_crop({res})|keep('image', 'label')",
        device_pp=config.device_pp,
        loss_name=config.loss,
        log_percent=0.1,
        params="ema" if chosen.ema else "params",
    )
    return config


def _data(chosen: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the data sections; the folder of files has no default."""
    if chosen.data in FILES and not chosen.data_dir:
        raise ValueError(
            "the config argument data_dir is missing: give the folder of your images, "
            "as in data_dir=photos for photos/{train,val}/CLASS/*.jpg"
        )
    return own_data(chosen)


def _augmentation(chosen: Any, res: int) -> str:
    """Return the ops of a training image."""
    crop = f"({res}, area_min={chosen.area_min:g}, antialias=True)"
    ops = [f"decode_jpeg_and_inception_crop{crop}"]
    if chosen.flip:
        ops.append("flip_lr")
    if chosen.randaug:
        # torchvision's: big_vision's moves images by up to 100 pixels, whatever their size.
        ops.append(f"randaug_tv(2, {chosen.randaug})")
    return "|".join([*ops, "keep('image', 'label')"])


def _count_classes(train: dict[str, str], val: dict[str, str], batch: int) -> int:
    """Return the number of classes of the training data; check both splits.

    Raises ValueError if a split is missing or empty, if its classes cannot be counted
    or are fewer than two, or if a batch is larger than the data set.
    """
    from input_pipeline import pipeline, sources

    pipeline.hide_accelerators()
    source = sources.open_source(**train)
    sources.open_source(**val)
    where = f"{train.get('data_dir', train.get('name'))} {train['split']}"
    if source.num_classes is None:
        raise ValueError(
            f"the number of classes of {where} is unknown: give the config argument "
            "classes=N"
        )
    if source.num_classes < 2:
        raise ValueError(
            f"{where} has {source.num_classes} class, but a classifier needs at least two"
        )
    if batch > len(source):
        fitting = 2 ** (len(source).bit_length() - 1)
        raise ValueError(
            f"config argument batch={batch} is more than the {len(source):,} examples of "
            f"{where}: give batch={fitting} or less"
        )
    return source.num_classes
