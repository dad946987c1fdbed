"""Advice before a run: what is missing for a better student, from what was measured (docs/teachers.md)."""

from sinkd.losses.objective import Objective
from sinkd.tasks import Task
from sinkd.training.arguments import DistillationArguments

FEW_LABELS = 10_000  # text was measured with 1,000 and 6,000 labelled rows


def advice(args: DistillationArguments, task: Task, objective: Objective) -> list[str]:
    """Sentences for the user; none with `--quiet`."""
    if args.quiet or task.choices or not objective.teacher_needs:
        return []
    found = []
    if args.unlabeled_file is None and task.labelled and len(task.read("train")) < FEW_LABELS:
        found.append(
            "no text without labels: --unlabeled_file was worth 4 points of accuracy beside 1,000 labelled rows"
        )
    if args.teacher_prompt is not None and args.class_prior == "none" and task.labels:
        found.append(
            "the teacher's answers are not balanced: --class_prior uniform was worth 0 to 13 points of its accuracy, "
            "by the wording, where classes were even"
        )
    return found
