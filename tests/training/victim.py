"""Runs a sinkd command that dies by SIGKILL at a chosen moment: `victim.py step 7 distill ...`, `victim.py save 2 ...`.

step N: right after update N. save N: in the middle of writing the N-th checkpoint, with half of its files on disk.
"""

import os
import signal
import sys

from sinkd.cli.main import main
from sinkd.training.schedule import Schedule
from sinkd.training.trainer import TaskTrainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(number: int) -> None:
    on_step_begin = Schedule.on_step_begin

    def patched(self, args, state, control, **kwargs):
        if state.global_step == number:
            die()
        return on_step_begin(self, args, state, control, **kwargs)

    Schedule.on_step_begin = patched


def die_in_save(number: int) -> None:
    write = TaskTrainer._save_optimizer_and_scheduler
    saves = []

    def patched(self, output_dir):
        saves.append(output_dir)
        if len(saves) == number:
            die()
        write(self, output_dir)

    TaskTrainer._save_optimizer_and_scheduler = patched


def terminate_at_step(number: int) -> None:
    on_step_begin = Schedule.on_step_begin

    def patched(self, args, state, control, **kwargs):
        if state.global_step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return on_step_begin(self, args, state, control, **kwargs)

    Schedule.on_step_begin = patched


if __name__ == "__main__":
    moment, number, *argv = sys.argv[1:]
    {"step": die_at_step, "save": die_in_save, "terminate": terminate_at_step}[moment](int(number))
    sys.exit(main(argv))
