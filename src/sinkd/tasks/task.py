"""A task: which files, which columns, which labels, how it is scored, how it is handed in."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

from sinkd.errors import SinkdError
from sinkd.tasks.cache import BATCH, cached, file_hash, key_of
from sinkd.tasks.layout import Examples, Layout
from sinkd.tasks.metrics import Scorer, Scores
from sinkd.tasks.records import Record, excerpt

logger = logging.getLogger(__name__)

READER_VERSION = 1  # raise it when the same file would be read into other rows
BAD_ROWS = ("error", "skip")


@dataclass(frozen=True)
class Task:
    """What there is to learn, from files to a score. `load_task` and `table_task` make one.

    name : "glue/cola", "table/reviews".
    labels : label names in id order; () for regression.
    files : split -> file. Splits: "train", "dev", "test" (MNLI: dev_matched, dev_mismatched and so for test; AX: test).
    metric : the key of `combine`'s result that picks the best model.
    layout : the columns of the files.
    scorer : logits (n, C) and labels (n,) to named scores.
    words : what files may hold for a label -> its id.
    score_range : lowest and highest score of a regression task whose scale is fixed.
    submissions : split -> name of its submission file; <split>.tsv where it is absent.
    submission_words : what a submission writes for each label; the label names where it is empty.
    bad_rows : "error" stops at the first bad row, "skip" leaves bad rows out and counts them.
    skipped : split -> rows left out so far, filled by `read` ("unlabeled": by `read_unlabeled`).
    """

    name: str
    labels: tuple[str, ...]
    files: Mapping[str, Path]
    metric: str
    layout: Layout
    scorer: Scorer
    words: Mapping[str, int] = field(default_factory=dict)
    score_range: tuple[float, float] | None = None
    submissions: Mapping[str, str] = field(default_factory=dict)
    submission_words: tuple[str, ...] = ()
    bad_rows: str = "error"
    skipped: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise SinkdError(f"found bad_rows {self.bad_rows!r}, expected one of {', '.join(BAD_ROWS)}")

    @property
    def regression(self) -> bool:
        """Whether the label is a number to predict."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Width of the logits: the number of labels, 1 for regression."""
        return len(self.labels) or 1

    @property
    def pair(self) -> bool:
        """Whether a row holds two texts."""
        return len(self.layout.text) == 2

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task has."""
        return tuple(self.files)

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Splits to evaluate on."""
        return tuple(split for split in self.files if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits to predict, usually without labels."""
        return tuple(split for split in self.files if split.startswith("test"))

    def fingerprint(self, split: str) -> str:
        """SHA-256 of the bytes of the split's file."""
        return file_hash(self._file(split))

    def read(self, split: str) -> Dataset:
        """Rows of a split, memory-mapped; the file is read once and kept in the cache folder.

        Returns
        -------
        Dataset with columns text (string), text_pair (string, pairs only), label (int64 id, or float32 for regression;
        absent in test splits) and index (string).

        Raises
        ------
        SinkdError : no such split or file; a header without the columns needed; under bad_rows="error" the first bad
            row, with file, line, what was found and what was expected; a file without a single good row.
        """
        path = self._file(split)
        # A test file's labels, where it has any, are the server's business.
        labelled = not split.startswith("test")
        label = (self._score if self.regression else self._label) if labelled else None
        columns = {"label": "float32" if self.regression else "int64"} if labelled else {}
        return self._collect(path, split, lambda: self.layout.examples(path, label), columns | {"index": "string"})

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """Scores of one split from logits (n, C), C = 1 for regression, and labels (n,).

        Raises SinkdError for shapes that do not fit, NaN logits, unlabelled rows, or no row at all.
        """
        logits, labels = np.asarray(logits), np.asarray(labels)
        self._check(logits, len(labels))
        unlabelled = np.isnan(labels) if self.regression else labels < 0
        if unlabelled.any():
            raise SinkdError(f"{int(unlabelled.sum())} of {len(labels)} rows to score on have no label")
        return self.scorer(logits, labels)

    def combine(self, scores: Mapping[str, Scores]) -> Scores:
        """What a run reports, from {split: scores}: the scores of the one dev split, or for several (MNLI) each
        split's own, as accuracy_matched, and their plain mean, as accuracy."""
        if len(scores) == 1:
            return dict(next(iter(scores.values())))
        combined: Scores = {}
        for name in next(iter(scores.values())):
            combined |= {f"{name}_{split.removeprefix('dev_')}": found[name] for split, found in scores.items()}
            combined[name] = sum(found[name] for found in scores.values()) / len(scores)
        return combined

    def write_submission(self, split: str, logits: np.ndarray, folder: Path) -> Path:
        """Predictions as GLUE's server takes them: `index<TAB>prediction`, one line for each row of the split.

        Labels are words or numbers as the task's own training file has them; STS-B's scores have three decimals, within
        0 to 5. Logits (n, C). Returns the file written; raises SinkdError as `scores` and `read` do.
        """
        index = self.read(split)["index"]
        if self.skipped.get(split):
            raise SinkdError(
                f"{self._file(split)} has {self.skipped[split]} bad rows, and a submission needs an answer for each; "
                "mend the file, or leave out --bad_rows skip to see the first of them"
            )
        logits = np.asarray(logits)
        self._check(logits, len(index))
        if self.regression:
            low, high = self.score_range or (-math.inf, math.inf)
            predictions = [f"{score:.3f}" for score in logits.reshape(-1).clip(low, high) + 0.0]
        else:
            words = self.submission_words or self.labels
            predictions = [words[label] for label in logits.argmax(axis=-1)]
        path = Path(folder) / self.submissions.get(split, f"{split}.tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write("index\tprediction\n")
            file.writelines(f"{row}\t{prediction}\n" for row, prediction in zip(index, predictions, strict=True))
        return path

    def _file(self, split: str) -> Path:
        if split not in self.files:
            raise SinkdError(f"task {self.name} has no split {split!r}, expected one of {', '.join(self.files)}")
        if not self.files[split].is_file():
            raise SinkdError(f"no {split} file for {self.name}: looked for {self.files[split]}")
        return self.files[split]

    def _check(self, logits: np.ndarray, rows: int) -> None:
        expected = (rows, self.num_labels)
        if logits.shape != expected and not (self.regression and logits.shape == (rows,)):
            raise SinkdError(f"found logits of shape {logits.shape} for {self.name}, expected {expected}")
        if rows == 0:
            raise SinkdError(f"found no rows to score for {self.name}, expected at least one")
        if bad := int(np.isnan(logits).reshape(rows, -1).any(axis=1).sum()):
            raise SinkdError(f"found NaN in {bad} of {rows} rows of logits for {self.name}, expected numbers")

    def _label(self, word: str) -> int:
        if word not in self.words:
            shown = ", ".join(list(self.words)[:20]) + ", ..." * (len(self.words) > 20)
            raise SinkdError(f"found label {excerpt(word)}, expected one of {shown}")
        return self.words[word]

    def _score(self, word: str) -> float:
        low, high = self.score_range or (-math.inf, math.inf)
        try:
            score = float(word)
        except ValueError:
            score = math.nan
        if not (math.isfinite(score) and low <= score <= high):
            expected = f"a number from {low:g} to {high:g}" if self.score_range else "a finite number"
            raise SinkdError(f"found score {excerpt(word)}, expected {expected}")
        return score

    def _collect(self, path: Path, split: str, rows: Callable[[], Examples], columns: Mapping[str, str]) -> Dataset:
        """The cached data set of these rows; bad ones stop it or are counted, as the task says."""
        if not path.is_file():
            raise SinkdError(f"no {split} file for {self.name}: looked for {path}")
        types = dict.fromkeys(self.layout.names, "string") | dict(columns)
        notes = {"bad": 0, "open": 0}

        def batches() -> Iterator[dict[str, list[Any]]]:
            batch: list[Record] = []
            empty = True
            for number, row in rows():
                if isinstance(row, SinkdError):
                    if self.bad_rows == "error":
                        raise SinkdError(f"{path}, line {number}: {row} (--bad_rows skip leaves such rows out)")
                    notes["bad"] += 1
                elif row is None:
                    notes["open"] += 1
                else:
                    batch.append(row)
                if len(batch) == BATCH:
                    yield {name: [row[name] for row in batch] for name in types}
                    batch, empty = [], False
            if batch:
                yield {name: [row[name] for row in batch] for name in types}
            elif empty:
                raise SinkdError(f"found no row to learn from in {path}, expected at least one")

        # The suffix counts: it says how a user's table is written.
        content = (file_hash(path), path.suffix, self.layout, types, dict(self.words), self.score_range, self.bad_rows)
        features = Features({name: Value(kind) for name, kind in types.items()})
        dataset = cached(key_of("rows", READER_VERSION, *content), features, batches, notes, f"reading {path.name}")
        self.skipped[split] = sum(notes.values())
        if notes["bad"]:
            logger.warning("%s: left out %d bad rows", path, notes["bad"])
        if notes["open"]:
            logger.info("%s: left out %d rows on whose label the annotators did not agree", path, notes["open"])
        return dataset


def read_unlabeled(path: str | Path, task: Task) -> Dataset:
    """Text without labels for a task, memory-mapped: columns text, and text_pair for pairs.

    The file has the task's text columns (TSV with a header, or for tables CSV and JSON lines), or, as any other text
    file, one sentence a line; pairs then are two columns without a header. Bad rows stop it or are counted in
    `task.skipped["unlabeled"]`, as `task.bad_rows` says.
    """
    path = Path(path)
    return task._collect(path, "unlabeled", lambda: task.layout.texts(path), {})
