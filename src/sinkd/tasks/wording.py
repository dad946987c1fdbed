"""Word a task's rows with a template: prompt, answer, choices, and each choice's label or entity."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import batched, cached, key_of
from sinkd.tasks.file_formats import Record
from sinkd.tasks.superglue_rows import UNKNOWN, row_index
from sinkd.tasks.task import Task
from sinkd.tasks.template import Rendered, Template

logger = logging.getLogger(__name__)

VERSION = 2  # raise it if the same row and template would give another example

EXAMPLE = Features(
    {
        "prompt": Value("string"),
        "target": Value("string"),
        "choices": List(Value("string")),
        "answer": Value("int64"),
        "index": Value("string"),
        "meanings": List(Value("string")),
        "accepted": List(Value("string")),
    }
)


def examples(task: Task, split: str, template: Template, seed: int = 0) -> Dataset:
    """Return the rows of a split as a template words them, memory-mapped and kept in the cache folder.

    Rows for which the template has no prompt or no answer are left out and counted in `task.skipped[split]`. A row
    without label is kept if the template would have an answer for some label.

    Args:
        seed: Determines what the filter `choice` draws.

    Returns:
        Columns prompt and target (strings; target "" if the label is unknown), choices (list of strings; empty for a
        template without), answer (int64: which choice the target is; -1 if the label is unknown, or there are no
        choices), index (string), meanings (the label or entity that each choice stands for), and accepted (the meanings
        that are right).

    Raises:
        SinkdError: if the template fails on a row, gives an answer that is none of its choices, shows the answer in the
            prompt of a row without label, or applies to no row at all; and as `Task.read` does.
    """
    rows = task.read(split)
    wording = Wording(task.labels, template, seed)
    notes = {"empty": 0}

    def found() -> Iterator[Record]:
        for row in rows:
            example = wording.example(row)
            if example is None:
                notes["empty"] += 1
            else:
                yield example
        if notes["empty"] == len(rows):
            raise SinkdError(
                f"template {template.name!r} has no answer for any of the {len(rows)} rows of {task.name} {split}"
            )

    key = key_of("choice examples", VERSION, rows._fingerprint, template.fingerprint, seed)
    worded = cached(key, EXAMPLE, lambda: batched(found(), EXAMPLE), notes, f"wording {task.name} {split}")
    task.skipped[split] += notes["empty"]
    if notes["empty"]:
        left = f"template {template.name!r} has no answer for"
        logger.info("%s %s: %s %d of %d rows", task.name, split, left, notes["empty"], len(rows))
    return worded


def chosen_answers(task: Task, worded: Any, chosen: Sequence[int]) -> list[Any]:
    """Convert chosen answers to the input of `Task.scores`: label ids (-1 for no label), or texts.

    Args:
        worded: n rows of `examples`; of the columns, meanings.
        chosen: The number of a choice of each row, (n,).

    Raises:
        SinkdError: if a number is no choice of its row.
    """
    found = []
    for row, (number, meanings) in enumerate(zip(map(int, chosen), worded["meanings"], strict=True)):
        if not 0 <= number < len(meanings):
            raise SinkdError(f"found choice {number} in row {row} of {task.name}, which has {len(meanings)} choices")
        found.append(meanings[number])
    return _label_ids(task, found) if task.labels else found


def right_answers(task: Task, worded: Any) -> list[Any]:
    """Convert the right answers of `examples` to the input of `Task.scores`: label ids (-1 if unknown), or texts."""
    accepted = list(worded["accepted"])
    return _label_ids(task, ["".join(right) for right in accepted]) if task.labels else accepted


def _label_ids(task: Task, names: Sequence[str]) -> list[int]:
    return [task.labels.index(name) if name in task.labels else UNKNOWN for name in names]


@dataclass(frozen=True)
class Wording:
    """Words single rows; `labels` is () where the entities of a row are its labels (ReCoRD)."""

    labels: tuple[str, ...]
    template: Template
    seed: int

    def example(self, row: Record) -> Record | None:
        """Word a row, with the columns of EXAMPLE; None if it has no prompt or no answer."""
        if self.labels:
            answers = [] if row["label"] == UNKNOWN else [self.labels[row["label"]]]
        else:
            answers = list(row["answers"])
        rendered = self.template.render(row, self.seed) if answers else self._unlabelled(row)
        if rendered is None or not rendered.prompt or (answers and not rendered.target):
            return None
        answer = rendered.choices.index(rendered.target) if rendered.target in rendered.choices else -1
        # ReCoRD's answers are free text and may be spelled differently from the entity in the passage.
        if answers and rendered.choices and answer < 0 and self.labels:
            raise self._failure(row, f"its answer {rendered.target!r} is none of its choices {rendered.choices}")
        return {
            "prompt": rendered.prompt,
            "target": rendered.target,
            "choices": rendered.choices,
            "answer": answer,
            "index": row_index(row),
            "meanings": self._meanings(row, rendered.choices),
            "accepted": answers,
        }

    def _labelled(self, row: Record, answer: str) -> Rendered:
        """Render the row as if this were its label or only answer."""
        known = {"label": self.labels.index(answer)} if self.labels else {"answers": [answer]}
        return self.template.render(row | known, self.seed)

    def _unlabelled(self, row: Record) -> Rendered | None:
        """Render a row without label; prompt and choices must not depend on the label, so that they reveal none."""
        guesses = [self._labelled(row, guess) for guess in self.labels or row["entities"][:2]]
        guesses = [guess for guess in guesses if guess.target]
        if not guesses:
            return None
        first = guesses[0]
        if any((guess.prompt, guess.choices) != (first.prompt, first.choices) for guess in guesses):
            reason = "prompt or choices depend on the answer, which this row does not have"
            raise self._failure(row, f"{reason}; choose a template that asks for it")
        return first._replace(target="")

    def _meanings(self, row: Record, choices: list[str]) -> list[str]:
        """Return the label or entity for which each choice would be the answer."""
        if not choices:
            return []
        if not self.labels:
            entities = list(row["entities"])
            # Choices are sentences about the entities, usually in their order; checking the last one is enough.
            if choices == entities or (
                len(choices) == len(entities) and choices[-1] == self._labelled(row, entities[-1]).target
            ):
                return entities
        targets: dict[str, str] = {}
        for meaning in self.labels or row["entities"]:
            targets.setdefault(self._labelled(row, meaning).target, meaning)
        return [targets.get(choice, "") for choice in choices]

    def _failure(self, row: Record, reason: str) -> SinkdError:
        return SinkdError(f"template {self.template.name!r} fails on example {row_index(row)}: {reason}")
