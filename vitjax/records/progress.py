"""Show the progress of a run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta

from tqdm import tqdm


class Progress:
    """A display of steps and rows; `show=False`, for all but one process, is silent."""

    def __init__(self, total_steps: int, first_step: int, *, show: bool = True):
        self._stream = sys.stdout
        self._show = show
        self._total = total_steps
        self._bar = None
        if show and self._stream.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                unit="step",
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )

    def advance(self) -> None:
        """Advance the bar by one step."""
        if self._bar is not None:
            with self._until_nobody_reads():
                self._bar.update()

    def row(
        self, step: int, row: Mapping[str, float], eta_seconds: int | float | None
    ) -> None:
        """Show a row of training measurements."""
        parts = [f"loss {row['training_loss']:.4f}"]
        if "lr" in row:  # absent if all parameters are frozen
            parts.append(f"lr {row['lr']:.2e}")
        if "img/sec" in row:  # absent before the second row
            parts.append(f"{row['img/sec']:,.0f} img/s")
        if eta_seconds is not None:
            parts.append(f"ETA {timedelta(seconds=round(eta_seconds))}")
        text = ", ".join(parts)
        if self._bar is not None:
            with self._until_nobody_reads():
                self._bar.set_postfix_str(text)
        else:
            self.say(f"step {step:>{len(str(self._total))}}/{self._total}: {text}")

    def evaluation(self, step: int, row: Mapping[str, float]) -> None:
        """Show a row of evaluation results."""
        text = ", ".join(
            f"{k} {v:.4f}" for k, v in row.items() if not k.startswith("time/")
        )
        self.say(f"step {step:>{len(str(self._total))}}/{self._total}: {text}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self._show:
            return
        with self._until_nobody_reads():
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Close the bar, which stays visible."""
        if self._bar is not None:
            with self._until_nobody_reads():
                self._bar.close()

    @contextlib.contextmanager
    def _until_nobody_reads(self) -> Iterator[None]:
        """Fall silent, and do not end the run, if the reader of a pipe is gone.

        `tee`, for example, ends at Ctrl-C.
        """
        try:
            yield
        except BrokenPipeError:
            self._show, self._bar = False, None
            # The text in the buffer is flushed at exit, and needs an open file.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
