"""A family of models: how one kind of model reads a task and answers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sinkd.errors import SinkdError, first_sentence
from sinkd.losses.feature import Feature
from sinkd.losses.input_embedding import input_table
from sinkd.losses.term import View
from sinkd.tasks import Task, read_unlabeled
from sinkd.tasks.arrow_cache import file_hash
from sinkd.tasks.encode import column
from sinkd.tasks.metrics import Scores


@dataclass(frozen=True)
class Reading:
    """Settings for reading a task's rows. Each field is the flag of that name; `seed` draws shots and wordings."""

    seed: int = 0
    max_train_rows: int | None = None
    max_dev_rows: int | None = None
    max_seq_length: int = 128
    unlabeled_file: str | None = None
    do_lower_case: bool = False
    tokenizer_name: str | None = None
    config_name: str | None = None
    template_name: str | None = None
    templates_dir: str | None = None
    max_length: int = 1024
    target_max_length: int = 256
    input_eos: bool = False
    pad_to_max_length: bool = False
    num_shots: int | None = None
    length_normalize: bool = False
    parallelize: bool = False
    prompt: str | None = None
    answers: str | None = None

    @classmethod
    def of(cls, settings: Any) -> Reading:
        """Take the attributes of these names from any object, and defaults where it has none."""
        given: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(cls) if hasattr(settings, f.name)}
        return cls(**given)


