"""The texts of the keys of the run's length, evaluators, records and devices."""

RUN = {
    "total_*": (
        "The length of the run. A config needs one of the four units. The schedule "
        "follows it; an epoch may have a fractional number of steps."
    ),
    "seed": (
        "The seed of everything random. The initial parameters, the order of the examples "
        "and their augmentation are functions of it."
    ),
    "modules": (
        "Modules of your own that register models, ops, sources and other parts. They are "
        "names as in an import, and are also looked for in the config file's folder. See "
        "docs/extending.md."
    ),
    "resume": (
        "The run whose whole state this run starts from: parameters, optimizer and step. "
        "It is a workdir, WORKDIR/best or WORKDIR/checkpoints/STEP, also in a bucket. The "
        "workdir's own newest checkpoint comes first."
    ),
}
EVALUATION = {
    "evals": (
        "The evaluators by name, each a section. NAME is free, and begins the names of "
        "the metrics: val/prec@1. They may change when a run resumes."
    ),
    "evals.NAME.type": (
        "The kind of evaluator: classification, fewshot, knn, linear_probe or svc_probe. "
        "classification, the default, gives top-1, top-5 and loss; the others are probes "
        "of the model's features."
    ),
    "evals.NAME.log_*": (
        "The time between two evaluations. Without it, the evaluator runs at the start "
        "and at the end."
    ),
    "evals.NAME.required": (
        "False skips the evaluator, with a warning, where its data set is missing. It is "
        "True by default; big_vision's imagenet_v2 and imagenet2012_real get False."
    ),
    "evals.NAME.skip_first": (
        "True leaves out the evaluation before the first step. It is False by default."
    ),
    "evals.NAME.params": (
        "The parameters that are evaluated: params, the default, or ema, their average."
    ),
    "evals.NAME.data": "The data, as input.data. For a probe, the examples to score.",
    "evals.NAME.data.match_classes": (
        "How labels are matched to the model's: name, known, number, None or a list of "
        "names. name, the default, maps them by the names of the classes; known also "
        "leaves out unknown classes; number and None take them as numbered. See "
        "docs/tools.md."
    ),
    "evals.NAME.fit_data": (
        "The data that a probe is fitted on, as input.data. None, for svc_probe, is `data` "
        "itself."
    ),
    "evals.NAME.batch_size": (
        "The number of examples of an evaluation's step. By default it is "
        "batch_size_eval. It must be a multiple of the number of devices."
    ),
    "evals.NAME.pp_fn": (
        "The preprocessing on the host, as input.pp, without anything random. A probe "
        "without pp_fn and device_pp gets those of an evaluator that classifies."
    ),
    "evals.NAME.device_pp": "The preprocessing on the devices, as device_pp.",
    "evals.NAME.loss_name": (
        "The loss that is reported: sigmoid_xent, softmax_xent or mse."
    ),
    "evals.NAME.label_key": (
        "The feature with the labels. For a probe, None is label, or labels where pp_fn "
        "does not keep label."
    ),
    "evals.NAME.shots": "The numbers of examples of each class to fit on.",
    "evals.NAME.num_seeds": "The number of random choices of examples to average over.",
    "evals.NAME.k": "The number of nearest neighbours that vote.",
    "evals.NAME.temperature": (
        "A neighbour's vote is exp(cosine / temperature), as in DINO."
    ),
    "evals.NAME.l2_regs": (
        "The penalties of the logistic regression, of which the best on a held-out part "
        "of fit_data is taken."
    ),
    "evals.NAME.l2_reg": "The penalty of the ridge regression.",
    "evals.NAME.feature": (
        "The model's intermediate that a probe is fitted to. It has one vector for each "
        "image: pre_logits, head_input."
    ),
    "batch_size_eval": (
        "The evaluators' batch_size, where they have none. None is input.batch_size. It "
        "may change when a run resumes."
    ),
}
RECORDS = {
    "log_training_*": (
        "The time between two rows of training metrics. It is 50 steps by default. It may "
        "change when a run resumes."
    ),
    "ckpt_*": (
        "The time between two checkpoints. Without it, there is one at the end and one "
        "after a signal. It may change when a run resumes."
    ),
    "keep_ckpt_*": (
        "Checkpoints at multiples of it stay for good. The others make room for newer "
        "ones. It may change when a run resumes."
    ),
    "max_to_keep": (
        "The number of newest checkpoints that stay; None keeps all. It may change when a "
        "run resumes."
    ),
    "ckpt_best": (
        "Keep the checkpoint with the best value of a metric in WORKDIR/best. None keeps "
        "none. It may change when a run resumes."
    ),
    "ckpt_best.metric": 'The metric of an evaluator: "val/prec@1".',
    "ckpt_best.patience": (
        "Stop the run after so many evaluations in a row without a better value. None "
        "never stops early."
    ),
    "ckpt_best.mode": "max or min: the largest value is the best, or the smallest.",
    "tensorboard": "Also write the rows for TensorBoard, into WORKDIR/tensorboard.",
    "mirror_seconds": "Seconds between two pushes to a workdir in a bucket.",
    "wandb": (
        "Also send the rows to Weights & Biases. None does not. It may change when a run "
        "resumes."
    ),
    "wandb.project": "The project's name.",
    "wandb.name": "The run's name; None lets wandb choose one.",
    "wandb.entity": "The user or team; None is the one that is logged in.",
    "wandb.group": "The name of a group of runs.",
    "wandb.tags": "The run's tags.",
    "wandb.notes": "A text about the run.",
    "wandb.mode": (
        "online, offline or disabled; None is what WANDB_MODE says, else online."
    ),
    "wandb.init_timeout": (
        "The seconds to wait for the server. After that the run records offline."
    ),
}
DEVICES = {
    "matmul_precision": (
        "The precision of float32 matrix products on accelerators: highest, high or "
        "default. highest, which None is there, computes in float32; high is TF32 on "
        "NVIDIA and three passes of bfloat16 on a TPU; default, which is JAX's own, is "
        "TF32 on NVIDIA and one pass on a TPU. A CPU always has float32, and products in "
        "bfloat16 stay what they are."
    ),
    "compiler_options": (
        "XLA's options for the training step, by name. XLA_FLAGS has the same names. On "
        "NVIDIA, xla_gpu_enable_triton_gemm is False unless it stands here: cuBLASLt then "
        "adds bias and GELU within its products."
    ),
    "mesh": (
        "The axes of the devices, pairs (name, size). One size may be -1, which is all "
        "remaining devices. It may change when a run resumes."
    ),
    "sharding_strategy": (
        "How parameters and moments are split over the devices. It is a list of pairs "
        "(pattern, strategy); a strategy is replicate or fsdp(axis, MiB), which leaves "
        "smaller arrays whole. It may change when a run resumes."
    ),
}
