"""Progress: bars at the foot of a terminal, plain lines in a pipe. Both go to standard error."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from sinkd.training.training_log import MeterReader


def bars() -> Progress:
    """Bars that disappear at the end; without a terminal, nothing is shown."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(overflow="fold")),  # wraps if narrow
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


class Line:
    """A live line in a terminal; in a pipe a plain line, once a minute.

    Args:
        title: What is done.
        unit: What is counted.
        total, done: How many there are, and how many are done already.
    """

    def __init__(self, title: str, unit: str, total: int, done: int):
        self.title, self.unit, self.total, self.done, self._before = title, unit, total, done, done
        self._began = self._shown = time.monotonic()
        self._bars = bars()
        self._task = self._bars.add_task(title, total=total, completed=done, note="")
        self._bars.start()

    @property
    def live(self) -> bool:
        return not self._bars.disable

    @property
    def due(self) -> bool:
        """True if the line is to be shown again."""
        return time.monotonic() - self._shown >= (0.2 if self.live else 60)

    def show(self, done: int, note: str) -> None:
        """Show how many are done, the note, and the time left."""
        self._shown = time.monotonic()
        self._bars.update(self._task, completed=done, note=note)
        if not self.live:
            speed = self.speed(done)
            left = f", {timedelta(seconds=round((self.total - done) / speed))} left" if speed > 0 else ""
            self.say(f"{self.unit} {done:,} of {self.total:,}, {note}{left}")

    def speed(self, done: int) -> float:
        """How many were done a second."""
        return (done - self._before) / max(time.monotonic() - self._began, 1e-9)

    def say(self, text: str) -> None:
        """Print a plain line, in a pipe alone."""
        if not self.live:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bars.stop()


class RunProgress(MeterReader):
    """Shows one run at a time: the teacher's answers, then training; serves all seeds of a command.

    Args:
        metric: the score to show after each evaluation; None if nothing is evaluated.
    """

    def __init__(self, name: str, metric: str | None):
        self.name = name
        self.metric = metric
        self._line: Line | None = None
        self._last_epoch = 0
        self._score: float | None = None
        self._best: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._last_epoch, self._score, self._best = 0, None, state.best_metric
        if state.is_world_process_zero:
            self._open(f"{self.name}, seed {args.seed}", "step", state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._line is not None and self._line.due and self.meter.steps:
            self._line.show(state.global_step, self._note())

    def _note(self) -> str:
        """Loss and parts since the last line of the log, scores, and speed."""
        loss, *parts = self.meter.means().items()
        by_part = ", ".join(f"{name} {value:.4g}" for name, value in parts)
        told = [f"loss {loss[1]:.4g}" + (f" ({by_part})" if len(parts) > 1 else "")]
        scores = {str(self.metric): self._score, "best": self._best}
        told += [f"{name} {score:.4f}" for name, score in scores.items() if score is not None]
        return ", ".join([*told, f"{self.meter.speed:,.0f} rows/s"])

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = (metrics or {}).get(f"eval_{self.metric}")
        if score is None or self._line is None:
            return
        self._score, self._best = score, score if self._best is None else max(score, self._best)
        # In a pipe, one line per epoch, since the published protocol evaluates every few steps.
        new_epoch = state.epoch is not None and (args.eval_strategy == "epoch" or int(state.epoch) > self._last_epoch)
        if new_epoch:
            self._last_epoch = int(state.epoch)
            self._line.say(f"{_epoch(state)}, {self.metric} {score:.4f}")

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.metric is None and self._line is not None:
            self._line.say(_epoch(state))

    def on_train_end(self, args, state, control, **kwargs):
        self._close()

    def teacher_rows(self, done: int, rows: int) -> None:
        """Show how many rows the teacher has answered, and how many a second."""
        if os.environ.get("RANK", "0") != "0":
            return
        if self._line is None or rows != self._line.total or done < self._line.done:  # of another split or teacher
            self._open("teacher's answers", "row", rows, done)
        assert self._line is not None
        self._line.done = done
        if self._line.due:
            self._line.show(done, f"{self._line.speed(done):,.1f} rows/s")
        if done == rows:
            self._close()

    def _open(self, title: str, unit: str, total: int, done: int) -> None:
        self._close()
        self._line = Line(title, unit, total, done)

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def _epoch(state) -> str:
    return f"epoch {state.epoch:g} of {state.num_train_epochs:g}"


class TrialProgress:
    """Shows how many trials have ended and the progress of running ones; usable from any thread."""

    def __init__(self, shown: Progress, total: int):
        self._bars = shown
        self._all = shown.add_task("trials", total=total, note="")
        self._running: dict[str, TaskID] = {}

    def line(self, trial: str, line: str) -> None:
        """Show that a trial runs, and its evaluation if the line is one that `RunProgress` prints for it."""
        if trial not in self._running:
            self._running[trial] = self._bars.add_task(f"  {trial}", total=None, note="")
        told = re.search(r", (seed \d+): epoch (\S+) of ([^\s,]+)(?:, (.+))?", line)
        if told is None:
            return
        seed, epoch, epochs, score = told.groups()
        if self._bars.disable:
            print(f"{trial}, {told[0][2:]}", file=sys.stderr, flush=True)
            return
        title = f"  {trial}, {seed}"
        self._bars.update(
            self._running[trial], description=title, total=float(epochs), completed=float(epoch), note=score or ""
        )

    def ended(self, trial: str) -> None:
        """Count a trial, and remove its bar."""
        self._bars.advance(self._all)
        if trial in self._running:
            self._bars.remove_task(self._running.pop(trial))


@contextmanager
def show_trials(total: int) -> Iterator[TrialProgress]:
    """Show the progress of `total` trials inside the block."""
    with bars() as shown:
        yield TrialProgress(shown, total)