@dataclass(frozen=True)
class Family(ABC):
    """A kind of model, bound to a tokenizer and a task: `Encoder`, `LanguageModel` or `PromptedClassifier`.

    Without a task it only runs models.

    Attributes:
        attributes: Whether attributions (saliency) are defined for it.
        answers_tokens: Whether its logits are of the tokens of an answer, and not of rows.
        zero_shot: Whether it answers a task that it was not trained on.
        refused: Flags that only the other family understands, and their defaults.
        refusal: Why they cannot be given.
        shorter: The flag that makes rows shorter, with {} for a length.
    """

    tokenizer: PreTrainedTokenizerBase = None
    task: Task = None  # type: ignore[assignment]
    reading: Reading = Reading()

    attributes: ClassVar[bool]
    answers_tokens: ClassVar[bool]
    zero_shot: ClassVar[bool] = False
    refused: ClassVar[Mapping[str, Any]]
    refusal: ClassVar[str]
    shorter: ClassVar[str]

    # A task's rows

    def for_seed(self, seed: int) -> Family:
        """Return the family that reads the rows of the run with this seed."""
        return self

    @cached_property
    def train(self) -> Dataset:
        """The tokenised training rows."""
        return concatenate_datasets([self.tokenise(rows, to_train=True) for rows in self.training_texts()])

    def training_texts(self) -> list[Dataset]:
        """Untokenised text to train on: the rows of the train file and of `--unlabeled_file`, if they are given.

        Raises:
            SinkdError: if there is neither.
        """
        texts = [first(self.task.read(split), self.reading.max_train_rows) for split in self.task.train_splits]
        if self.reading.unlabeled_file is not None:
            texts.append(read_unlabeled(self.reading.unlabeled_file, self.task))
        if not texts:
            raise SinkdError(f"{self.task.name} has no train file; give text to train on by --unlabeled_file")
        return texts

    def rows(self, split: str) -> Dataset:
        """Return the tokenised rows of a dev or test split."""
        return self.tokenise(self.texts(split), to_train=False)

    @abstractmethod
    def tokenise(self, texts: Dataset, to_train: bool) -> Dataset:
        """Tokenise what `training_texts` or `texts` returned."""

    def texts(self, split: str) -> Dataset:
        """Untokenised rows of a dev or test split; of a dev split at most `--max_dev_rows`."""
        rows = self.task.read(split)
        return first(rows, self.reading.max_dev_rows) if split in self.task.dev_splits else rows

    @cached_property
    def dev(self) -> dict[str, Dataset]:
        """The tokenised rows of each dev split."""
        return {split: self.rows(split) for split in self.task.dev_splits}

    @property
    @abstractmethod
    def collator(self) -> Callable[[Any], dict[str, Tensor]]:
        """Makes batches of tokenised rows."""

    @property
    def template_name(self) -> str | None:
        """Name of the prompt template in use."""
        return self.reading.template_name

    @property
    def names(self) -> dict[str, str]:
        """The first columns of results.csv; empty if runs write no such file."""
        return {}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of everything that determines the rows, except the task's files and the flags."""
        unlabelled = self.reading.unlabeled_file
        return {} if unlabelled is None else {"unlabelled file": file_hash(Path(unlabelled))}

    def answer_tokens(self, rows: Dataset) -> int:
        """Return the number of answer tokens in training rows; 0 if each row has one answer."""
        return 0

    # Models

    @property
    def head_width(self) -> int:
        """Width of a language model's logits; 0 if the task determines it."""
        return 0

    @property
    def answer_key(self) -> str:
        """What determines a model's answers beside its weights and the rows."""
        return str(self.head_width or "")

    def refuse_features(self, features: Iterable[Feature]) -> None:
        """Raise SinkdError for a feature that these models do not show."""
        return

    def share_head(self, teacher: Any) -> tuple[Family, Family]:
        """Return this family and a teacher's of the same kind, set to load models with heads of one width."""
        return self, teacher

    def within(self, path: str, flag: str) -> Family:
        """Return the family whose rows the model at `path` can read, cut to its positions where they are longer."""
        return self

    @abstractmethod
    def check(self, path: str, flag: str) -> None:
        """Raise SinkdError if the model with the config at `path` cannot answer the task."""

    @abstractmethod
    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        """Load the model at `path`, with `overrides` in its config; unless `to_train`, its head must fit the task."""

    @abstractmethod
    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        """Read features of a batch of training rows from one forward pass."""

    @abstractmethod
    def answer(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Answer a batch of dev or test rows: logits (B, C), or log-probabilities (B, K) of each row's choices, -inf
        beyond a row's last choice."""

    def sample(self, model: nn.Module, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """Replace the answers of a batch by answers that the model draws, for `--on_policy`."""
        raise SinkdError("only a language model draws answers of its own; leave out --on_policy")

    # Results

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> Scores:
        """Score a dev split, from `answer`'s results for all its rows."""
        return self.task.scores(answers, labels)

    def dev_scores(self, answers: Mapping[str, np.ndarray]) -> Scores:
        """Score `answer`'s results for all dev rows, given by split."""
        labels = {split: column(rows, "labels") for split, rows in self.dev.items()}
        return self.task.combine({split: self.scores(answers[split], labels[split]) for split in labels})

    def write_submission(self, split: str, answers: np.ndarray, folder: Path) -> Path:
        """Write the submission of a test split, from `answer`'s results for all its rows."""
        return self.task.write_submission(split, answers, folder)

    # Limits

    def refuse(self, settings: Any) -> None:
        """Raise SinkdError for flags that only the other family supports."""
        for name, default in self.refused.items():
            if getattr(settings, name, default) != default:
                raise SinkdError(f"--{name} is {self.refusal}; leave it out")

    def refuse_long_rows(self, most: int | None, *tables: Any, reader: str = "the model") -> None:
        """Raise SinkdError if a row has more tokens than the `most` that a model reads (`positions`).

        Args:
            most: None for no limit.
            tables: Tokenised rows; those without a `length` column are not checked.
            reader: Names the model, for the message.
        """
        for rows in tables:
            if most is None or "length" not in getattr(rows, "column_names", ()):
                continue
            if (longest := longest_row(rows)) > most:
                read = f"rows of up to {longest} tokens do not fit {reader}, which reads {most}"
                raise SinkdError(f"{read}; give {self.shorter.format(most)}")


def longest_row(rows: Dataset) -> int:
    """Return the number of tokens of the longest of tokenised rows; 0 if there is none."""
    return max(column(rows, "length"), default=0)


def first(rows: Dataset, most: int | None) -> Dataset:
    """Return the first `most` rows; all rows for None."""
    return rows if most is None else rows.select(range(min(len(rows), most)))


def positions(model: Any) -> int | None:
    """Return how many tokens of a row a model can read; None if its config sets no limit.

    Absolute positions are the rows of a table, and those of a table with a padding index (RoBERTa's) begin after it.
    For rotary and relative positions the config's number is what the model was made to read: a limit too, which
    `--config_overrides max_position_embeddings=N` raises.
    """
    if not isinstance(model, PreTrainedModel):
        return None
    config = model.config.get_text_config()
    stated = [getattr(config, "max_position_embeddings", None)]
    stated += [value for name, value in vars(config).items() if fnmatch(name, "max_*_position_embeddings")]  # LED
    most = max((number for number in stated if isinstance(number, int) and number > 0), default=None)  # XLNet has -1
    tokens = getattr(input_table(model), "weight", None)
    for module in model.modules():
        # `RobertaEmbeddings` has the index without the table.
        padding, table = getattr(module, "padding_idx", None), getattr(module, "weight", None)
        if padding is not None and table is not None and len(table) == most and table is not tokens:
            return most - padding - 1
    return most


def positions_of(config: PretrainedConfig) -> int | None:
    """Return `positions` of the model with this config, without its weights."""
    try:
        with torch.device("meta"):
            return positions(AutoModel.from_config(config))
    except Exception as error:  # a config with a wrong value fails in any way
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise SinkdError(
            f"the config of {config.name_or_path or config.model_type} makes no model ({reason})"
        ) from error
