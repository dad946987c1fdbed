"""A task: the source of its rows, their labels, and how answers are scored and submitted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import batched, cached, key_of
from sinkd.tasks.file_formats import Record
from sinkd.tasks.metrics import Scorer, Scores
from sinkd.tasks.source import Source
from sinkd.tasks.submission import Submission

logger = logging.getLogger(__name__)

READER_VERSION = 3  # raise it if the same file would be read into other rows
BAD_ROWS = ("error", "skip")
SKIPPING = "(--bad_rows skip leaves such rows out)"
UNLABELED = "unlabeled"


@dataclass(frozen=True)
class Task:
    """A task to learn, from rows to a score. Made by `load_task`, `table_task` and `load_superglue`.

    Attributes:
        name: "glue/cola", "superglue/copa", "table/reviews".
        labels: Label names in id order; () for a number to predict, and for answers that are texts of each row.
        metric: The key of `combine`'s result that selects the best model.
        source: The source of its rows. Splits: "train", "dev", "test" (MNLI: dev_matched, dev_mismatched and the same
            for test; AX: test).
        choices: True if each row has its own list of answers, which a template words (SuperGLUE).
        submissions: Split -> name of its submission file; <split>.tsv by default.
        bad_rows: "error" stops at the first bad row, "skip" leaves bad rows out and counts them.
        skipped: Split -> rows left out so far, filled by `read`.
    """

    name: str
    labels: tuple[str, ...]
    metric: str
    source: Source
    scorer: Scorer
    submission: Submission
    choices: bool = False
    submissions: Mapping[str, str] = field(default_factory=dict)
    bad_rows: str = "error"
    skipped: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise SinkdError(f"found bad_rows {self.bad_rows!r}, expected one of {', '.join(BAD_ROWS)}")

    @property
    def regression(self) -> bool:
        """True if the label is a number to predict."""
        return not self.labels and not self.choices

    @property
    def num_labels(self) -> int:
        """Width of a classifier's logits: the number of labels, 1 for regression."""
        return len(self.labels) or 1

    @property
    def files(self) -> Mapping[str, Path]:
        """Split -> file; empty if rows come from the hub."""
        return self.source.files

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task has."""
        return self.source.splits

    @property
    def train_splits(self) -> tuple[str, ...]:
        """Splits to train on; () if all text to train on is unlabelled."""
        return tuple(split for split in self.splits if split == "train")

    @property
    def labelled(self) -> bool:
        """True if there are training rows with labels."""
        return any(map(self.source.labelled, self.train_splits))

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Splits to evaluate on."""
        return tuple(split for split in self.splits if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Splits to predict, usually without labels."""
        return tuple(split for split in self.splits if split.startswith("test"))

    def fingerprint(self, split: str) -> str:
        """Return a hash of the split's content: of the bytes of its file, or of the hub's version."""
        return self.source.fingerprint(split)

    def read(self, split: str) -> Dataset:
        """Return the rows of a split, memory-mapped; the source is read once and kept in the cache folder.

        Returns:
            GLUE and tables: columns text (string), text_pair (string, pairs only), label (int64 id, or float32 for
            regression; absent in splits without labels) and index (string). SuperGLUE and ANLI: the hub's schema, with
            label -1 (ReCoRD: no answers) in rows without label.

        Raises:
            SinkdError: if there is no such split or file; a header lacks columns; with bad_rows="error" there is a bad
                row (with file, line, found and expected); or there is no good row.
        """
        place, features = self.source.place(split), self.source.features(split)
        notes: dict[str, Any] = {"bad": 0, "open": 0, "first": ""}

        def good_rows() -> Iterator[Record]:
            empty = True
            for row in self.source.rows(split):
                if isinstance(row, SinkdError):
                    if self.bad_rows == "error":
                        raise SinkdError(f"{row} {SKIPPING}")
                    notes["bad"] += 1
                    notes["first"] = notes["first"] or f"; the first: {str(row).removeprefix(f'{place}, ')}"
                elif row is None:
                    notes["open"] += 1
                else:
                    empty = False
                    yield row
            if empty:
                raise SinkdError(f"found no row to learn from in {place}, expected at least one{notes['first']}")

        key = key_of("rows", READER_VERSION, self.source.key(split), self.bad_rows)
        dataset = cached(key, features, lambda: batched(good_rows(), features), notes, f"reading {place}")
        self.skipped[split] = notes["bad"] + notes["open"]
        if notes["bad"]:
            logger.warning("%s: left out %d bad rows%s", place, notes["bad"], notes["first"])
        if notes["open"]:
            logger.info("%s: left out %d rows on whose label the annotators did not agree", place, notes["open"])
        return dataset

    def scores(self, answers: Any, truth: Any, index: Sequence[str] = ()) -> Scores:
        """Score the answers of one split.

        Args:
            answers: Logits (n, C) or label ids (n,); scores (n, 1) or (n,) for regression; n texts if the task's
                answers are texts.
            truth: Label ids or numbers (n,); for texts, n lists of right texts.
            index: The rows' indices, which MultiRC's scores need.

        Raises:
            SinkdError: if shapes do not fit, logits are NaN, rows have no label, or there is no row.
        """
        said = self._decide(answers, len(truth))
        if self.labels or self.regression:
            truth = np.asarray(truth)
            unlabelled = int((np.isnan(truth) if self.regression else truth < 0).sum())
        else:
            unlabelled = sum(not right for right in truth)
        if unlabelled:
            raise SinkdError(f"{unlabelled} of {len(truth)} rows of {self.name} to score on have no label")
        return self.scorer(said, truth, index)

    def combine(self, scores: Mapping[str, Scores]) -> Scores:
        """Return the scores that a run reports, from {split: scores}.

        These are the scores of the only dev split; for several (MNLI), each split's (accuracy_matched) and their mean
        (accuracy).
        """
        if len(scores) == 1:
            return dict(next(iter(scores.values())))
        combined: Scores = {}
        for name in next(iter(scores.values())):
            combined |= {f"{name}_{split.removeprefix('dev_')}": found[name] for split, found in scores.items()}
            combined[name] = sum(found[name] for found in scores.values()) / len(scores)
        return combined

    def selected_by(self, metric: str | None) -> Task:
        """Return the task with another of its scores to select the best model; None leaves it as it is.

        Raises:
            SinkdError: if the task has no such score.
        """
        if metric is None:
            return self
        texts = not self.labels and not self.regression
        said, truth = (["a", "b"], [["a"], ["b"]]) if texts else (np.arange(2), np.arange(2))
        known = self.combine(dict.fromkeys(self.dev_splits or ("dev",), self.scorer(said, truth, ("0-0-0", "0-1-0"))))
        chosen = metric.removeprefix("eval_")
        if chosen not in known:
            raise SinkdError(f"{self.name} has no score {metric}; choose one of {', '.join(known)}")
        return replace(self, metric=chosen)

    def write_submission(
        self, split: str, answers: Any, folder: str | Path, index: Sequence[str] | None = None
    ) -> Path:
        """Write the answers to every row of a test split in the format of the task's server.

        Args:
            answers: As for `scores`.
            index: The rows' indices, unless they are a column of `read`.

        Returns:
            The file written.

        Raises:
            SinkdError: as `scores` and `read`; or if bad rows were left out, which a submission must answer too.
        """
        rows = self.read(split)
        if self.skipped[split]:
            raise SinkdError(
                f"{self.source.place(split)} has {self.skipped[split]} bad rows, and a submission needs an answer for "
                "each; mend the file, or leave out --bad_rows skip to see the first of them"
            )
        said = self._decide(answers, len(rows))
        if self.labels and min(said) < 0:
            raise SinkdError(
                f"an answer for {self.name} {split} stands for no label, and a submission needs one for each"
            )
        path = Path(folder) / self.submissions.get(split, f"{split}.tsv")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in self.submission(zip(index or rows["index"], said, strict=True)))
        return path

    def _decide(self, answers: Any, rows: int) -> Any:
        """Return label ids, numbers or texts, (rows,)."""
        if rows == 0:
            raise SinkdError(f"found no rows to score for {self.name}, expected at least one")
        if not self.labels and not self.regression:
            return answers
        answers = np.asarray(answers)
        if answers.shape == (rows,) and (self.regression or np.issubdtype(answers.dtype, np.integer)):
            logits = answers[:, None]
        elif answers.shape == (rows, self.num_labels):
            logits = answers
        else:
            expected = (rows, self.num_labels)
            raise SinkdError(f"found logits of shape {answers.shape} for {self.name}, expected {expected}")
        if bad := int(np.isnan(logits).any(axis=1).sum()):
            raise SinkdError(f"found NaN in {bad} of {rows} rows of logits for {self.name}, expected numbers")
        return logits.argmax(axis=-1) if logits.shape[1] > 1 else logits[:, 0]


def read_unlabeled(path: str | Path, task: Task) -> Dataset:
    """Read text without labels for a task, memory-mapped: columns text, and text_pair for pairs.

    The file has the task's text columns (TSV with a header; tables also CSV, JSON lines and Parquet), or one sentence
    per line, or for pairs two columns without a header. `task.bad_rows` decides whether a bad row is an error or is
    counted in `task.skipped["unlabeled"]`.
    """
    source: Any = task.source
    return replace(task, source=replace(source, files={UNLABELED: Path(path)})).read(UNLABELED)
