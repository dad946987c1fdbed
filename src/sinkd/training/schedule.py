"""Decide when a run evaluates, saves and stops, in addition to the Trainer's settings."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from sinkd.training.gather import summed, world_size

ASKS_EVERY = 10
"""Steps between two questions whether a process was told to stop, where each waits for the accelerator."""


class Schedule(TrainerCallback):
    """The Trainer's schedule with four differences.

    - A save at an epoch's last step waits for the epoch's evaluation; otherwise a run that resumes from it would never
      evaluate that epoch.
    - After SIGTERM or Ctrl-C the run saves a checkpoint at the next step and stops, without an end-of-epoch evaluation.
      Several processes stop at the same step, also if only one was told to: on accelerators, within `ASKS_EVERY` steps.
    - `interval` replaces the Trainer's `eval_strategy`.
    - Without a dev set nothing is evaluated.

    Args:
        interval: step -> steps between evaluations, or None for once per epoch.
        evaluates: There is a dev set.
    """

    def __init__(self, interval: Callable[[int], int | None] | None = None, evaluates: bool = True):
        self.interval = interval
        self.evaluates = evaluates
        self.terminated = self.interrupted = False
        self._stops = self._save_at_epoch_end = False

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Set `terminated` on SIGTERM or Ctrl-C while the block runs; works only in the main thread.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is written; a second Ctrl-C raises it at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._terminate)}
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not in the background
            before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
        if self.interrupted:
            raise KeyboardInterrupt

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Accelerate's wrappers do not pass on the epoch after a resume with several processes.
        train_dataloader.batch_sampler.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs):
        if self.interval is not None:
            steps = self.interval(state.global_step)
            control.should_evaluate = steps is not None and state.global_step % steps == 0
        control.should_evaluate &= self.evaluates
        self._stops = self._agree_to_stop(args.device, state.global_step)
        if self._stops:
            control.should_training_stop = control.should_save = True
        if state.epoch == int(state.epoch) or state.global_step >= state.max_steps:
            self._save_at_epoch_end = control.should_save or args.save_strategy != "no"
            control.should_save = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._stops and not self._save_at_epoch_end:
            control.should_evaluate = control.should_log = control.should_save = False
            return
        if self.interval is not None:
            due = self.interval(state.global_step) is None or state.global_step >= state.max_steps
            evaluated = any("eval_runtime" in log and log["step"] == state.global_step for log in state.log_history)
            control.should_evaluate = due and not evaluated
        control.should_evaluate &= self.evaluates
        control.should_save = self._save_at_epoch_end
        self._save_at_epoch_end = False

    def _agree_to_stop(self, device: torch.device, step: int) -> bool:
        """True if any process was told to stop. One that stopped alone would leave the others waiting for it."""
        if world_size() == 1:
            return self.terminated
        if device.type != "cpu" and step % ASKS_EVERY:
            return False
        stops = bool(summed(torch.tensor(int(self.terminated)), device))
        if stops:  # a signal that came meanwhile is for the next question
            self.terminated = True
        return stops

    def _terminate(self, signum: int, frame: Any) -> None:
        self.terminated = True

    def _interrupt(self, signum: int, frame: Any) -> None:
        self.terminated = self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("sinkd: saving a checkpoint after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)


def published_interval(task_name: str, distils: bool) -> Callable[[int], int | None]:
    """How often the published scripts evaluate: teachers every 20 steps, students every 5.

    MNLI's students are evaluated once per epoch, and every 200 steps after step 30,000.
    """
    if distils and task_name == "glue/mnli":
        return lambda step: 200 if step > 30_000 else None
    return lambda step: 5 if distils else 20
