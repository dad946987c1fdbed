"""The student's family and the teachers of a run, from its settings."""

from collections.abc import Sequence

from sinkd.models import Family, family_of, served_classifier, student_and_teachers
from sinkd.models.served import ServedModel
from sinkd.models.served_classifier import ServedClassifier
from sinkd.tasks import Task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.ensemble import Ensemble
from sinkd.training.served_teacher import ServedTeacher
from sinkd.training.teacher import Teacher


def families_of(args: DistillationArguments, task: Task) -> tuple[Family, list[Family]]:
    """Return the families of the student and of each teacher; without a student the first teacher's stands in."""
    path = args.student_path
    if args.teacher_url is None:
        student, families = student_and_teachers(task, args, path or args.teacher_paths[0], args.teacher_paths)
        return families[0] if path is None else student, families
    served = served_classifier(task, args)
    return served if path is None else family_of(task, args, path, "--student_path", to_train=True), [served]


def ensemble_of(args: DistillationArguments, families: Sequence[Family]) -> Ensemble:
    """Return the teachers of these families."""
    if args.teacher_url is None:
        teachers = [Teacher(path, family) for path, family in zip(args.teacher_paths, families, strict=True)]
        return Ensemble(teachers, args.teacher_weights)
    (family,) = families
    assert args.teacher_model is not None and isinstance(family, ServedClassifier)
    server = ServedModel(
        args.teacher_url, args.teacher_model, timeout=args.teacher_timeout, max_requests=args.teacher_max_requests
    )
    return Ensemble([ServedTeacher(server, family, args.teacher_concurrency)], args.teacher_weights)
