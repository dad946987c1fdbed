"""SuperGLUE's submission files: JSON lines in the test file's order, as its server expects them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

Chosen = Iterable[tuple[str, str]]  # (index of a row, the label or entity chosen for it)
Lines = Iterator[Mapping[str, Any]]


def labels(words: Mapping[str, Any]) -> Callable[[Chosen], Lines]:
    """One line per row: its idx, and the word or number that the server uses for its label."""

    def lines(chosen: Chosen) -> Lines:
        for index, label in chosen:
            yield {"idx": int(index) if index.isdigit() else index, "label": words[label]}

    return lines


def multirc(chosen: Chosen) -> Lines:
    """One line per paragraph, with its questions and their answers: 1 for right, 0 for wrong."""
    rows = [(*map(int, index.split("-")), label) for index, label in chosen]
    for paragraph, in_paragraph in groupby(rows, key=lambda row: row[0]):
        questions = []
        for question, answers in groupby(in_paragraph, key=lambda row: row[1]):
            said = [{"idx": answer, "label": int(label == "True")} for _, _, answer, label in answers]
            questions.append({"idx": question, "answers": said})
        yield {"idx": paragraph, "passage": {"questions": questions}}


def record(chosen: Chosen) -> Lines:
    """One line per query: its idx and the entity's text."""
    for index, entity in chosen:
        yield {"idx": int(index.rpartition("-")[2]), "label": entity}


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines and return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path
