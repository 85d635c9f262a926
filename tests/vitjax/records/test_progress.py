"""The bar on a terminal, plain lines elsewhere, silence on the other processes."""

import io

from vitjax.records.progress import Progress

ROW = {"training_loss": 1.23456, "lr": 1e-3, "img/sec": 1234.5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **kwargs):
    monkeypatch.setattr("sys.stdout", stream)
    progress = Progress(200, 10, **kwargs)
    progress.say("hello")
    progress.advance()
    progress.row(11, ROW, 61)
    progress.evaluation(11, {"val/prec@1": 0.5, "time/eval/val": 3.0})
    progress.close()
    return stream.getvalue()


def test_lines(monkeypatch):
    assert shown(monkeypatch, io.StringIO()).splitlines() == [
        "hello",
        "step  11/200: loss 1.2346, lr 1.00e-03, 1,234 img/s, ETA 0:01:01",
        "step  11/200: val/prec@1 0.5000",
    ]


def test_a_bar_on_a_terminal_keeps_the_lines_above_it(monkeypatch):
    out = shown(monkeypatch, Terminal())
    assert "11/200, loss 1.2346, lr 1.00e-03, 1,234 img/s, ETA 0:01:01" in out
    lines = [part.strip() for part in out.replace("\r", "\n").split("\n")]
    assert "hello" in lines
    assert "step  11/200: val/prec@1 0.5000" in lines


def test_other_processes_are_mute(monkeypatch):
    assert shown(monkeypatch, Terminal(), show=False) == ""
