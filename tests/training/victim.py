"""Runs a sinkd command that something happens to: `victim.py step 7 distill ...`, `victim.py save 2 ...`.

step N: SIGKILL right after update N. save N: the same in the middle of writing the N-th checkpoint, with half of its
files on disk. terminate N: SIGTERM. worker N: SIGKILL for the second process of the first attempt alone. one N: SIGTERM
for the second process alone. nan N: the student of the second process gives NaN.
"""

import os
import signal
import sys
from functools import partial

import torch

from sinkd.cli.main import main
from sinkd.training.schedule import Schedule
from sinkd.training.trainer import TaskTrainer


def signal_at_step(signum: int, number: int) -> None:
    on_step_begin = Schedule.on_step_begin

    def patched(self, args, state, control, **kwargs):
        if state.global_step == number:
            os.kill(os.getpid(), signum)
        return on_step_begin(self, args, state, control, **kwargs)

    Schedule.on_step_begin = patched


def die_in_save(number: int) -> None:
    write = TaskTrainer._save_optimizer_and_scheduler
    saves = []

    def patched(self, output_dir):
        saves.append(output_dir)
        if len(saves) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, output_dir)

    TaskTrainer._save_optimizer_and_scheduler = patched


def second_process_dies(number: int) -> None:
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        signal_at_step(signal.SIGKILL, number)


def second_process_is_told_to_stop(number: int) -> None:
    if os.environ["RANK"] == "1":
        signal_at_step(signal.SIGTERM, number)


def second_process_gives_nan(number: int) -> None:
    compute_loss = TaskTrainer.compute_loss

    def patched(self, model, inputs, **kwargs):
        if self.args.process_index == 1 and self.state.global_step == number:
            torch.nn.init.constant_(model.module.classifier.bias, float("nan"))
        return compute_loss(self, model, inputs, **kwargs)

    TaskTrainer.compute_loss = patched


MOMENTS = {
    "step": partial(signal_at_step, signal.SIGKILL),
    "save": die_in_save,
    "terminate": partial(signal_at_step, signal.SIGTERM),
    "worker": second_process_dies,
    "one": second_process_is_told_to_stop,
    "nan": second_process_gives_nan,
}

if __name__ == "__main__":
    moment, number, *argv = sys.argv[1:]
    MOMENTS[moment](int(number))
    sys.exit(main(argv))
