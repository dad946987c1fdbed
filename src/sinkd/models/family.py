"""How one kind of model reads a task and answers it: the one place that tells which kind a task is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sinkd.losses.feature import Feature
from sinkd.losses.term import View
from sinkd.models.config import load_config
from sinkd.models.encoder import Encoder
from sinkd.models.language_model import LanguageModel
from sinkd.models.reading import Reading
from sinkd.models.tokenizer import load_tokenizer, tokenizers_of
from sinkd.tasks import Task
from sinkd.tasks.metrics import Scores

class Family(Protocol):
    """A kind of model, bound to a task, a tokenizer and how rows are read: `Encoder` or `LanguageModel`.

    Attributes:
        head_width: How wide the logits of a language model are; 0 for an encoder.
        attributes: Whether attributions (saliency) are defined for it.
    """

    @property
    def task(self) -> Task: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def reading(self) -> Reading: ...
    @property
    def head_width(self) -> int: ...
    @property
    def attributes(self) -> bool: ...

    def for_seed(self, seed: int) -> Family:
        """The family that reads the rows of the run with this seed."""

    @property
    def train(self) -> Dataset:
        """The tokenised training rows."""

    @property
    def dev(self) -> dict[str, Dataset]:
        """The tokenised rows of each dev split."""

    def test(self, split: str) -> Dataset:
        """The tokenised rows of a test split."""

    @property
    def collator(self) -> Callable[[Any], dict[str, Tensor]]:
        """Makes a batch of tokenised rows."""

    @property
    def names(self) -> dict[str, str]:
        """The first columns of results.csv; empty where a run writes none."""

    @property
    def template_name(self) -> str | None:
        """The prompt template that is used, for the run's settings."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides the rows beside files and flags."""

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> Scores:
        """The task's scores of one dev split, from `answer`'s results for all its rows."""

    def write_submission(self, split: str, answers: np.ndarray, folder: Path) -> Path:
        """Write the task's submission, from `answer`'s results for all rows of a test split."""

    def check(self, path: str, flag: str) -> None:
        """Raise SinkdError if the config at `path` is of no model that answers the task."""

    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        """The model at `path`; one that is not `to_train` must know the task's labels. overrides: config values."""

    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        """The features of a batch of training rows, from one forward pass."""

    def answer(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """What the model answers a batch of dev or test rows: logits (B, C), or log-probabilities of each row's
        choices (B, K), -inf beyond a row's last."""

    def sample(self, model: nn.Module, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The batch with answers that the model itself draws, for `--on_policy`."""

    def refuse(self, settings: Any) -> None:
        """Raise SinkdError for flags that only the other family understands."""

    def refuse_long_rows(self, model: PreTrainedModel) -> None:
        """Raise SinkdError for training or dev rows that are longer than what the model reads."""

    def share_head(self, teacher: Any) -> tuple[Family, Family]:
        """This family and a teacher's of the same kind, set to load models with heads of one width."""

    def answer_tokens(self, rows: Dataset) -> int:
        """How many answer tokens training rows have; 0 for an encoder, whose answers are small."""


def family_of(
    task: Task,
    settings: Any,
    path: str,
    flag: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    to_train: bool = False,
) -> Family:
    """The family of the model at `path`, which is to answer the task.

    Args:
        task: The task.
        settings: Whatever has the fields of `Reading`.
        path: A model's folder, or a name on the hub.
        flag: The flag that gave the path, for messages.
        tokenizer: What it reads with, if not with what lies beside it or what `--tokenizer_name` names.
        to_train: The model is to be trained, with the config that `--config_name` names.
    """
    reading = Reading.of(settings)
    tokenizer = tokenizer or read_tokenizer(path, flag, reading)
    if task.choices:
        named = reading.config_name if to_train else None
        config = load_config(named or path, "--config_name" if named else flag)
        return LanguageModel(tokenizer, config, task, reading)
    return Encoder(tokenizer, task, reading)


def student_and_teacher(task: Task, settings: Any, student: str, teacher: str) -> tuple[Family, Family]:
    """The families of the models at two paths, of which one is to teach the other the task.

    Both read with the teacher's tokenizer; an encoder whose folder holds another tokenizer keeps it.

    Raises:
        SinkdError: Language models have different tokenizers.
    """
    reading = Reading.of(settings)
    named = reading.tokenizer_name, reading.config_name
    read = tokenizers_of(teacher, student, reading.do_lower_case, *named, may_differ=not task.choices)
    taught = family_of(task, settings, student, "--student_path", tokenizer=read[1], to_train=True)
    return taught, family_of(task, settings, teacher, "--teacher_path", tokenizer=read[0])


def read_tokenizer(path: str, flag: str, reading: Reading) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer_name` names, else the one beside the model."""
    if reading.tokenizer_name is None:
        return load_tokenizer(path, flag, reading.do_lower_case)
    config = load_config(path, flag)
    return load_tokenizer(reading.tokenizer_name, "--tokenizer_name", reading.do_lower_case, config)
