"""The lock of a workdir in a bucket. Beats are short; no clocks are compared."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from input_pipeline import bucket
from vitjax.mirror.lock import NAME, Lock, Lost

SHORT = {"beat": 0.1, "patience": 0.6}


@pytest.fixture
def folder(remote):
    return bucket.Bucket.open(remote.url)


def quiet(text):
    pass


def test_of_runs_that_start_at_once_one_gets_the_lock(folder):
    """The winner's beats tell the others that it is alive."""

    def start(_):
        lock = Lock(folder, **SHORT)
        try:
            lock.acquire(quiet)
        except ValueError as error:
            return str(error)
        lock.keep(lambda error: None)
        return lock

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(start, range(6)))
    [winner] = [x for x in found if isinstance(x, Lock)]
    said = [x for x in found if isinstance(x, str)]
    winner.release()
    assert len(said) == 5
    assert all("another run, process" in x and "stop it first" in x for x in said)
    assert folder.find(NAME) is None


def test_the_lock_of_a_dead_run_is_taken_and_its_next_beat_is_lost(folder):
    dead, new = Lock(folder, **SHORT), Lock(folder, **SHORT)
    dead.acquire(quiet)
    told = []
    new.acquire(told.append)  # waits for the patience
    assert len(told) == 1
    assert "waiting up to" in told[0]
    with pytest.raises(Lost, match="no longer this run's"):
        dead.beat()
    new.beat()


def test_a_dead_lock_is_taken_by_one_only(folder):
    Lock(folder, **SHORT).acquire(quiet)

    def take(_):
        lock = Lock(folder, **SHORT)
        try:
            lock.acquire(quiet)
        except ValueError:
            return 0
        lock.keep(lambda error: None)
        time.sleep(1.5)  # alive while the others look
        lock.release()
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1


def test_force_takes_a_live_lock_whose_run_then_ends(folder):
    alive = Lock(folder, **SHORT)
    alive.acquire(quiet)
    lost = threading.Event()
    alive.keep(lambda error: lost.set())
    Lock(folder, **SHORT).acquire(quiet, force=True)
    assert lost.wait(5)


def test_the_lock_of_the_run_before_in_this_place_is_taken_at_once(folder):
    before = Lock(folder, beat=0.1, patience=1000)
    before.acquire(quiet)
    Lock(folder, dead=before.owner, beat=0.1, patience=1000).acquire(quiet)


def test_a_put_without_an_answer_is_known_as_ones_own(folder, remote):
    remote.fail("lost", 1, method="PUT")
    lock = Lock(folder, **SHORT)
    lock.acquire(quiet)
    assert remote.set()["failed"] == 1
    remote.fail("lost", 1, method="PUT")
    lock.beat()
    content, _ = folder.find(NAME)
    assert json.loads(content)["owner"] == lock.owner


def test_a_bucket_without_an_answer_does_not_end_the_run(folder, remote):
    lock = Lock(folder, **SHORT)
    lock.acquire(quiet)
    remote.fail("401", 3, method="PUT")
    lost = threading.Event()
    lock.keep(lambda error: lost.set())
    time.sleep(1)
    assert not lost.is_set()
    lock.release()
    assert folder.find(NAME) is None
