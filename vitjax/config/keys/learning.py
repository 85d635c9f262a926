"""The texts of the keys of loss, step, optimizer and schedule."""

STEP = {
    "loss": (
        "The loss: sigmoid_xent, softmax_xent or mse. sigmoid_xent is a sum over the "
        "classes, so that it starts at num_classes * ln 2; mse is a mean over them."
    ),
    "label_smoothing": (
        "The share of each label that is spread evenly over all classes, 0 to 1. "
        "big_vision has no such key."
    ),
    "class_weights": (
        "The factors on the classes' terms of the loss. It is a list of numbers, one for "
        "each class, or balanced, which computes them from the data's labels. None has "
        "no weights."
    ),
    "mixup": (
        "Mix each image and label with another of the batch (arXiv:1710.09412). Each step "
        "has one weight of at least 0.5 for the row's own image; row r is mixed with row "
        "r - 1. None turns it off."
    ),
    "mixup.p": "The weight is drawn from Beta(p, p), and p is above 0.",
    "mixup.scope": (
        "Which rows are mixed: global or device. global rolls the whole batch by one row, "
        "for any number of devices; device rolls the rows of each device, as big_vision "
        "does."
    ),
    "accum_freq": (
        "The number of parts in which a batch is computed, to save memory. The gradient "
        "is that of the whole batch, to rounding. It may change when a run resumes. "
        "big_vision has it in `input`."
    ),
    "ema": (
        "Average the parameters over the steps; evaluators with params='ema' use the "
        "average. It takes the memory of one more copy of the parameters. None turns it "
        "off."
    ),
    "ema.decay": (
        "The share of the average that stays at each update, at least 0 and below 1."
    ),
    "ema.every": "The number of steps between two updates of the average.",
    "loss_scale": (
        "Scale the loss, so that float16 gradients do not vanish. Updates whose gradient "
        "is not finite are skipped and counted, and twenty in a row stop the run. The "
        "defaults are flax's and torch's. None turns it off; dict() is enough to turn it "
        "on."
    ),
    "loss_scale.init_scale": "The first scale.",
    "loss_scale.growth_factor": (
        "The factor on the scale after growth_interval steps without a skipped update. It "
        "is above 1."
    ),
    "loss_scale.backoff_factor": (
        "The factor on the scale after a skipped update, above 0 and below 1."
    ),
    "loss_scale.growth_interval": "The number of steps before the scale grows.",
}
OPTIMIZER = {
    "lr": "The learning rate, before schedule and lr_mults.",
    "wd": (
        "The weight decay. It is decoupled from the rate: the schedule multiplies it, the "
        "learning rate does not. torch's AdamW needs weight_decay = wd / lr for the same. "
        "None has none."
    ),
    "wd_mults": (
        "Pairs (pattern, factor) on the weight decay. A pattern must match a parameter's "
        "whole name; the first match counts, and parameters without a match have no "
        "decay. The default decays the kernels only, as in big_vision."
    ),
    "lr_mults": (
        "Pairs (pattern, factor above 0) on the learning rate. A pattern must match a "
        "parameter's whole name; the first match counts. A schedule of None freezes."
    ),
    "grad_clip_norm": (
        "The norm of the whole gradient that is not exceeded. Longer gradients are scaled "
        "down to it. None does not clip."
    ),
    "l2": (
        "The coupled weight decay, which is added to the gradient before the optimizer. "
        "torch's Adam calls it weight_decay. big_vision has no such key."
    ),
    "l2_mults": "Pairs (pattern, factor) on l2, as wd_mults.",
    "sam": (
        "Sharpness-aware minimization: take the gradient a little uphill. Each step then "
        "computes two gradients (arXiv:2010.01412). None turns it off."
    ),
    "sam.rho": "The length of the way uphill, above 0.",
    "optax_name": (
        "The transform of the gradients, of optax or of vitjax. Examples are "
        "scale_by_adam, trace and contrib.scale_by_ademamix; ours are adam, adamw, lamb, "
        "lion, sgd, adafactor and shampoo, with wd as above, and also "
        "big_vision.scale_by_adafactor, big_vision.momentum_hp and "
        "vitjax.scale_by_shampoo. optax's own whole optimizers, such as rmsprop, are "
        "refused, because they have a learning rate of their own."
    ),
    "optax": (
        "The keyword arguments of the transform. `optax_name` decides which there are: "
        "for scale_by_adam b1, b2, eps and mu_dtype."
    ),
    "optax.mu_dtype": (
        "The type of Adam's first moment. big_vision has bfloat16, which also rounds the "
        "decay 0.9 to 0.8984."
    ),
    "optax.b1": "The decay of the first moment.",
    "optax.b2": "The decay of the second moments.",
    "optax.decay": "The share of the momentum that stays at each step.",
    "optax.momentum": "The share of the momentum that stays at each step; None has none.",
    "optax.nesterov": "Use Nesterov's momentum.",
    "optax.accumulator_dtype": (
        "The type of the momentum in memory; None is the parameters'."
    ),
    "optax.eps_root": "The number that is added to the second moments before the root.",
    "optax.dtype": "The type of the momentum in memory.",
    "optax.dtype_momentum": "The type of the momentum in memory.",
    "optax.eps": "The number that keeps divisions finite.",
    "optax.min_dim_size_to_factor": (
        "The least length of the two largest axes for factored second moments. Shorter "
        "ones keep a number for each parameter."
    ),
    "optax.decay_rate": (
        "The exponent of the decay of the second moments, 1 - t ** -decay_rate."
    ),
    "optax.decay_offset": "The step that the decay of the second moments counts from.",
    "optax.beta2_cap": (
        "The largest decay of the second moments. 0.95 is big_vision's remedy for "
        "unstable runs."
    ),
    "optax.clipping_threshold": (
        "The root mean square of a parameter's update that is not exceeded."
    ),
    "optax.every": (
        "The number of steps between two computations of the roots. They cost the cube of "
        "the block's size."
    ),
    "optax.start": "The first step with roots; before it the update is Adam's.",
    "optax.block_size": (
        "The longest axis that is preconditioned whole. Neighbouring axes are merged up "
        "to it, and longer ones are cut into blocks."
    ),
    "optax.graft_eps": "The eps of the Adam whose norm the update gets.",
    "optax.bias_correction": "Divide the moments by 1 - b^t, as Adam does.",
}
SCHEDULE = {
    "schedule": (
        "The factor on the learning rate and on wd over the run. It is a section, or a "
        "list of pairs (pattern, section) with one schedule for each group of parameters; "
        "None in place of a section freezes the group. None alone is a constant rate."
    ),
    "schedule.decay_type": (
        "The shape after the warm-up: cosine, linear, polynomial, rsqrt, stair or "
        "odd_cosine. stair without mults is constant. odd_cosine is nanoViT's, for "
        "comparison."
    ),
    "schedule.warmup_*": (
        "The length of the warm-up, in which the factor rises from 0. It is 0 by default."
    ),
    "schedule.cooldown_*": (
        "The length of the cooldown, in which the factor falls to 0 at the end. It is 0 "
        "by default, and usual with rsqrt."
    ),
    "schedule.warmup_offset": (
        "1 starts the warm-up at 1 / warmup steps, 0 starts it at 0. With 0, the first "
        "update is zero."
    ),
    "schedule.mult": "The factor that the schedule starts from.",
    "schedule.scale_with_batchsize": (
        "Multiply the factor by batch_size / 256 (arXiv:1706.02677)."
    ),
    "schedule.end": "The last factor, as a fraction of the first.",
    "schedule.power": "The exponent: the factor falls as (1 - progress) ** power.",
    "schedule.timescale": (
        "The steps after which the factor has fallen by the root of 2. "
        "timescale_epochs and the like give it in other units."
    ),
    "schedule.shift": (
        "The steps that are added before the root is taken. shift_epochs and the like "
        "give it in other units."
    ),
    "schedule.steps": "The steps at which the factor changes, in ascending order.",
    "schedule.percent": (
        "The fractions of the run at which the factor changes, in place of steps."
    ),
    "schedule.mults": "The factor from each of these steps on.",
}
