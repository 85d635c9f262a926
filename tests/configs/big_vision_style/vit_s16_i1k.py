"""ViT-S/16 as big_vision's own config file of that name spells it: every key of it.

The arguments "single_gpu" and "eight_gpus" give mup-vit's forks of it: all of the
training data, a linear head; eight microbatches a step, a smaller buffer and no cache for
a laptop's memory; or a buffer of the whole data set and float32 moments.
"""

import ml_collections as mlc


def get_config(arg=None):
    config = mlc.ConfigDict()
    mup_vit, single = arg is not None, arg == "single_gpu"

    config.seed = 0
    config.total_epochs = 90
    config.num_classes = 1000
    config.loss = "softmax_xent"

    config.input = {}
    split = "train" if mup_vit else "train[:99%]"
    config.input.data = dict(name="imagenet2012", split=split)
    config.input.batch_size = 1024
    config.input.cache_raw = not single
    config.input.shuffle_buffer_size = 250_000
    if mup_vit:
        config.input.shuffle_buffer_size = 150_000 if single else 1_281_167
        config.input.accum_freq = 8 if single else 1

    # Float images and one-hot labels leave the host.
    finish = (
        "|value_range(-1, 1)"
        '|onehot(1000, key="{lbl}", key_result="labels")'
        '|keep("image", "labels")'
    )
    augment = "decode_jpeg_and_inception_crop(224)|flip_lr|randaug(2,10)"
    config.input.pp = augment + finish.format(lbl="label")
    pp_eval = "decode|resize_small(256)|central_crop(224)" + finish

    config.pp_modules = ["ops_general", "ops_image", "ops_text", "archive.randaug"]

    config.log_training_steps = 50
    config.ckpt_steps = 1000

    config.model_name = "vit"
    config.model = dict(
        variant="S/16", rep_size=not mup_vit, pool_type="gap", posemb="sincos2d"
    )

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(mu_dtype="float32" if arg == "eight_gpus" else "bfloat16")
    config.lr = 0.001
    config.wd = 0.0001
    config.schedule = dict(warmup_steps=10_000, decay_type="cosine")
    config.mixup = dict(p=0.2, fold_in=None)

    def evaluation(split, dataset="imagenet2012"):
        return dict(
            type="classification",
            data=dict(name=dataset, split=split),
            pp_fn=pp_eval.format(lbl="label"),
            loss_name=config.loss,
            log_steps=2500,
        )

    config.evals = {}
    config.evals.train = evaluation("train[:2%]")
    if not mup_vit:
        config.evals.minival = evaluation("train[99%:]")
    config.evals.val = evaluation("validation")
    config.evals.v2 = evaluation("test", dataset="imagenet_v2")
    config.evals.real = evaluation("validation", dataset="imagenet2012_real")
    config.evals.real.pp_fn = pp_eval.format(lbl="real_label")
    return config
