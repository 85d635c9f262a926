"""The top level of a config: each key is supported, or refused by name."""

import pytest

from vitjax import optim
from vitjax.config import durations
from vitjax.config.experiment import REFUSED, from_config

GOOD = {
    "input": {"batch_size": 8},
    "num_classes": 10,
    "lr": 0.1,
    "optax_name": "identity",
    "total_steps": 3,
}
# Every top-level key that big_vision's trainer reads, or its own configs set.
BIG_VISION_KEYS = {
    "seed", "num_classes", "loss", "input", "pp_modules", "log_training_steps",
    "ckpt_steps", "ckpt_timeout", "keep_ckpt_steps", "model_name", "model",
    "model_init", "model_load", "resume", "init_head_bias", "init_shapes",
    "init_types", "grad_clip_norm", "optax_name", "optax", "lr", "wd", "lr_mults",
    "wd_mults", "schedule", "mixup", "evals", "eval_only", "force_eval", "mesh",
    "sharding_strategy", "sharding_rules", "batch_size_eval", "grad_clip_per_example", "prefetch_to_device", "total_steps",
    "total_epochs", "total_examples", "fewshot", "ocdbt", "wandb",
}  # fmt: skip


def test_each_key_of_big_vision_is_supported_or_refused_by_name():
    for key in BIG_VISION_KEYS:
        config = {key: [] if key == "wd_mults" else None, **GOOD}
        if key in REFUSED:
            with pytest.raises(ValueError, match=f"{key}.*not supported"):
                from_config(config)
        else:
            from_config(config)


def test_keys_reach_what_they_configure():
    e = from_config({**GOOD, "wd": 0.2, "ckpt_epochs": 2, "mixup": None, "evals": None})
    assert e.optimizer == {"lr": 0.1, "optax_name": "identity", "wd": 0.2}
    assert e.steps("ckpt", data_size=16, batch_size=8) == 4
    assert e.mixup is None
    assert e.evals == {}


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sead", "seed"),
        ("total_epoch", "total_epochs"),
        ("mix_up", "mixup"),
        # Other trainers' words for it.
        ("learning_rate", "lr"),
        ("weight_decay", "wd"),
        ("epochs", "total_epochs"),
        ("max_steps", "total_steps"),
        ("batch_size", "input.batch_size"),
        ("dataset", "input.data"),
        ("optimizer", "optax_name"),
        ("warmup_epochs", "schedule"),
        ("gradient_accumulation_steps", "accum_freq"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, near):
    with pytest.raises(ValueError, match=f"config key '{key}'; did you mean '{near}'"):
        from_config({**GOOD, key: 1})


def test_a_missing_key_is_named():
    wrong = [(key, {k: v for k, v in GOOD.items() if k != key}) for key in GOOD]
    wrong = [(key, config) for key, config in wrong if key != "total_steps"]
    wrong += [(key, {**GOOD, key: None}) for key in ("input", "num_classes")]
    for key, config in wrong:
        with pytest.raises(ValueError, match=f"lacks '{key}'"):
            from_config(config)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lr", "abc", "lr must be a number, got 'abc'"),
        ("lr", None, "lr must be a number, got None"),
        (
            "lr_mults",
            [(".*", "x")],
            r"lr_mults must be a list of pairs \(a string, a num",
        ),
        ("seed", 2**63, "seed must be of at most 64 bits, got 0x8000000000000000"),
        ("mixup", {"p": 10**400}, "mixup.p must be of at most 64 bits"),
        ("wandb", {"tags": {1, 2}}, "wandb.tags must be a number, a string, True"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("mixup", True, "mixup must be a section or None"),
        ("input", 3, "input must be a section"),
        ("evals", 3, "evals must be a section, got 3"),
        ("sharding_strategy", "fsdp", "sharding_strategy must be a list"),
        ("schedule", "cosine", "schedule must be a section or a list"),
        ("tensorboard", "abc", "tensorboard must be True or False"),
        ("dont_load", 3, "dont_load must be a list of strings"),
        ("max_to_keep", "abc", "max_to_keep must be a whole number or None"),
        ("init_head_bias", "abc", "init_head_bias must be a number or None"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(key, value, words):
    with pytest.raises(ValueError, match=f"config key {words}"):
        optim.check_section(from_config({**GOOD, key: value}).optimizer)


def test_keys_are_strings():
    with pytest.raises(ValueError, match=r"section model.a must be strings, got 1"):
        from_config({**GOOD, "model": {"a": {1: 2}}})


def test_duration_keys_come_in_four_spellings():
    for key in durations.keys("log_training"):
        assert from_config({**GOOD, key: 0.5}).durations == {"total_steps": 3, key: 0.5}


def test_none_is_a_value_where_it_means_something():
    """For other keys it means the default: a section that is switched off."""
    base = {"input": {}, "num_classes": 2, "lr": 0.1, "optax_name": "identity"}
    assert from_config(base).max_to_keep == 2
    assert from_config(base | {"max_to_keep": None}).max_to_keep is None
    assert from_config(base | {"accum_freq": None, "model": None}).accum_freq == 1
