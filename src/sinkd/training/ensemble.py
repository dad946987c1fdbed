"""The teachers of a run: one, or several whose probabilities are averaged. Each is asked and cached by itself."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature
from sinkd.losses.mean_view import MeanView
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.losses.top_k_cache import TopIds, TopView, kept_for
from sinkd.models import Family
from sinkd.models.served import ServedModel
from sinkd.models.served_classifier import ServedClassifier
from sinkd.tasks import Task
from sinkd.tasks.encode import column, tokenizer_hash
from sinkd.tasks.metrics import Scores
from sinkd.training.answered_rows import READ, TAUGHT, Collate, OwnRows, TaughtRows, row_lengths
from sinkd.training.arguments import DistillationArguments
from sinkd.training.balance import Balance, prior_for
from sinkd.training.served_teacher import ServedTeacher
from sinkd.training.teacher import OnRows, Teacher, reported_scores
from sinkd.training.teacher_cache import Answers

logger = logging.getLogger(__name__)


class Ensemble:
    """Teachers that answer together: the mean of their probabilities, and the hidden states of the first.

    Args:
        teachers: At least one.
        weights: Their weights in the mean, positive; equal by default.

    Attributes:
        scores: The dev scores of the mean answer, once `ask` has measured them.

    Raises:
        SinkdError: for weights that do not fit.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None):
        self.teachers = list(teachers)
        self.scores: Scores = {}
        weights = [1.0] * len(self.teachers) if weights is None else list(weights)
        if len(weights) != len(self.teachers) or not all(0 < weight < float("inf") for weight in weights):
            given = " ".join(f"{weight:g}" for weight in weights)
            raise SinkdError(f"--teacher_weights is {given}; give one positive weight for each of the teachers")
        self.weights = [weight / sum(weights) for weight in weights]

    @classmethod
    def of(cls, args: DistillationArguments, families: Sequence[Family]) -> "Ensemble":
        """The teachers that a run's settings name, from `student_and_teachers`."""
        if args.teacher_url is None:
            teachers = [Teacher(path, family) for path, family in zip(args.teacher_paths, families, strict=True)]
            return cls(teachers, args.teacher_weights)
        (family,) = families
        assert args.teacher_model is not None and isinstance(family, ServedClassifier)
        server = ServedModel(
            args.teacher_url, args.teacher_model, timeout=args.teacher_timeout, max_requests=args.teacher_max_requests
        )
        return cls([ServedTeacher(server, family, args.teacher_concurrency)], args.teacher_weights)

    @property
    def first(self) -> Teacher:
        """The teacher that gives hidden states and attributions."""
        return self.teachers[0]

    def check(self, objective: Objective, student: Family) -> None:
        """Raise SinkdError for an objective that these teachers cannot serve."""
        self.first.check_tokens(objective, student)
        if len(self.teachers) > 1 and student.answers_tokens:
            raise SinkdError("several teachers are averaged over a task's labels, and this task is answered in words")
        if objective.reads_embedding and not student.answers_tokens:
            raise SinkdError("semantic transports the tokens of a language model's answer, and this task has labels")

    def refuse_shared(self, student: nn.Module) -> None:
        """Raise SinkdError if a teacher, which is frozen, has parameters of the student."""
        own = set(map(id, student.parameters()))
        for teacher in self.teachers:
            if teacher.loaded and not own.isdisjoint(map(id, teacher.model.parameters())):
                raise SinkdError(
                    "teacher and student share parameters, and a teacher is frozen; give the student a copy, as "
                    "copy.deepcopy makes one"
                )

    @property
    def balances(self) -> list[dict[str, object]]:
        """How the teachers' answers were balanced, for the manifest; the teachers are numbered from 1."""
        balanced = [(number, teacher.balance) for number, teacher in enumerate(self.teachers, start=1)]
        return [{"teacher": number, **balance.as_dict()} for number, balance in balanced if balance is not None]

    def inputs(self, student: Family) -> dict[str, str]:
        """Fingerprints for the manifest."""
        found = {}
        for number, teacher in enumerate(self.teachers, start=1):
            name = "teacher" if number == 1 else f"teacher {number}"
            found[name] = teacher.fingerprint
            if teacher.reads_own_rows(student) and teacher.family.tokenizer is not None:
                found[f"{name}'s tokenizer"] = tokenizer_hash(teacher.family.tokenizer)
            found |= teacher.family.fingerprints
        return found

    def ask(
        self,
        objective: Objective,
        student: Family,
        rows: Dataset,
        collator: Collate,
        args: DistillationArguments,
        on_rows: OnRows | None = None,
    ) -> Dataset | TaughtRows:
        """Let each teacher answer the training rows, one after the other, or prepare it to answer live.

        Args:
            rows: Tokenised training rows, as the student reads them.
            on_rows: See `Teacher.answers`.

        Returns:
            The rows with what they carry of each teacher.
        """
        taught: list[Answers | OwnRows | None] = []
        dev: dict[Teacher, dict[str, Tensor]] = {}
        for teacher in self._asked(objective.teacher_needs):
            own = teacher.own_rows(student, args.seed)
            if own is not None:
                _check_order(rows, own.rows)
            teacher.refuse_long_rows(rows if own is None else own.rows)
            prior = self._prior(teacher, student.task, rows, args)
            kept = kept_features(objective, args) if teacher is self.first else frozenset({LOGITS})
            kept |= {LOGITS} if prior is not None else frozenset()
            if args.teacher_cache == "off" or not kept or not teacher.cacheable or row_lengths(rows) is None:
                if prior is not None:
                    raise SinkdError(
                        "balancing needs the teacher's answers to all rows before training, and this teacher answers "
                        "live; give --class_prior none, or leave out --teacher_cache off"
                    )
                teacher.move(args.device)
                taught.append(own)
                continue
            read = (rows, collator) if own is None else (own.rows, own.collator)
            answers = teacher.answers(kept, *read, args, on_rows)
            taught.append(answers)
            if prior is not None:
                teacher.balance = Balance.of(answers.column(LOGITS), student.task.labels, prior)
            if self._to_be_scored(teacher, args.world_size):
                dev[teacher] = teacher.dev_answers(args, on_rows)
            if args.on_policy or (teacher is self.first and not objective.cacheable):
                teacher.move(args.device)
            else:
                teacher.release()
        if len(dev) == len(self.teachers):
            self._score(dev)
        return TaughtRows(rows, collator, taught) if any(taught) else rows

    def view(self, batch: Mapping[str, Any], features: frozenset[Feature], top_k: int | None, width: int) -> View:
        """The teachers' features of a batch, cached or live.

        Args:
            batch: A batch of the rows that `ask` returned.
            top_k: How many entries of a language model's predictions are cached; None for all.
            width: The width of these predictions.
        """
        views = []
        for number, teacher in enumerate(self._asked(features)):
            needed = features if number == 0 else features & {LOGITS}
            taught = batch[TAUGHT][number] if TAUGHT in batch else {}
            view = View(counts=batch.get("counts"))
            view.features |= {name: value for name, value in taught.items() if name != READ}
            if top_k is not None and TopIds(top_k) in view:
                view = TopView(view, top_k, width)
            if missing := [feature for feature in needed if feature not in view]:
                view.features |= teacher.observe(taught.get(READ, batch), missing).features
            if teacher.balance is not None:
                view.features[LOGITS.name] = teacher.balance(view.logits)
            views.append(view)
        return views[0] if len(views) == 1 else MeanView(views, self.weights)

    def _asked(self, features: frozenset[Feature]) -> list[Teacher]:
        """All teachers if predictions are needed, else the first alone."""
        return self.teachers if LOGITS in features else [self.first]

    @staticmethod
    def _prior(teacher: Teacher, task: Task | None, rows: Any, args: DistillationArguments) -> Tensor | None:
        """The prior to which the teacher's answers are balanced, if any."""
        if task is None or not (args.class_prior or teacher.family.zero_shot):
            return None
        known = torch.from_numpy(column(rows, "labels"))
        return prior_for(args.class_prior, teacher.family.zero_shot, task.labels, known)

    def _to_be_scored(self, teacher: Teacher, world_size: int) -> bool:
        """True if the teacher's dev scores are not known from its own run, and can be measured at little cost."""
        task = teacher.family.task
        if task is None or task.choices or not task.dev_splits:
            return False
        if len(self.teachers) > 1 or teacher.balance is not None:
            return True
        return teacher.loaded and reported_scores(teacher.folder, task) is None and world_size == 1

    def _score(self, dev: Mapping[Teacher, Mapping[str, Tensor]]) -> None:
        """Score the mean of the teachers' answers to the dev rows, given by split; and what balancing changed."""
        views: dict[str, list[View]] = {split: [] for split in self.first.family.dev}
        for teacher, answers in dev.items():
            balanced = answers
            if teacher.balance is not None:
                balanced = {split: teacher.balance(logits) for split, logits in answers.items()}
                before, after = (_scores(teacher.family, each) for each in (answers, balanced))
                teacher.balance.scores_before, teacher.balance.scores_after = before, after
                metric = teacher.family.task.metric
                logger.info("its dev %s: %.4f, balanced %.4f", metric, before[metric], after[metric])
            for split, logits in balanced.items():
                views[split].append(View(logits))
        mean = {split: MeanView(each, self.weights).logits for split, each in views.items()}
        self.scores = _scores(self.first.family, mean)


def _check_order(rows: Dataset, own: Dataset) -> None:
    """Raise SinkdError if the rows of student and teacher have other labels, and so are not the same rows."""
    same = len(rows) == len(own)
    if same and "labels" in rows.column_names:
        same = np.array_equal(column(rows, "labels"), column(own, "labels"), equal_nan=True)
    if not same:
        raise SinkdError(
            "a teacher that reads other tokens answers its family's own training rows, and train_dataset has others, "
            "or the same in another order; give the rows of the student's family"
        )


def _scores(family: Family, answers: Mapping[str, Tensor]) -> Scores:
    return family.dev_scores({split: logits.numpy() for split, logits in answers.items()})


def kept_features(objective: Objective, args: DistillationArguments) -> frozenset[Feature]:
    """The features of a teacher to cache; `--teacher_cache_top_k` replaces whole predictions.

    Raises:
        SinkdError: if a term needs more than that flag caches.
    """
    kept, k = frozenset(objective.kept), args.teacher_cache_top_k
    return kept if k is None or LOGITS not in kept else kept - {LOGITS} | kept_for(objective, k)
