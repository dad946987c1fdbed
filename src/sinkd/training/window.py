"""One update's loss, however its rows are cut among micro-batches and processes.

A window is the micro-batches of one update on all processes. In it

- a term that compares row by row counts by its rows: each micro-batch's mean is weighed by how many of the window's
  rows (labelled rows, tokens) it holds;
- a batchwise term sees all rows at once. Points are gathered from every micro-batch and process, the term is evaluated
  once on all of them, and each micro-batch propagates its own slice of the gradient at the points. With several
  micro-batches the points come from a pass without gradients before the first is trained on; the random state is
  replayed, so that dropout is the same in both passes. Memory is that of one micro-batch and the window's points, and
  with a live teacher what it answered for the micro-batches that are still to come.

The Trainer divides each micro-batch's loss by their number, and engines (DDP, FSDP, DeepSpeed) average gradients over
processes. What a window gives is scaled so that the end of this is the gradient of the whole update's loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sinkd.errors import SharedError
from sinkd.losses.draws import RandomState
from sinkd.losses.logits import check_finite
from sinkd.losses.objective import Objective, Value
from sinkd.losses.term import Progress, Term, View
from sinkd.training.gather import gather_rows, summed

Scope = Literal["window", "rank", "micro"]
Batch = Mapping[str, Any]


class Window:
    """The micro-batches of one update, and the objective's value for each.

    batches: this process's micro-batches. sizes: rows of each part, (micro-batches, ranks); a part of 0 rows counts for
    nothing. student: the model's view of a batch, with gradients where they are on. teacher: the teacher's. scope: what
    batchwise terms see, of all processes and micro-batches ("window"), of this process ("rank") or of one micro-batch
    ("micro"). Row-by-row terms always count by all rows of the update. ahead: the student's view for the pass before
    the first micro-batch, which need show only what batchwise terms read; it must draw the random numbers that
    `student` draws. keeps_answers: ask the teacher once a micro-batch, where an answer costs a pass of a model.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        sizes: np.ndarray,
        rank: int,
        student: Callable[[Batch], View],
        teacher: Callable[[Batch], View],
        progress: Progress,
        scope: Scope = "window",
        ahead: Callable[[Batch], View] | None = None,
        keeps_answers: bool = False,
    ):
        self.objective = objective
        self.batches = list(batches)
        self.device = next(value.device for value in self.batches[0].values() if isinstance(value, Tensor))
        self.sizes = sizes
        self.filled = [bool(rows) for rows in sizes[:, rank]]
        self.ranks = sizes.shape[1]
        self.student = student
        self.ahead = ahead or student
        self.teacher = teacher
        self.keeps_answers = keeps_answers
        self.progress = progress
        self.gathers = scope == "window" and self.ranks > 1
        several = self.gathers or len(self.batches) > 1
        self.gathered = objective.batchwise if several and scope != "micro" else []
        self.done = 0
        self._states: list[RandomState] = []
        self._answers: dict[int, View] = {}  # the teacher's, of micro-batches that are still to come
        self._transported: dict[str, _Transported] = {}
        self._compared: dict[str, tuple[Tensor, Tensor]] = {}  # what each batchwise term was shown, for the log

    def step(self) -> tuple[Value, View, View]:
        """The next micro-batch's value, whose `total` carries its share of the gradient, and both views.

        Averaged over the micro-batches and processes of the window, `total` and `parts` are those of the whole update.
        """
        if self.done == 0:
            self._shares = self._count()
            if self.gathered and len(self.batches) > 1:
                self._look_ahead()
        batch, place = self.batches[self.done], self.done
        self.done += 1
        if self._states:
            self._states[place].restore()
        student, teacher = self.student(batch), self._answer(place)
        self._answers.pop(place, None)
        if not self._states:
            self._need_finite(_unusable(student, teacher))
        own: dict[str, Tensor] = {}
        if self.gathered:
            own = {term.name: self._points(term, student, batch, place) for term in self.gathered}
            if not self._transported:
                taught = {term.name: self._points(term, teacher, batch, place) for term in self.gathered}
                self._transport([own], [taught])
        parts = {}
        for term in self.objective:
            if term.name in own:
                parts[term.name] = self._transported[term.name].part(own[term.name], place, self._scale)
            elif term.batchwise:
                ours, theirs = (self._points(term, view, batch, place) for view in (student, teacher))
                parts[term.name] = term(ours, theirs, batch, self.progress)
                self._compared[term.name] = (ours.detach(), theirs.detach())
            else:
                value = term(student, teacher, batch, self.progress)
                parts[term.name] = value * self._shares[term.name][place]
        return self.objective.weigh(parts), student, teacher

    @property
    def rows(self) -> int:
        """Rows of the micro-batch that was last stepped through, on all processes."""
        return int(self.sizes[self.done - 1].sum())

    def diagnostics(self, student: View, teacher: View) -> dict[str, float]:
        """Each term's figures for the log, `{"sinkhorn/curvature": 1.0}`, after a step that gave these views."""
        if student.logits is not None:
            # a teacher without logits has nothing to compare, or was checked as it was kept
            check_finite(student.logits, student.logits if teacher.logits is None else teacher.logits)
        figures: dict[str, float] = {}
        for term in self.objective:
            sides = self._compared.get(term.name, (student, teacher))
            found = term.diagnostics(*sides, self.batches[self.done - 1])
            figures |= {f"{term.name}/{key}": figure for key, figure in found.items()}
        return figures

    @property
    def _scale(self) -> int:
        """How many shares of the window are averaged away after us."""
        return len(self.batches) * (self.ranks if self.gathers else 1)

    def _count(self) -> dict[str, Tensor]:
        """What each micro-batch's mean is multiplied by, for every row-by-row term: {name: (micro-batches,)}."""
        terms = [term for term in self.objective if not term.batchwise]
        if len(self.batches) * self.ranks == 1:
            return {term.name: torch.ones(1) for term in terms}
        counts = []
        for place, (batch, filled) in enumerate(zip(self.batches, self.filled, strict=True)):
            teacher = self._answer(place) if any(term.counts_by_teacher for term in terms) else View()
            counts.append([torch.as_tensor(term.count(teacher, batch)).item() * filled for term in terms])
        local = torch.tensor(counts, dtype=torch.float64)
        total = local.sum(0) if self.ranks == 1 else summed(local.sum(0), self.device)
        shares = (local / total.clamp(min=1) * len(self.batches) * self.ranks).to(self.device, torch.float32)
        return {term.name: shares[:, place] for place, term in enumerate(terms)}

    @torch.no_grad()
    def _look_ahead(self) -> None:
        """Collect the points of all micro-batches, and evaluate the batchwise terms on them."""
        students, teachers, bad = [], [], []
        for place, batch in enumerate(self.batches):
            self._states.append(RandomState(self.device))
            view, taught = self.ahead(batch), self._answer(place)
            bad.append(_unusable(view, taught))
            students.append({term.name: self._points(term, view, batch, place) for term in self.gathered})
            teachers.append({term.name: self._points(term, taught, batch, place) for term in self.gathered})
        self._need_finite(torch.stack(bad).sum(0))
        self._transport(students, teachers)

    def _answer(self, place: int) -> View:
        """The teacher's view of a micro-batch, which is kept until that is done where asking again would cost."""
        if place in self._answers:
            return self._answers[place]
        view = self.teacher(self.batches[place])
        if self.keeps_answers:
            self._answers[place] = view
        return view

    def _need_finite(self, bad: Tensor) -> None:
        """With several processes: stop all of them, with one message, where any has logits that cannot be used.

        bad: this process's `_unusable` rows. On an accelerator looking is to wait for it, as gathering rows is.
        """
        if self.ranks == 1 or not (self.device.type == "cpu" or (self.gathers and self.gathered)):
            return  # losses check what they are given
        bad_student, bad_teacher = summed(bad, self.device).tolist()
        if bad_student or bad_teacher:
            raise SharedError(
                f"logits are not finite in {bad_student} rows of the student and {bad_teacher} of the teacher, over "
                "all processes; a lower learning rate, or bf16 in place of fp16, may help"
            )

    def _points(self, term: Term, view: View, batch: Batch, place: int) -> Tensor:
        points = term.points(view, batch)
        return points if self.filled[place] else points[:0]

    def _transport(self, students: Sequence[Mapping[str, Tensor]], teachers: Sequence[Mapping[str, Tensor]]) -> None:
        for term in self.gathered:
            sizes = [len(points[term.name]) for points in students]
            student, start = self._gather(torch.cat([points[term.name].detach() for points in students]))
            teacher, _ = self._gather(torch.cat([points[term.name].detach() for points in teachers]))
            with torch.enable_grad():
                student.requires_grad_()
                value = term(student, teacher, {}, self.progress)
                own = [parameter for parameter in term.parameters() if parameter.requires_grad]
                # `sinkhorn_hidden`'s projectors act here, on all points at once, as a curvature does; a parameter that
                # acts where a term makes its points has no gradient of this value.
                gradient, *of_own = torch.autograd.grad(value, [student, *own], allow_unused=True)
            used = [(parameter, found) for parameter, found in zip(own, of_own, strict=True) if found is not None]
            self._transported[term.name] = _Transported(value.detach(), gradient, start, sizes, used)
            self._compared[term.name] = (student.detach(), teacher)

    def _gather(self, points: Tensor) -> tuple[Tensor, int]:
        """All processes' points, and where this one's begin."""
        points = points.float() if points.dtype in (torch.float16, torch.bfloat16) else points
        return gather_rows(points) if self.gathers else (points, 0)


def _unusable(student: View, teacher: View) -> Tensor:
    """How many rows of either side have NaN, +inf or nothing but -inf, (2,)."""
    tops = [torch.zeros(1) if view.logits is None else view.logits.detach().amax(-1) for view in (student, teacher)]
    device = next((view.logits.device for view in (student, teacher) if view.logits is not None), None)
    return torch.stack([(~top.isfinite()).sum().to(device) for top in tops])


class _Transported:
    """A batchwise term evaluated on a window: its value, its gradient at the points, and whose they are."""

    def __init__(
        self, value: Tensor, gradient: Tensor, start: int, sizes: Sequence[int], own: Sequence[tuple[Tensor, Tensor]]
    ):
        self.value = value
        bounds = start + np.cumsum([0, *sizes])
        self.slices = [gradient[begin:end] for begin, end in itertools.pairwise(bounds)]
        self.own = own

    def part(self, points: Tensor, place: int, scale: int) -> Tensor:
        """A micro-batch's part of the term: its value is the window's, its gradient that micro-batch's share."""
        share = (points.to(self.value.dtype) * self.slices[place]).sum() * scale
        for parameter, gradient in self.own:
            share = share + (parameter * gradient).sum()
        return self.value + (share - share.detach())
