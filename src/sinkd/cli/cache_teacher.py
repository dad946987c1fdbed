"""`sinkd cache-teacher`: run the teacher over the data once, before training."""

import os
from collections.abc import Sequence

from sinkd.cli.command import load_named_task, show_plan
from sinkd.report import RunProgress
from sinkd.training.arguments import DistillationArguments
from sinkd.training.run import cache_teacher
from sinkd.training.settings import resolve_settings


def main(argv: Sequence[str]) -> None:
    """Compute the teacher's answers for a command line of `sinkd distill`, and print their location."""
    args = resolve_settings(DistillationArguments, argv, "sinkd cache-teacher")
    if show_plan(args):
        return
    task = load_named_task(args)
    for answers in cache_teacher(args, task, RunProgress(args.distill_loss, task.metric).teacher_rows):
        if os.environ.get("RANK", "0") != "0":
            continue
        megabytes = sum(path.stat().st_size for path in answers.home.rglob("*.npy")) / 1e6
        names = ", ".join(feature.name for feature in answers.features)
        teachers = " and ".join(args.teacher_names)
        print(f"{len(answers)} answers of {teachers} ({names}), {megabytes:.1f} MB, in {answers.home}")
