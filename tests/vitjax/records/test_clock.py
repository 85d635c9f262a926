"""Throughput and time left, with a clock that the test moves."""

from vitjax.records.clock import Clock


class Hand:
    now = 0.0

    def __call__(self):
        return self.now


def make(hand):
    return Clock(total_steps=100, batch_size=32, data_size=640, num_devices=4, now=hand)


def test_rates_leave_out_pauses_and_the_first_step():
    hand = Hand()
    clock = make(hand)
    hand.now = 60.0  # compiling
    first = clock.tick(1)
    assert "img/sec" not in first
    assert first["examples_seen"] == 32
    assert clock.eta_seconds(1) is None
    clock.begin(1)
    hand.now = 62.0
    row = clock.tick(11)
    assert row["img/sec"] == 10 * 32 / 2
    assert row["img/sec/core"] == 40.0
    assert row["epoch"] == 11 * 32 / 640
    assert row["progress"] == 0.11
    assert clock.eta_seconds(11) == 89 * 32 / 160
    hand.now = 64.0
    clock.pause(21)  # an evaluation of 1000 s
    hand.now = 1064.0
    clock.begin(21)
    hand.now = 1066.0
    row = clock.tick(41)
    assert row["img/sec"] == 20 * 32 / 2
    assert row["time/uptime"] == 1066.0
    assert row["time/core_hours"] == (2 + 2 + 2) * 4 / 3600


def test_core_hours_go_on_after_a_resume():
    hand = Hand()
    clock = make(hand)
    clock.begin(0)
    hand.now = 3600.0
    clock.pause(10)
    other = make(Hand())
    other.restore(clock.state())
    assert other.tick(10)["time/core_hours"] == 4.0
