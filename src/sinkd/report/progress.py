"""Progress of training: one bar in a terminal, a line an evaluation in a pipe."""

import sys
from typing import Protocol

from transformers import TrainerCallback

from sinkd.report.bar import Bar


class Shows(Protocol):
    """What can stand for a `Bar`."""

    @property
    def shown(self) -> bool: ...
    def open(self, title: str, total: int, done: int) -> None: ...
    def move(self, done: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class RunProgress(TrainerCallback):
    """Shows what a run does; one object serves all seeds of a command.

    name: what the run is called. metric: the score to show after each evaluation. bar: where it is shown.
    """

    def __init__(self, name: str, metric: str, bar: Shows | None = None):
        self.name = name
        self.metric = metric
        self.bar = Bar() if bar is None else bar
        self._told = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._told = 0
        if state.is_world_process_zero:
            self.bar.open(f"{self.name}, seed {args.seed}", state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.move(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.note(f"loss {logs['loss']:.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        score = (metrics or {}).get(f"eval_{self.metric}")
        if score is None or not state.is_world_process_zero:
            return
        if self.bar.shown:
            self.bar.note(f"{self.metric} {score:.3f}")
        elif state.epoch is not None and (args.eval_strategy == "epoch" or int(state.epoch) > self._told):
            # A line an epoch: the published protocol evaluates every few steps.
            self._told = int(state.epoch)
            print(
                f"{self.name}, seed {args.seed}: epoch {state.epoch:g}, {self.metric} {score:.4f}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def teacher_rows(self, done: int, rows: int) -> None:
        """Show how far the teacher's answers are."""
        if not self.bar.shown:
            self.bar.open("teacher answers", rows, 0)
        self.bar.move(done)
        if done == rows:
            self.bar.close()
