"""The same on one GPU of 16 GB, as mup-vit's fork of big_vision spells it.

Eight microbatches a step, a smaller buffer and no cache for a laptop's memory, all of
the training data, a linear head.
"""

import ml_collections as mlc


def get_config():
    config = mlc.ConfigDict()

    config.seed = 0
    config.total_epochs = 90
    config.num_classes = 1000
    config.loss = "softmax_xent"

    config.input = {}
    config.input.data = dict(name="imagenet2012", split="train")
    config.input.batch_size = 1024
    config.input.cache_raw = False
    config.input.shuffle_buffer_size = 150_000
    config.input.accum_freq = 8

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
        variant="S/16", rep_size=False, pool_type="gap", posemb="sincos2d"
    )

    config.grad_clip_norm = 1.0
    config.optax_name = "scale_by_adam"
    config.optax = dict(mu_dtype="bfloat16")
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
    config.evals.val = evaluation("validation")
    config.evals.v2 = evaluation("test", dataset="imagenet_v2")
    config.evals.real = evaluation("validation", dataset="imagenet2012_real")
    config.evals.real.pp_fn = pp_eval.format(lbl="real_label")
    return config
