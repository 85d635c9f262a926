"""The message when another process has died; test_processes.py has whole runs."""

import jax
import pytest

from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.devices import peers


def test_the_sentence_names_the_last_checkpoint(tmp_path):
    assert "there is no checkpoint yet: start all" in peers.farewell(tmp_path)
    for name in ("5", "10", "15.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert "the last checkpoint is of step 10: start all" in peers.farewell(tmp_path)


def test_only_a_broken_connection_among_several_is_a_lost_peer(monkeypatch):
    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo: Connection closed by peer")
    own = jax.errors.JaxRuntimeError(
        "INTERNAL: NCCL operation failed: out of memory; peer access is not enabled"
    )
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    assert not peers.is_lost(lost), "one process has no peer"
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert peers.is_lost(lost)
    assert not peers.is_lost(full)
    assert not peers.is_lost(own)
    ends = []
    monkeypatch.setattr(peers, "exit_within", lambda *args: ends.append(args))
    with pytest.raises(jax.errors.JaxRuntimeError), peers.left_at_once("nowhere"):
        raise full
    [(seconds, status, told)] = ends
    assert (seconds, status) == (30, 1)
    assert "RESOURCE_EXHAUSTED: out of memory" in told


def test_a_lost_peer_is_not_taken_for_a_full_disk(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    with pytest.raises(jax.errors.JaxRuntimeError):
        checkpointer._failed(jax.errors.JaxRuntimeError("Barrier failed"))
    checkpointer.close()
