"""Encoders such as BERT, whose head answers a text with a logit per label, or with a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature
from sinkd.losses.term import View
from sinkd.models.config import find_checkpoint, load_config, override
from sinkd.models.family import Family, positions
from sinkd.models.forward import observe
from sinkd.models.weights import load_weights
from sinkd.tasks import Collator, Task, encode
from sinkd.tasks.arrow_cache import file_hash


@dataclass(frozen=True)
class Encoder(Family):
    """The family of encoders."""

    attributes = True
    answers_tokens = False
    refused: ClassVar = {"on_policy": 0.0, "teacher_cache_top_k": None}
    refusal = "for language models, and this task is not answered by one"
    shorter = "--max_seq_length {}"

    @cached_property
    def train(self) -> Dataset:
        return concatenate_datasets([self._encode(rows) for rows in self.training_texts()])

    def rows(self, split: str) -> Dataset:
        return self._encode(self.task.read(split))

    def _encode(self, rows: Dataset) -> Dataset:
        return encode(rows, self.tokenizer, self.reading.max_seq_length, self.task.regression)

    @property
    def collator(self) -> Collator:
        return Collator(self.tokenizer)

    @property
    def fingerprints(self) -> dict[str, str]:
        unlabelled = self.reading.unlabeled_file
        return {} if unlabelled is None else {"unlabelled file": file_hash(Path(unlabelled))}

    def within(self, path: str, flag: str) -> Encoder:
        with torch.device("meta"):
            most = positions(AutoModel.from_config(load_config(path, flag)))
        if most is None or most >= self.reading.max_seq_length:
            return self
        return replace(self, reading=replace(self.reading, max_seq_length=most))

    def check(self, path: str, flag: str) -> None:
        _fitting_config(path, self.task, flag, must_have_head=True)

    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        return load_encoder(path, self.task, flag, overrides=overrides, must_have_head=not to_train)

    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        return observe(model, batch, features)

    def answer(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        return observe(model, batch, {LOGITS}).logits


def load_encoder(
    path: str, task: Task | None, flag: str, *, overrides: dict[str, object] | None = None, must_have_head: bool = False
) -> PreTrainedModel:
    """Load an encoder with a head for the task's labels, float32.

    Args:
        path: A folder, or a name on the hub. The head of a checkpoint must fit the task (unnamed labels fit by number).
        task: The task; None takes the head as it is.
        flag: The flag that gave the path, for messages.
        overrides: Values for the model's config.
        must_have_head: Refuse a checkpoint without a head; otherwise it gets a new one.

    Raises:
        SinkdError: if the model cannot be loaded, lacks weights or does not fit the task.
    """
    folder = find_checkpoint(path, flag)
    config = _fitting_config(path, task, flag, must_have_head)
    if task is not None:
        _name_labels(config, task)
    for key in (overrides or {}).keys() & {"num_labels", "id2label", "label2id", "problem_type"}:
        raise SinkdError(f"--config_overrides sets {key}, which the task decides")
    override(config, overrides, path)
    headed = _has_head(config)
    model, missing = load_weights(AutoModelForSequenceClassification, folder, f"{flag} {path}", config=config)
    # transformers initialises what a file lacks at random, silently: only a head and its pooler may be new.
    body = f"{model.base_model_prefix}."
    lacking = [key for key in missing if headed or (key.startswith(body) and "pooler" not in key)]
    if lacking:
        raise SinkdError(f"{flag} {path} lacks {len(lacking)} of the model's weights, {min(lacking)} among them")
    return model


def _fitting_config(path: str, task: Task | None, flag: str, must_have_head: bool = False) -> PretrainedConfig:
    """Load the config at `path`; SinkdError if its head does not fit the task, or is missing but needed."""
    config = load_config(path, flag)
    if _has_head(config):
        if task is not None:
            _check_labels(config, task, f"{flag} {path}")
    elif must_have_head or task is None:
        on = "a task" if task is None else task.name
        raise SinkdError(f"{flag} {path} has no classifier on top; fine-tune it on {on} first (sinkd finetune)")
    return config


def _has_head(config: PretrainedConfig) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _name_labels(config: PretrainedConfig, task: Task) -> None:
    if task.regression:
        config.num_labels = 1
        config.problem_type = "regression"
        return
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: i for i, label in enumerate(task.labels)}
    config.problem_type = "single_label_classification"


def _check_labels(config: PretrainedConfig, task: Task, model: str) -> None:
    """Refuse a head whose labels are not the task's in number, names or order."""
    if config.num_labels != task.num_labels:
        raise SinkdError(
            f"{model} answers with {config.num_labels} numbers, and {task.name} needs {task.num_labels}; "
            "give a model that was fine-tuned on this task"
        )
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    unnamed = all(name.upper() == f"LABEL_{i}" for i, name in enumerate(names))
    if not (task.regression or unnamed or names == list(task.labels)):
        raise SinkdError(
            f"{model} has the labels {', '.join(names)}, and {task.name} has {', '.join(task.labels)}, "
            "in that order; give a model that was fine-tuned on this task"
        )
