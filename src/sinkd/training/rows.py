"""A task's rows as a model reads them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from sinkd.tasks import Collator, Task, encode, read_unlabeled
from sinkd.tasks.cache import file_hash
from sinkd.training.arguments import TaskArguments


@dataclass(frozen=True)
class Rows:
    """A task's files, tokenised: training rows, and the rows of each dev and test split; read when asked for."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    args: TaskArguments

    def of_run(self, args: TaskArguments) -> "Rows":
        """The rows of one run: the same whatever its seed."""
        return self

    @cached_property
    def train(self) -> datasets.Dataset:
        """Training rows, the unlabelled ones after the labelled."""
        raw = self.task.read("train")
        if self.args.max_train_rows is not None:
            raw = raw.select(range(min(len(raw), self.args.max_train_rows)))
        rows = self._encode(raw)
        unlabelled = getattr(self.args, "unlabeled_file", None)
        if unlabelled is None:
            return rows
        return datasets.concatenate_datasets([rows, self._encode(read_unlabeled(Path(unlabelled), self.task))])

    @cached_property
    def dev(self) -> dict[str, datasets.Dataset]:
        """The rows of each dev split."""
        return {split: self._encode(self.task.read(split)) for split in self.task.dev_splits}

    def test(self, split: str) -> datasets.Dataset:
        """The rows of a test split."""
        return self._encode(self.task.read(split))

    def decide(self, answers: np.ndarray) -> np.ndarray:
        """What a task's submission takes of `TaskTrainer.answers`: the logits themselves."""
        return answers

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides the rows beside files and flags."""
        unlabelled = getattr(self.args, "unlabeled_file", None)
        return {} if unlabelled is None else {"unlabelled file": file_hash(Path(unlabelled))}

    @property
    def names(self) -> dict[str, str]:
        """What a table of results says of a run: nothing, there is none."""
        return {}

    def trainer_keywords(self) -> dict[str, Any]:
        """The keywords of a `TaskTrainer` that task and tokenizer decide, in training and in evaluation alike."""
        return {
            "data_collator": Collator(self.tokenizer),
            "processing_class": self.tokenizer,
            "scores": self.task.scores,
            "combine": self.task.combine,
            "best_metric": self.task.metric,
        }

    def _encode(self, raw: datasets.Dataset) -> datasets.Dataset:
        return encode(raw, self.tokenizer, self.args.max_seq_length, self.task.regression)
