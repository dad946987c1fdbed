"""Progress of training: one bar in a terminal, a line an evaluation in a pipe."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


class RunProgress(TrainerCallback):
    """Shows what a run does; one object serves all seeds of a command.

    name: what the run is called. metric: the score to show after each evaluation.
    """

    def __init__(self, name: str, metric: str):
        self.name = name
        self.metric = metric
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._told = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._told = 0
        if state.is_world_process_zero:
            self._open(f"{self.name}, seed {args.seed}", state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._bar is not None and logs and "loss" in logs:
            self._bar.update(self._task, note=f"loss {logs['loss']:.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = (metrics or {}).get(f"eval_{self.metric}")
        if score is None or not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, note=f"{self.metric} {score:.3f}")
        elif state.epoch is not None and (args.eval_strategy == "epoch" or int(state.epoch) > self._told):
            # A line an epoch: the published protocol evaluates every few steps.
            self._told = int(state.epoch)
            print(
                f"{self.name}, seed {args.seed}: epoch {state.epoch:g}, {self.metric} {score:.4f}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def teacher_rows(self, done: int, rows: int) -> None:
        """Show how far the teacher's answers are."""
        if self._bar is None:
            self._open("teacher answers", rows, 0)
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        if done == rows:
            self.close()

    def close(self) -> None:
        """Put the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self, title: str, total: int, done: int) -> None:
        self.close()
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="")
        self._bar.start()
