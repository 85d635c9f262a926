import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.optim.schedules import make_schedule

RUN = {"total_steps": 200, "batch_size": 512, "data_size": 5120}


def decayed(kind, base, step, warmup, total, **kw):
    """The decay alone, one step at a time, in float64."""
    progress = min(max((step - warmup) / (total - warmup), 0), 1)
    if kind == "cosine":
        return base * math.cos(math.pi / 2 * progress) ** 2
    if kind in ("linear", "polynomial"):
        end, power = kw.get("end", 0), kw.get("power", 1)
        return base * (1 - progress) ** power + end * (1 - (1 - progress) ** power)
    if kind == "rsqrt":
        shift, timescale = kw.get("shift", 0), kw.get("timescale", 10_000)
        after = step - warmup if step > warmup else 0
        return base * math.sqrt(timescale / (timescale + after + shift))
    factor = 1
    for boundary, mult in zip(kw.get("steps", ()), kw.get("mults", ()), strict=True):
        factor = mult if step >= boundary else factor
    return base * factor


# Each kind whole; and without multiplier, warm-up and cool-down.
@pytest.mark.parametrize(
    ("mult", "warmup", "cooldown"), [(1.0, 0, 0), (0.3, 20, 30)], ids=str
)
@pytest.mark.parametrize(
    ("kind", "kw"),
    [
        ("cosine", {}),
        ("linear", {}),
        ("linear", {"end": 0.1}),
        ("polynomial", {"end": 0.01, "power": 2}),
        ("rsqrt", {}),
        ("rsqrt", {"timescale": 50, "shift": 7}),
        ("stair", {}),
        ("stair", {"steps": [40, 41, 120], "mults": [0.5, 0.25, 2.0]}),
    ],
    ids=str,
)
def test_every_kind(kind, kw, mult, warmup, cooldown):
    schedule = make_schedule(
        **RUN,
        mult=mult,
        decay_type=kind,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        **kw,
    )
    expected = []
    for step in range(201):
        value = decayed(kind, mult, step, warmup, 200, **kw)
        value *= step / warmup if step < warmup else 1
        value *= (200 - step) / cooldown if 200 - step < cooldown else 1
        expected.append(value)
    got = jax.jit(schedule)(jnp.arange(201))
    assert got.dtype == jnp.float32
    # Differences of float32 near 1 lose up to 2**-24 absolutely.
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7)


def test_the_reference_recipe():
    schedule = make_schedule(
        total_steps=111477,
        batch_size=1024,
        data_size=1268355,
        decay_type="cosine",
        warmup_steps=10_000,
    )
    for fn in (schedule, jax.jit(schedule)):
        np.testing.assert_allclose(fn(1), 1e-4, rtol=1e-6)
        np.testing.assert_allclose(fn(60_000), 0.51143, atol=5e-6)
        assert [fn(step) for step in (0, 5000, 10_000, 111_476)] == [0, 0.5, 1, 0]


def test_without_settings_the_schedule_is_constant():
    np.testing.assert_array_equal(make_schedule(**RUN)(jnp.arange(200)), np.ones(200))


@pytest.mark.parametrize("prefix", ["warmup", "cooldown", "timescale", "shift"])
def test_durations_in_every_unit(prefix):
    def values(**kw):
        return make_schedule(**RUN, decay_type="rsqrt", **kw)(jnp.arange(200))

    expected = values(**{f"{prefix}_steps": 20})
    # 20 steps of 512 are 2 epochs of 5,120 examples and a tenth of 200 steps.
    for unit, value in {"examples": 10_240, "epochs": 2, "percent": 0.1}.items():
        np.testing.assert_array_equal(values(**{f"{prefix}_{unit}": value}), expected)
    assert not np.array_equal(expected, values())
    if prefix in ("timescale", "shift"):
        np.testing.assert_array_equal(values(**{prefix: 20}), expected)


def test_scale_with_batchsize():
    scaled = make_schedule(**RUN, scale_with_batchsize=True, mult=0.3)
    np.testing.assert_allclose(scaled(5), 0.3 * 2, rtol=1e-6)
    with pytest.raises(ValueError, match="needs batch_size"):
        make_schedule(
            total_steps=2, batch_size=None, data_size=None, scale_with_batchsize=True
        )


