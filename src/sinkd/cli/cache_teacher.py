"""`sinkd cache-teacher`: ask the teacher once over the data, apart from the training that reads its answers."""

import os
from collections.abc import Sequence

from sinkd.cli import generative
from sinkd.cli.command import load_named_task, show_plan
from sinkd.report import RunProgress
from sinkd.training.arguments import DistillationArguments
from sinkd.training.parser import parse_arguments
from sinkd.training.run import cache_teacher


def main(argv: Sequence[str]) -> None:
    """Parse the command line of a `distill`, keep what it will need of the teacher, and say where."""
    published = generative.settings(argv, generative.STUDENT)
    args = parse_arguments(DistillationArguments, argv, "sinkd cache-teacher", output_dir="", **published)
    if show_plan(args):
        return
    task = load_named_task(args)
    for answers in cache_teacher(args, task, RunProgress(args.distill_loss, task.metric).teacher_rows):
        if os.environ.get("RANK", "0") != "0":
            continue
        megabytes = sum(path.stat().st_size for path in answers.home.rglob("*.npy")) / 1e6
        names = ", ".join(feature.name for feature in answers.features)
        print(f"{len(answers)} answers of {args.teacher_path} ({names}), {megabytes:.1f} MB, in {answers.home}")
