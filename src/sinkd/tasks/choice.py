"""A task of chosen answers: rows in the hub's schema, examples by a template, official scores, submissions.

task = load_superglue("copa", "datas/superglue")
template = find_template(task.name, "most plausible")
examples = task.examples("dev", template)       # prompt, target, choices, answer, index, meanings, accepted
task.scores(examples, chosen)                   # chosen (n,): which of each row's choices
task.write_submission("test", chosen, folder)   # chosen for the examples last made of "test"
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features

from sinkd.errors import SinkdError
from sinkd.tasks.cache import BATCH, cached, key_of
from sinkd.tasks.choice_metrics import ChoiceScorer
from sinkd.tasks.metrics import Scores
from sinkd.tasks.records import Record
from sinkd.tasks.source import Source
from sinkd.tasks.submission import Chosen, Lines, write_lines
from sinkd.tasks.task import BAD_ROWS
from sinkd.tasks.template import Template
from sinkd.tasks.wording import EXAMPLE, Wording

logger = logging.getLogger(__name__)

READER_VERSION = 1  # raise it when the same file would be read into other rows
EXAMPLE_VERSION = 2  # raise it when the same row and template would give another example


@dataclass(frozen=True)
class ChoiceTask:
    """What there is to learn where answers are chosen from a row's own list. `load_superglue` makes one.

    name : "superglue/copa", "anli/r1".
    labels : label names in id order; () where the entities of a row are its labels (ReCoRD).
    metric : the key of `scores` that picks the best model.
    source : where rows come from: files, or the hub.
    features : the columns of `read`.
    scorer : the official scores.
    submission : the lines of a submission; `submission_name` is its file.
    bad_rows : "error" stops at the first bad line, "skip" leaves bad lines out and counts them.
    skipped : split -> what was left out: bad lines, and once `examples` were made, rows that the template has no answer
        for.
    """

    name: str
    labels: tuple[str, ...]
    metric: str
    source: Source
    features: Features
    scorer: ChoiceScorer
    submission: Callable[[Chosen], Lines]
    submission_name: str
    bad_rows: str = "error"
    skipped: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    _examples: dict[str, Dataset] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise SinkdError(f"found bad_rows {self.bad_rows!r}, expected one of {', '.join(BAD_ROWS)}")

    @property
    def regression(self) -> bool:
        return False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, of train, dev and test."""
        return self.source.splits

    @property
    def files(self) -> Mapping[str, Path]:
        """split -> file; empty where rows come from the hub."""
        return self.source.files

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Splits to evaluate on."""
        return tuple(split for split in self.splits if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits to predict, usually without labels."""
        return tuple(split for split in self.splits if split.startswith("test"))

    def fingerprint(self, split: str) -> str:
        """Hash of what the split holds: the bytes of its file, or the hub's version of it."""
        return self.source.fingerprint(split)

    def read(self, split: str) -> Dataset:
        """Rows of a split in the hub's schema, memory-mapped; read once and kept in the cache folder.

        A row without label has label -1 (ReCoRD: no answers).

        Raises
        ------
        SinkdError : no such split or file; under bad_rows="error" the first bad line, with file, line, field, what was
            found and what was expected; a file without a single good row.
        """
        content = (self.name, self.fingerprint(split), self.bad_rows)
        notes = {"bad": 0}

        def batches() -> Iterator[dict[str, list[Any]]]:
            batch: list[Record] = []
            empty = True
            for row in self.source.rows(split):
                if isinstance(row, SinkdError):
                    if self.bad_rows == "error":
                        raise SinkdError(f"{row} (--bad_rows skip leaves such lines out)")
                    notes["bad"] += 1
                    continue
                batch.append(row)
                if len(batch) == BATCH:
                    yield _columns(batch, self.features)
                    batch, empty = [], False
            if batch:
                yield _columns(batch, self.features)
            elif empty:
                raise SinkdError(f"found no row to learn from in {self.source.place(split)}, expected at least one")

        key = key_of("choice rows", READER_VERSION, split == "test", *content)
        rows = cached(key, self.features, batches, notes, f"reading {self.name} {split}")
        self.skipped[split] = notes["bad"]
        if notes["bad"]:
            logger.warning("%s: left out %d bad lines", self.source.place(split), notes["bad"])
        return rows

    def examples(self, split: str, template: Template, seed: int = 0) -> Dataset:
        """Rows of a split as a template words them, memory-mapped and kept in the cache folder.

        Rows that the template has no prompt or no answer for are left out and counted in `skipped[split]`. A row
        without label is kept wherever the template would have an answer for some label.

        Returns
        -------
        Dataset with columns prompt and target (strings; target "" where the label is unknown), choices (list of
        strings; empty for a template without), answer (int64: which choice the target is; -1 where the label is
        unknown, or there are no choices), index (string), and what scores need: meanings, the label or entity that each
        choice stands for, and accepted, the meanings that are right.

        Raises
        ------
        SinkdError : the template fails on a row, gives an answer that is none of its choices, shows the answer in the
            prompt of a row without label, or applies to no row at all; and what `read` raises.
        """
        rows = self.read(split)
        wording = Wording(self.labels, template, seed)
        notes = {"empty": 0}

        def batches() -> Iterator[dict[str, list[Any]]]:
            kept = 0
            for start in range(0, len(rows), BATCH):
                made = list(map(wording.example, rows.select(range(start, min(start + BATCH, len(rows))))))
                batch = [example for example in made if example is not None]
                notes["empty"] += len(made) - len(batch)
                kept += len(batch)
                if batch:
                    yield _columns(batch, EXAMPLE)
            if not kept:
                raise SinkdError(
                    f"template {template.name!r} has no answer for any of the {len(rows)} rows of {self.name} {split}"
                )

        key = key_of("choice examples", EXAMPLE_VERSION, rows._fingerprint, template.fingerprint, seed)
        examples = cached(key, EXAMPLE, batches, notes, f"wording {self.name} {split}")
        self.skipped[split] += notes["empty"]
        if notes["empty"]:
            left = f"template {template.name!r} has no answer for"
            logger.info("%s %s: %s %d of %d rows", self.name, split, left, notes["empty"], len(rows))
        self._examples[split] = examples
        return examples

    def scores(self, examples: Dataset | Mapping[str, Sequence[Any]], chosen: np.ndarray) -> Scores:
        """The task's official scores, and accuracy.

        Parameters
        ----------
        examples : rows of `examples`, all of a split's or some; of the columns, meanings, accepted and index.
        chosen : (n,) integers: which of the row's choices.

        Raises SinkdError for shapes that do not fit, a number that is no choice, rows without label, or no row at all.
        """
        answers = self._chosen(examples, chosen)
        accepted = list(examples["accepted"])
        if unknown := sum(not right for right in accepted):
            raise SinkdError(f"{unknown} of {len(accepted)} rows of {self.name} to score on have no label")
        return self.scorer(answers, accepted, list(examples["index"]))

    def combine(self, scores: Mapping[str, Scores]) -> Scores:
        """What a run reports, from {split: scores}: the scores of the one dev split."""
        return dict(next(iter(scores.values())))

    def write_submission(self, split: str, chosen: np.ndarray, folder: str | Path) -> Path:
        """Chosen answers as SuperGLUE's server takes them: JSON lines, in the order of the split's file.

        `chosen` (n,) numbers the choices of the examples that were last made of this split. Returns the file written;
        raises SinkdError where no examples were made, where bad lines or rows without answer were left out (a
        submission answers all), and as `scores` does.
        """
        if split not in self._examples:
            raise SinkdError(f"no examples of {self.name} {split} were made yet, so nothing tells what was chosen")
        examples, rows = self._examples[split], self.read(split)
        if bad := self.skipped[split]:
            raise SinkdError(
                f"{self.source.place(split)} has {bad} bad lines, and a submission needs an answer for each; "
                "mend the file, or leave out --bad_rows skip to see the first of them"
            )
        if missing := len(rows) - len(examples):
            raise SinkdError(
                f"the template has no answer for {missing} rows of {self.name} {split}, and a submission answers all;"
                " choose another template"
            )
        lines = self.submission(zip(examples["index"], self._chosen(examples, chosen), strict=True))
        return write_lines(Path(folder) / self.submission_name, lines)

    def _chosen(self, examples: Dataset | Mapping[str, Sequence[Any]], chosen: np.ndarray) -> list[str]:
        """What the chosen answers mean."""
        meanings = list(examples["meanings"])
        chosen = np.asarray(chosen)
        if chosen.shape != (len(meanings),) or not np.issubdtype(chosen.dtype, np.integer):
            found = f"{chosen.dtype} of shape {chosen.shape}"
            raise SinkdError(f"found choices as {found} for {self.name}, expected integers of shape ({len(meanings)},)")
        if not len(meanings):
            raise SinkdError(f"found no rows to score for {self.name}, expected at least one")
        for row, (number, choices) in enumerate(zip(chosen.tolist(), meanings, strict=True)):
            if not 0 <= number < len(choices):
                raise SinkdError(f"found choice {number} in row {row} of {self.name}, which has {len(choices)} choices")
        return [choices[number] for number, choices in zip(chosen.tolist(), meanings, strict=True)]


def _columns(batch: Sequence[Record], features: Features) -> dict[str, list[Any]]:
    return {name: [row[name] for row in batch] for name in features}
