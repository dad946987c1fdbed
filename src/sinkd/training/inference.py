"""Use a trained model: scores on dev sets, answers for test sets, and size."""

import copy
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PrinterCallback

from sinkd.models import Family, family_of
from sinkd.tasks import Task
from sinkd.training.arguments import TaskArguments
from sinkd.training.balance import Balance, prior_for
from sinkd.training.ensemble import Ensemble
from sinkd.training.teacher import reported_scores
from sinkd.training.trainer import TaskTrainer


@dataclass(frozen=True)
class Model:
    """A trained model and the family that reads its task's rows."""

    trainer: TaskTrainer
    family: Family

    @classmethod
    def load(cls, path: str, task: Task, args: TaskArguments, flag: str = "--model_path") -> "Model":
        """Load the model in `path`. Raises SinkdError if its head does not fit the task."""
        family = family_of(task, args, path, flag)
        return cls(make_evaluator(family.load(path, flag), family, args), family)

    def answers(self) -> dict[str, np.ndarray]:
        """The logits of each dev split."""
        return {split: self.trainer.answers(rows) for split, rows in self.family.dev.items()}

    def scores(self) -> dict[str, float]:
        """The dev set's scores, as the run that made the model reported them, with seconds and rows per second."""
        metrics = self.trainer.evaluate(self.family.dev)
        return {name.removeprefix("eval_"): value for name, value in metrics.items()}

    def balanced(self, answers: Mapping[str, np.ndarray], prior: str | None) -> dict[str, np.ndarray]:
        """The answers to the dev rows balanced over them to `--class_prior`; {} if it asks for none."""
        task = self.family.task
        rows = task.read("train")["label"] if prior is not None and task.labelled else []
        shares = prior_for(prior, False, task.labels, torch.tensor(list(rows), dtype=torch.int64))
        if shares is None:
            return {}
        balance = Balance.of(torch.from_numpy(np.concatenate(list(answers.values()))), task.labels, shares)
        return {split: balance(torch.from_numpy(logits)).numpy() for split, logits in answers.items()}

    def write_submissions(self, folder: Path) -> list[Path]:
        """Write the answers for every test split."""
        family = self.family
        return [
            family.write_submission(split, self.trainer.answers(family.rows(split)), folder)
            for split in family.task.test_splits
        ]


def make_evaluator(model: PreTrainedModel, family: Family, args: TaskArguments) -> TaskTrainer:
    """A trainer that only evaluates. A Trainer creates its output folder, so this one gets an existing folder."""
    args.disable_tqdm, args.eval_strategy, args.report_to = True, "no", []
    args.output_dir, args.push_to_hub = tempfile.gettempdir(), False
    trainer = TaskTrainer(model=model, args=args, family=family)
    trainer.remove_callback(PrinterCallback)
    return trainer


def teacher_scores(args: TaskArguments, task: Task, teachers: Ensemble | None) -> tuple[dict[str, float], str]:
    """The dev scores of a run's teachers and their source; empty without a teacher or a dev set.

    Uses the scores that were measured when the teachers answered, or those that a teacher's own run reported on the
    same file. Otherwise evaluates the teacher, but only if this run has loaded it, since it may not fit into memory
    together with the student.
    """
    if teachers is not None and teachers.scores:
        return teachers.scores, "measured by this run"
    paths = getattr(args, "teacher_path", None)
    if not paths or not task.dev_splits:
        return {}, ""
    if len(paths) == 1 and (reported := reported_scores(Path(paths[0]), task)):
        return reported, "as its own run reports"
    if teachers is None or len(paths) > 1 or not teachers.first.loaded or args.world_size > 1:
        return {}, "not known, since no report on this dev set lies beside it; `sinkd evaluate` measures it"
    teacher = teachers.first
    model = Model(make_evaluator(teacher.model, teacher.family, copy.copy(args)), teacher.family)
    return model.family.dev_scores(model.answers()), "measured by this run"


def parameters(folder: Path) -> int:
    """The number of parameters of the model in a folder, from its safetensors files' headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def megabytes(folder: Path) -> float:
    """The size of a model's weights on disk, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
