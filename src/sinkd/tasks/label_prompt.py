"""Ask for the label of a text in words: a prompt made from the row's columns, and an answer for each label."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import key_of
from sinkd.tasks.source import TableSource
from sinkd.tasks.task import Task
from sinkd.tasks.template import BAR, Template
from sinkd.tasks.template_folders import find_template, templates


class Question(NamedTuple):
    """A row's prompt, which ends with no white space, and its answers, each with the white space that precedes it."""

    prompt: str
    answers: list[str]


@dataclass(frozen=True)
class LabelPrompt:
    """A wording of a task with labels, or of a number to predict.

    Attributes:
        template: Its Jinja is the prompt, which sees the columns of text by their names in the file, and as text and
            text_pair. Its answer_choices are the answers.
    """

    template: Template
    task: Task

    @classmethod
    def read(
        cls, task: Task, prompt: str, answers: str | None = None, templates_dir: str | Path | None = None
    ) -> LabelPrompt:
        """Make the prompt that a user asks for.

        Args:
            task: A task with labels, or a number to predict.
            prompt: A file with a template; or the name of a template of the task in `templates_dir`; or a template.
            answers: An answer for each label in the task's order, separated by |||; for a number to predict, at least
                two numbers. None takes those of a named template.

        Raises:
            SinkdError: if the template is malformed or not UTF-8, reads a column that the task lacks, or none; or for
                answers that do not fit the labels.
        """
        if not isinstance(task.source, TableSource):
            raise SinkdError(
                f"{task.name} has templates of its own, and needs no prompt; choose one by --template_name"
            )
        known = {} if templates_dir is None else {found.name: found for found in templates(task.name, templates_dir)}
        if os.path.isfile(prompt):
            try:
                text = Path(prompt).read_text(encoding="utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise SinkdError(f"the prompt {prompt} is not text in UTF-8: {error}") from error
            template = Template(name=prompt, jinja=text, source=Path(prompt))
        elif prompt.strip() in known:
            template = find_template(task.name, prompt, templates_dir)
        else:
            template = Template(name=prompt, jinja=prompt)
        if answers is not None:
            template = replace(template, answer_choices=answers)
        template.check()
        made = cls(template, task)
        made._check()
        return made

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the row that determines a question."""
        return key_of("label prompt", self.template.fingerprint, self.columns, self.task.labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of text in the task's files."""
        assert isinstance(self.task.source, TableSource)
        return self.task.source.layout.text

    @property
    def values(self) -> list[float]:
        """The answers as numbers, for a number to predict."""
        return [_number(answer) for answer in (self.template.answer_choices or "").split(BAR)]

    def question(self, row: Mapping[str, Any], most: int | None = None) -> Question:
        """Word a row, without regard to its label.

        Args:
            row: A row of `Task.read`, or of `read_unlabeled`.
            most: Cut each text to this many characters.

        Raises:
            SinkdError: if the template fails on this row, gives no prompt, or not one answer for each label.
        """
        texts = {name: row[name][:most] for name in ("text", "text_pair") if name in row}
        values = texts | dict(zip(self.columns, texts.values(), strict=True)) | {"idx": row.get("index", "without idx")}
        shown = self.template.spaced(values | {"label": 0})
        if "label" in self.template.names and shown.prompt != self.template.spaced(values | {"label": 1}).prompt:
            raise SinkdError(f"{self._named} shows the label, which is to be predicted; leave it out of the prompt")
        prompt = shown.prompt.strip()
        if not prompt:
            raise SinkdError(f"{self._named} gives no text for example {values['idx']}")
        space = shown.prompt[len(shown.prompt.rstrip()) :]
        answers = [answer.rstrip() for answer in shown.choices]
        self._check_answers(answers)
        # exactly one space before an answer, unless prompt or answer bring white space
        return Question(prompt, [(space or " " * (not answer[0].isspace())) + answer for answer in answers])

    @property
    def _named(self) -> str:
        return f"the prompt {' '.join(self.template.name.split())!r}"

    def _check(self) -> None:
        shown = ", ".join(self.columns)
        seen = {*self.columns, *("text", "text_pair")[: len(self.columns)]}
        unknown = sorted(self.template.names - seen - {"label"})
        if unknown:
            raise SinkdError(f"{self._named} reads the column {unknown[0]}; {self.task.name} has {shown}")
        if not self.template.names & seen:
            raise SinkdError(
                f"{self._named} is no file and shows no column; write a column as {{{{{self.columns[0]}}}}}"
                f" ({self.task.name} has {shown})"
            )
        if self.template.answer_choices is None:
            expected = f"one for each of {', '.join(self.task.labels)}" if self.task.labels else "numbers"
            raise SinkdError(f"{self._named} has no answers; give {expected}, with {BAR} between")
        if not self.task.labels and len(self.values) < 2:
            raise SinkdError(
                f"found one answer for {self.task.name}, and a number is predicted from at least two: 1 {BAR} 2"
            )

    def _check_answers(self, answers: list[str]) -> None:
        labels = self.task.labels
        if labels and len(answers) != len(labels):
            listed = ", ".join(answer.strip() for answer in answers)
            raise SinkdError(
                f"found {len(answers)} answers ({listed}) for the {len(labels)} labels of {self.task.name}"
                f" ({', '.join(labels)}); give one for each, in this order"
            )
        if any(not answer.strip() for answer in answers):
            raise SinkdError(f"an answer for {self.task.name} is empty; give a word for each label")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SinkdError(f"found the answer {text.strip()!r} for a number to predict, expected numbers: 1 {BAR} 2")
    return value
