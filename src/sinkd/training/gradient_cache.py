"""Gradient caching: an update's loss does not depend on how its rows are split into micro-batches and processes.

After Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021
(https://arxiv.org/abs/2101.06983). A term that compares all rows of an update with each other needs the model's
features of every row (its *points*) together, but not every row's activations:

1. A pass without a graph over all micro-batches collects their points, also from the other processes.
2. The term is evaluated once on all points, and its gradient with respect to each point is stored.
3. Each micro-batch runs again with a graph and propagates its slice of that gradient. The random state is replayed, so
   that dropout is the same in both passes.

This needs memory for one micro-batch, the update's points, and a live teacher's answers for the remaining
micro-batches. A single micro-batch needs no extra pass: its points come from the pass with a graph.

A row term needs no cache. Each micro-batch's mean is weighted by its share of the update's rows (labelled rows,
tokens).

The Trainer divides each micro-batch's loss by their number, and engines (DDP, FSDP, DeepSpeed) average gradients over
processes. Values and gradients here are scaled so that the result is the gradient of the whole update's loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sinkd.errors import SharedError
from sinkd.losses.feature import Feature
from sinkd.losses.logits import check_finite
from sinkd.losses.objective import Objective, ObjectiveValue
from sinkd.losses.random_state import RandomState
from sinkd.losses.term import BatchTerm, Progress, View
from sinkd.training.gather import gather_rows, summed, world_size

Batch = Mapping[str, Any]
Scope = Literal["window", "rank", "micro"]


class GradientCache:
    """The loss of one update, micro-batch by micro-batch.

    Args:
        objective: The objective.
        batches: This process's micro-batches, at least one.
        student: (batch, features) -> view, with a graph if gradients are on. For the same batch it must draw the same
            random numbers for any features.
        teacher: batch -> view. Called once per micro-batch.
        counts: For each micro-batch, whether its rows count: a process without its own rows computes some anyway, to
            stay in step with the others. None: all count.
        scope: Which rows batch terms compare: those of all processes and micro-batches ("window"), of all
            micro-batches of this process ("rank"), or of one micro-batch ("micro").
        progress: The state of training; by default its beginning.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        student: Callable[[Batch, Iterable[Feature]], View],
        teacher: Callable[[Batch], View],
        counts: Sequence[bool] | None = None,
        scope: Scope = "window",
        progress: Progress | None = None,
    ):
        self.objective = objective
        self.batches = list(batches)
        self.student = student
        self.teacher = teacher
        self.counts = [True] * len(self.batches) if counts is None else list(counts)
        self.progress = progress or Progress()
        self.device = next(value.device for value in self.batches[0].values() if isinstance(value, Tensor))
        self.processes = world_size()
        self.gathers = scope == "window" and self.processes > 1
        cut = self.gathers or len(self.batches) > 1
        self.cached = objective.batch_terms if cut and scope != "micro" else []
        self.done = 0
        self._draws: list[RandomState] = []
        self._answers: dict[int, View] = {}  # of the remaining micro-batches
        self._solved: dict[str, _Solved] = {}
        self._compared: dict[str, tuple[Tensor, Tensor]] = {}  # the points of batch terms, for `diagnostics`

    def step(self) -> tuple[ObjectiveValue, View, View]:
        """The next micro-batch's value, and the views of student and teacher.

        Returns:
            The value, the student's view and the teacher's. The value's `total` carries the micro-batch's share of the
            gradient; averaged over micro-batches and processes, `total` and `parts` are those of the whole update.
        """
        place, self.done = self.done, self.done + 1
        batch = self.batches[place]
        if place == 0:
            self._shares = self._row_shares()
            if self.cached and len(self.batches) > 1:
                self._run_ahead()
        if self._draws:
            self._draws[place].restore()
        student, teacher = self.student(batch, self.objective.student_needs), self._answer(place)
        del self._answers[place]
        if not self._draws:
            if self._checks:
                self._require_finite(_unusable(student, teacher))
            self._solve([self._cached_points(place, student)], [self._cached_points(place, teacher)])
        parts = {}
        for row_term in self.objective.row_terms:
            value = row_term(student, teacher, batch, self.progress)
            parts[row_term.name] = value * self._shares[row_term.name][place]
        for term in self.objective.batch_terms:
            points = self._points(term, place, student)
            if term.name in self._solved:
                parts[term.name] = self._solved[term.name].part(place, points)
            else:
                taught = self._points(term, place, teacher)
                parts[term.name] = term(points, taught, self.progress)
                self._compared[term.name] = (points.detach(), taught.detach())
        return self.objective.weigh(parts), student, teacher

    def diagnostics(self, student: View, teacher: View) -> dict[str, float]:
        """Figures of the terms for the log, `{"sinkhorn/curvature": 1.0}`; {} until the last micro-batch is done.

        Args:
            student: The view that the last `step` returned; row terms report on its rows.
            teacher: The same.

        Raises:
            SinkdError: for logits that contain NaN or +inf.
        """
        if student.logits is not None:
            # a teacher without logits has nothing to check, or was checked when its answers were stored
            check_finite(student.logits, student.logits if teacher.logits is None else teacher.logits)
        if self.done < len(self.batches):
            return {}
        found = {term.name: term.diagnostics(student, teacher) for term in self.objective.row_terms}
        found |= {term.name: term.diagnostics(*self._compared[term.name]) for term in self.objective.batch_terms}
        return {f"{name}/{key}": figure for name, figures in found.items() for key, figure in figures.items()}

    def _row_shares(self) -> dict[str, Tensor]:
        """The weight of each micro-batch's mean, {row term: (micro-batches,)}."""
        terms = self.objective.row_terms
        if not terms or len(self.batches) * self.processes == 1:
            return {term.name: torch.ones(1) for term in terms}
        rows = []
        for place, (batch, counts) in enumerate(zip(self.batches, self.counts, strict=True)):
            teacher = (
                self._answer(place)
                if any(term.counts_by_teacher for term in terms)
                else View(counts=batch.get("counts"))
            )
            found = [torch.as_tensor(term.count(teacher, batch), dtype=torch.int64) for term in terms]
            # counts of tokens are on the device and stay there: reading one would wait for it
            rows.append(torch.stack([each.to(self.device, non_blocking=True) for each in found]) * int(counts))
        local = torch.stack(rows)
        total = local.sum(0) if self.processes == 1 else summed(local.sum(0), self.device)
        shares = (local * (len(self.batches) * self.processes) / total.clamp(min=1)).float()
        return {term.name: shares[:, place] for place, term in enumerate(terms)}

    @torch.no_grad()
    def _run_ahead(self) -> None:
        """Collect the points of all micro-batches, and evaluate the cached terms on them."""
        students, teachers, unusable = [], [], []
        for place, batch in enumerate(self.batches):
            self._draws.append(RandomState(self.device))
            student, teacher = self.student(batch, self.objective.needs_ahead), self._answer(place)
            if self._checks:
                unusable.append(_unusable(student, teacher))
            students.append(self._cached_points(place, student))
            teachers.append(self._cached_points(place, teacher))
        if self._checks:
            self._require_finite(torch.stack(unusable).sum(0))
        self._solve(students, teachers)

    def _answer(self, place: int) -> View:
        if place not in self._answers:
            self._answers[place] = self.teacher(self.batches[place])
        return self._answers[place]

    @property
    def _checks(self) -> bool:
        """True if several processes check logits together, for which an accelerator would wait unless it gathers."""
        waits = self.device.type == "cpu" or (self.gathers and bool(self.cached))
        return self.processes > 1 and waits  # otherwise losses check their inputs

    def _require_finite(self, unusable: Tensor) -> None:
        """Stop all processes with one message if any has unusable logits."""
        bad_student, bad_teacher = summed(unusable, self.device).tolist()
        if bad_student or bad_teacher:
            raise SharedError(
                f"logits are not finite in {bad_student} rows of the student and {bad_teacher} of the teacher, over "
                "all processes; a lower learning rate, or bf16 in place of fp16, may help"
            )

    def _points(self, term: BatchTerm, place: int, view: View) -> Tensor:
        points = term.points(view, self.batches[place])
        return points if self.counts[place] else points[:0]

    def _cached_points(self, place: int, view: View) -> dict[str, Tensor]:
        return {term.name: self._points(term, place, view).detach() for term in self.cached}

    def _solve(self, students: Sequence[Mapping[str, Tensor]], teachers: Sequence[Mapping[str, Tensor]]) -> None:
        """Evaluate the cached terms on the points of all micro-batches (and processes)."""
        for term in self.cached:
            student, start = self._gather([points[term.name] for points in students])
            teacher, _ = self._gather([points[term.name] for points in teachers])
            own = [parameter for parameter in term.parameters() if parameter.requires_grad]
            with torch.enable_grad():
                value = term(student.requires_grad_(), teacher, self.progress)
                # A parameter that acts where the term makes its points, and not here, has no gradient of this value.
                gradient, *of_own = torch.autograd.grad(value, [student, *own], allow_unused=True)
            bounds = start + np.cumsum([0, *(len(points[term.name]) for points in students)])
            self._solved[term.name] = _Solved(
                value.detach(),
                [gradient[begin:end] for begin, end in itertools.pairwise(bounds)],
                [(parameter, found) for parameter, found in zip(own, of_own, strict=True) if found is not None],
                # the micro-batches, and where their points were gathered the processes, average what each propagates
                scale=len(self.batches) * (self.processes if self.gathers else 1),
            )
            self._compared[term.name] = (student.detach(), teacher)

    def _gather(self, parts: Sequence[Tensor]) -> tuple[Tensor, int]:
        """The points of all micro-batches (in scope "window" of all processes), and where this process's begin."""
        points = torch.cat(list(parts))
        points = points.float() if points.dtype in (torch.float16, torch.bfloat16) else points
        return gather_rows(points) if self.gathers else (points, 0)


@dataclass
class _Solved:
    """A batch term of an update: its value, and its gradients at every micro-batch's points and at its parameters."""

    value: Tensor
    gradients: list[Tensor]
    own: list[tuple[torch.nn.Parameter, Tensor]]
    scale: int

    def part(self, place: int, points: Tensor) -> Tensor:
        """The value of the whole update, with the gradient of one micro-batch's share."""
        part = _WithGradient.apply(self.value, points, self.gradients[place] * self.scale)
        for parameter, gradient in self.own:
            part = _WithGradient.apply(part, parameter, gradient)
        return part


class _WithGradient(torch.autograd.Function):
    """A scalar with a known gradient at a tensor, without a sum of products, in which -inf * 0 would be NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = at.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream, (upstream * gradient).to(ctx.dtype), None


def _unusable(student: View, teacher: View) -> Tensor:
    """The number of student and teacher rows that contain NaN or +inf, or only -inf: (2,)."""
    tops = [torch.zeros(1) if view.logits is None else view.logits.detach().amax(-1) for view in (student, teacher)]
    device = next((view.logits.device for view in (student, teacher) if view.logits is not None), None)
    return torch.stack([(~top.isfinite()).sum().to(device) for top in tops])
