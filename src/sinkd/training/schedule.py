"""When a run evaluates, saves and stops, beside what the Trainer decides."""

import signal
import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from sinkd.training.sampler import SeededSampler


class Schedule(TrainerCallback):
    """The Trainer's schedule with three differences.

    - A save that falls on an epoch's last step waits for the epoch's evaluation: a run that resumed from it would
      otherwise never evaluate that epoch.
    - SIGTERM: a checkpoint at the next step, and a stop without the evaluation that an epoch's end brings.
    - `interval`: steps between evaluations, as a function of the step; None from it means once an epoch. Without the
      function the Trainer's `eval_strategy` decides.

    steps_per_epoch: how many updates an epoch has, known once training begins.
    """

    def __init__(self, steps_per_epoch: Callable[[], int], interval: Callable[[int], int | None] | None = None):
        self.steps_per_epoch = steps_per_epoch
        self.interval = interval
        self.terminated = False
        self.sampler: SeededSampler | None = None
        self._save_at_epoch_end = False
        self._previous: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._terminate)

    def on_train_end(self, args, state, control, **kwargs):
        self.release()

    def release(self) -> None:
        """Give SIGTERM back to whoever had it before training."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Accelerate's wrappers do not pass the epoch on after a resume with several processes.
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        if self.interval is not None:
            steps = self.interval(state.global_step)
            control.should_evaluate = steps is not None and state.global_step % steps == 0
        if self.terminated:
            control.should_training_stop = control.should_save = True
        if state.global_step % self.steps_per_epoch() == 0 or state.global_step >= state.max_steps:
            self._save_at_epoch_end = control.should_save or args.save_strategy != "no"
            control.should_save = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.terminated and not self._save_at_epoch_end:
            control.should_evaluate = control.should_log = control.should_save = False
            return
        if self.interval is not None:
            due = self.interval(state.global_step) is None or state.global_step >= state.max_steps
            evaluated = any("eval_runtime" in log and log["step"] == state.global_step for log in state.log_history)
            control.should_evaluate = due and not evaluated
        control.should_save = self._save_at_epoch_end
        self._save_at_epoch_end = False

    def _terminate(self, signum: int, frame: Any) -> None:
        self.terminated = True


def published_interval(task_name: str, distils: bool) -> Callable[[int], int | None]:
    """How often the published scripts evaluate: teachers every 20 steps, students every 5.

    MNLI's students are evaluated once an epoch, and every 200 steps after step 30,000.
    """
    if distils and task_name == "glue/mnli":
        return lambda step: 200 if step > 30_000 else None
    return lambda step: 5 if distils else 20