def test_an_int_an_array_and_a_traced_step_agree():
    schedule = make_schedule(**RUN, decay_type="rsqrt", warmup_steps=30, timescale=7)
    ints = [float(schedule(step)) for step in range(0, 200, 9)]
    traced = [float(jax.jit(schedule)(jnp.int32(step))) for step in range(0, 200, 9)]
    np.testing.assert_allclose(ints, traced, rtol=3e-7)
    np.testing.assert_allclose(schedule(jnp.arange(0, 200, 9)), ints, rtol=3e-7)
    assert schedule(np.arange(6).reshape(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("total", [0, 1])
def test_a_run_of_no_or_one_step_may_be_shorter_than_its_warmup(total):
    run = {**RUN, "total_steps": total}
    for kind in ("cosine", "linear", "rsqrt", "stair"):
        assert make_schedule(**run, decay_type=kind, warmup_steps=10)(0) == 0


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"decay_type": "cosin"}, "unknown decay_type 'cosin'; did you mean 'cosine'"),
        ({"warm_up_steps": 1}, "key of a stair.*did you mean 'warmup_steps'"),
        ({"decay_type": "cosine", "power": 2}, "key of a cosine schedule 'power'"),
        ({"timescale_steps": 2}, "key of a stair schedule 'timescale_steps'"),
        ({"warmup_steps": 200}, "warm-up of 200 steps must be shorter than.* of 200"),
        ({"warmup_epochs": 21}, "warm-up of 210 steps"),
        ({"warmup_steps": 1, "warmup_epochs": 1}, "warmup_steps, warmup_epochs"),
        ({"warmup_offset": 2}, "warmup_offset must be 0 or 1, got 2"),
        ({"end": 0.1}, "key of a stair schedule 'end'"),
        ({"cooldown_steps": -1}, "cooldown_steps must be"),
        ({"decay_type": "rsqrt", "shift": 1, "shift_steps": 1}, "shift is given twice"),
        ({"steps": [1, 2], "mults": [1.0]}, "one mult for each"),
        ({"steps": [2, 1], "mults": [1.0, 2.0]}, "ascending"),
        ({"steps": ["a"], "mults": [1.0]}, "schedule.steps must be a list of whole"),
        ({"steps": [200], "mults": [1.0]}, "at steps .200., but the run ends after"),
        ({"percent": [30], "mults": [1.0]}, "at least 0 and below 1, got .30."),
        ({"percent": [0.1], "steps": [2], "mults": [1.0]}, "got both"),
        ({"mults": [1.0]}, "one mult for each"),
        ({"steps": [-(2**40)], "mults": [1.0]}, "a stair schedule with .* fails"),
        ({"decay_type": "linear", "end": []}, "schedule.end must be a number"),
    ],
)
def test_errors(kw, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**RUN, **kw)


@pytest.mark.parametrize(
    ("lr", "run", "kw", "expected"),
    [  # as nanoViT's logs of steps 4 to 6 have them, and its step 7
        (
            6e-4,
            {"total_steps": 1000},
            {"decay_type": "odd_cosine", "warmup_percent": 0.05},
            {0: 1.2e-5, 100: 7.9537e-4, 500: 5.1770e-4, 900: 2.7368e-4},
        ),
        (
            3e-4,
            {"total_steps": 10_000},
            {"decay_type": "odd_cosine", "warmup_percent": 0.1},
            {0: 3.0e-7, 100: 3.03e-5, 1000: 3.9686e-4, 9000: 1.35e-4, 9900: 1.4161e-4},
        ),
        (
            3e-4,
            {"total_steps": 400_000},
            {"decay_type": "cosine", "end": 0.1, "warmup_steps": 20_000},
            {0: 1.5e-8, 19_999: 3e-4, 20_000: 3e-4, 210_000: 1.65e-4, 400_000: 3e-5},
        ),
    ],
)  # fmt: skip
def test_the_rates_of_nanovit(lr, run, kw, expected):
    schedule = make_schedule(**{**RUN, **run}, warmup_offset=1, **kw)
    for step, rate in expected.items():
        assert lr * float(schedule(step)) == pytest.approx(rate, rel=2e-5), step


def test_the_floor_is_a_fraction_of_where_the_cosine_starts():
    schedule = make_schedule(**RUN, mult=0.5, decay_type="cosine", end=0.2)
    np.testing.assert_allclose(
        [schedule(0), schedule(100), schedule(200)], [0.5, 0.3, 0.1], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["cosine", "odd_cosine", "rsqrt", "stair"])
def test_an_offset_warm_up_begins_one_step_further(kind):
    schedule, offset = (
        make_schedule(**RUN, decay_type=kind, warmup_steps=10, warmup_offset=o)
        for o in (0, 1)
    )
    np.testing.assert_allclose(offset(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(offset(jnp.arange(9)), schedule(jnp.arange(1, 10)))
    after = jnp.arange(10, 200)
    np.testing.assert_array_equal(offset(after), schedule(after))
