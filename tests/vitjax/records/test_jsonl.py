"""Records on disk."""

import gc
import json
import math
import resource
import threading
import types

import pytest

from vitjax.records import curves, jsonl, sinks


def test_each_row_is_one_line_under_its_step(tmp_path):
    sink = jsonl.JsonlSink(tmp_path)
    sink.write(1, {"a": 0.5})
    sink.write(3, {"a": math.nan, "b": math.inf})
    sink.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert strict == [{"step": 1, "a": 0.5}, {"step": 3, "a": "nan", "b": "inf"}]


def test_rows_after_a_step_are_cut_and_a_torn_last_line_too(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2, "a": 1}\n{"step": 3}\n{"step": 4, "a"')
    jsonl.cut_after(tmp_path, 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2, "a": 1}\n'
    assert jsonl.names_at(tmp_path, 2) == {"step", "a"}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_row_without_room_leaves_nothing(tmp_path):
    sink = jsonl.JsonlSink(tmp_path)
    sink.write(1, {"loss": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(OSError, match=r"large|space"):
            sink.write(2, {"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.write(2, {"loss": 0.25})
    sink.close()
    expected = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == expected


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        jsonl.read_rows(tmp_path)


def test_tensorboard_event_files_hold_the_scalars(tmp_path):
    """Read with TensorFlow's own record reader and event protocol."""
    import tensorflow as tf
    from tensorboardX.proto.event_pb2 import Event

    writer = sinks.make_writer(tmp_path, {}, first_step=0)
    writer.write(7, {"val/prec@1": 0.25})
    writer.close()
    [file] = (tmp_path / "tensorboard").iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = Event.FromString(record)
        for value in event.summary.value:
            found[event.step, value.tag] = value.simple_value
    assert found == {(7, "val/prec@1"): 0.25}


def test_tensorboard_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way\n")
    writer = sinks.make_writer(tmp_path, {}, first_step=0)
    writer.write(7, {"loss": 0.25})
    writer.write(8, {"loss": 0.5})
    writer.close()
    [record] = caplog.records
    assert "TensorBoard's files cannot be written" in record.getMessage()
    assert "metrics.jsonl has every row" in record.getMessage()
    assert [row["step"] for row in jsonl.read_rows(tmp_path)] == [7, 8]


def test_a_disk_that_fills_up_later_ends_tensorboard_only(tmp_path, caplog):
    sink = sinks.TensorBoardSink(tmp_path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for step in range(100):
            sink.write(step, {"loss": 0.5})
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    [record] = caplog.records
    assert "File too large" in record.getMessage()
    del sink
    gc.collect()  # an open file would be a ResourceWarning, and so an error


@pytest.mark.filterwarnings("ignore:::wandb", "ignore::ResourceWarning")
def test_a_run_does_not_wait_for_wandb(tmp_path, monkeypatch, caplog):
    """The start, and rows: only the end waits for a server that is slow to answer."""
    import wandb

    answer, sent = threading.Event(), []
    run = types.SimpleNamespace(
        step=0, log=lambda row, step: sent.append((step, row)), finish=lambda: None
    )

    def init(**_):
        assert answer.wait(30)
        return run

    monkeypatch.setattr(wandb, "init", init)
    sink = sinks.WandbSink(tmp_path, {}, project="test")
    for step in range(20):
        sink.write(step, {"a": float(step)})
    assert sent == []
    answer.set()
    sink.close()
    assert sent == [(step, {"a": float(step)}) for step in range(20)]


def test_the_curves_are_drawn_from_the_rows(tmp_path):
    from PIL import Image

    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "training_loss": 2.3, "lr": 0.0, "l2_grads": 1.0}\n'
        '{"step": 5, "val/prec@1": 0.5, "val/loss": 1.0}\n'
        '{"step": 9, "training_loss": "nan", "lr": 0.1, "l2_grads": 0.5}\n'
    )
    with Image.open(curves.plot_curves(tmp_path)) as picture:
        assert min(picture.size) >= 600
        assert len(picture.convert("RGB").getcolors(10**6)) > 20


@pytest.fixture
def wandb_quiet(monkeypatch, tmp_path):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb_cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
    wandb.teardown()  # it reads the environment once


@pytest.mark.filterwarnings("ignore:::wandb", "ignore::ResourceWarning")
def test_wandb_works_offline_and_keeps_its_run_id(tmp_path, wandb_quiet):
    ids = []
    for first_step in (0, 5):
        writer = sinks.make_writer(
            tmp_path,
            {"lr": 0.1},
            first_step=first_step,
            tensorboard=False,
            wandb={"project": "test", "mode": "offline"},
        )
        writer.write(first_step + 1, {"training_loss": 1.0})
        ids.append(writer.sinks[1]._run.result().id)
        writer.close()
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.filterwarnings("ignore:::wandb", "ignore::ResourceWarning")
def test_wandb_that_cannot_be_reached_goes_offline_with_one_warning(
    tmp_path, wandb_quiet, monkeypatch, caplog
):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    sink = sinks.WandbSink(tmp_path, {}, project="test", init_timeout=2)
    sink.write(1, {"a": 1.0})
    assert sink._run.result().offline
    sink.close()
    [record] = [r for r in caplog.records if "recorded offline" in r.getMessage()]
    assert "wandb sync" in record.getMessage()
