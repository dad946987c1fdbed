"""The lines of submission files, as GLUE's and SuperGLUE's servers expect them, in the order of the test file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

Answered = Iterable[tuple[str, Any]]  # (index of a row; its label id, number or text)
Submission = Callable[[Answered], Iterator[str]]


def table(words: Sequence[str]) -> Submission:
    """GLUE: index<TAB>prediction, with a word for each label id."""
    return lambda answers: _table((index, words[label]) for index, label in answers)


def score_table(low: float = -math.inf, high: float = math.inf) -> Submission:
    """STS-B: index<TAB>score with three decimals, within the range."""
    return lambda answers: _table((index, f"{min(max(score, low), high) + 0.0:.3f}") for index, score in answers)


def scores(answers: Answered) -> Iterator[str]:
    """A user's regression: index<TAB>score with the digits that tell it from its neighbours in float32."""
    return _table((index, str(np.float32(score))) for index, score in answers)


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "index\tprediction"
    for index, prediction in rows:
        yield f"{index}\t{prediction}"


def labels(words: Sequence[str | int]) -> Submission:
    """SuperGLUE: one JSON line per row, its idx and the word or number that the server uses for its label."""

    def lines(answers: Answered) -> Iterator[str]:
        for index, label in answers:
            yield json.dumps({"idx": int(index) if index.isdigit() else index, "label": words[label]})

    return lines


def multirc(answers: Answered) -> Iterator[str]:
    """One line per paragraph, with its questions and their answers: 1 for right, 0 for wrong."""
    rows = [(*map(int, index.split("-")), int(label)) for index, label in answers]
    for paragraph, in_paragraph in groupby(rows, key=lambda row: row[0]):
        questions = []
        for question, of_question in groupby(in_paragraph, key=lambda row: row[1]):
            said = [{"idx": answer, "label": label} for _, _, answer, label in of_question]
            questions.append({"idx": question, "answers": said})
        yield json.dumps({"idx": paragraph, "passage": {"questions": questions}})


def record(answers: Answered) -> Iterator[str]:
    """One line per query: its idx and the entity's text."""
    for index, entity in answers:
        yield json.dumps({"idx": int(index.rpartition("-")[2]), "label": entity})
