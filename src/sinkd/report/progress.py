"""Progress: bars at the foot of a terminal, plain lines in a pipe. Both go to standard error."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


def bars() -> Progress:
    """Bars that disappear at the end; without a terminal, nothing is shown."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


class RunProgress(TrainerCallback):
    """Shows one run at a time: the teacher's answers, then training; serves all seeds of a command.

    Args:
        name: the run's name.
        metric: the score to show after each evaluation; None if nothing is evaluated.
    """

    def __init__(self, name: str, metric: str | None):
        self.name = name
        self.metric = metric
        self._bars: Progress | None = None
        self._last_epoch = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._last_epoch = 0
        if state.is_world_process_zero:
            self._open(f"{self.name}, seed {args.seed}", state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self._update(completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self._update(note=f"loss {logs['loss']:.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = (metrics or {}).get(f"eval_{self.metric}")
        if score is None or not state.is_world_process_zero:
            return
        self._update(note=f"{self.metric} {score:.3f}")
        # In a pipe, one line per epoch, since the published protocol evaluates every few steps.
        new_epoch = state.epoch is not None and (args.eval_strategy == "epoch" or int(state.epoch) > self._last_epoch)
        if new_epoch:
            self._last_epoch = int(state.epoch)
            self._line(args, state, f", {self.metric} {score:.4f}")

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.metric is None and state.is_world_process_zero:
            self._line(args, state, "")

    def _line(self, args, state, score: str) -> None:
        """In a pipe, print the epoch and its score."""
        if self._bars is None or self._bars.disable:
            epoch = f"epoch {state.epoch:g} of {state.num_train_epochs:g}"
            print(f"{self.name}, seed {args.seed}: {epoch}{score}", file=sys.stderr, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        self._close()

    def teacher_rows(self, done: int, rows: int) -> None:
        """Show how many rows the teacher has answered, and how many a second."""
        if self._bars is None:
            self._open("teacher answers", rows, 0)
        self._update(completed=done)
        assert self._bars is not None
        if speed := self._bars.tasks[0].speed:
            self._update(note=f"{speed:,.1f} rows a second")
        if done == rows:
            self._close()

    def _open(self, title: str, total: int, done: int) -> None:
        self._close()
        self._bars = bars()
        self._bars.add_task(title, total=total, completed=done, note="")
        self._bars.start()

    def _update(self, **fields: object) -> None:
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], **fields)  # type: ignore[arg-type]

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


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
