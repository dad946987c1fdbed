"""Encoders such as BERT, whose head answers a text with a logit per label, or with a score."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature
from sinkd.losses.term import View
from sinkd.models.config import find_checkpoint, load_config, override
from sinkd.models.family import Family, longest_row, positions_of
from sinkd.models.forward import observe, parameters
from sinkd.models.weights import load_weights
from sinkd.tasks import Collator, Task, encode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder(Family):
    """The family of encoders."""

    attributes = True
    answers_tokens = False
    refused: ClassVar = {"on_policy": 0.0, "teacher_cache_top_k": None}
    refusal = "for language models, and this task is not answered by one"
    shorter = "--max_seq_length {}"

    def tokenise(self, texts: Dataset, to_train: bool) -> Dataset:
        return encode(texts, self.tokenizer, self.reading.max_seq_length, self.task.regression)

    @property
    def collator(self) -> Collator:
        return Collator(self.tokenizer)

    def within(self, path: str, flag: str) -> Encoder:
        most = positions_of(load_config(path, flag))
        if most is None or most >= self.reading.max_seq_length:
            return self
        if max(map(longest_row, (self.train, *self.dev.values()))) <= most:
            return self
        return replace(self, reading=replace(self.reading, max_seq_length=most))

    @property
    def answer_key(self) -> str:
        return "" if self.task is None else "\n".join(self.task.labels)  # logits come in their order

    def check(self, path: str, flag: str) -> None:
        _fitting_config(path, self.task, flag, must_have_head=True)

    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        model = load_encoder(path, self.task, flag, overrides=overrides, must_have_head=not to_train)
        _name_padding(model, self.tokenizer)
        return model

    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        return observe(model, batch, features)

    def answer(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        return observe(model, batch, {LOGITS}).logits


def load_encoder(
    path: str, task: Task | None, flag: str, *, overrides: dict[str, object] | None = None, must_have_head: bool = False
) -> PreTrainedModel:
    """Load an encoder with a head for the task's labels, float32.

    Labels are matched by name, whatever their case and order, and unnamed labels by number. The loaded head answers in
    the task's order.

    Args:
        path: A folder, or a name on the hub.
        task: The task; None takes the head as it is.
        must_have_head: Refuse a checkpoint whose head is missing, or of another task; otherwise it gets a new one.

    Raises:
        SinkdError: if the model cannot be loaded, lacks weights or does not fit the task.
    """
    folder = find_checkpoint(path, flag)
    config, order = _fitting_config(path, task, flag, must_have_head)
    for key in (overrides or {}).keys() & {"num_labels", "id2label", "label2id", "problem_type"}:
        raise SinkdError(f"--config_overrides sets {key}, which the task decides")
    override(config, overrides, path)
    replaced = _has_head(config) and not order
    if task is not None and not replaced:
        _name_labels(config, task)
    model, missing = load_weights(AutoModelForSequenceClassification, folder, f"{flag} {path}", config=config)
    # transformers initialises what a file lacks at random, silently: only a head and its pooler may be new.
    body = f"{model.base_model_prefix}."
    lacking = [key for key in missing if order or (key.startswith(body) and "pooler" not in key)]
    if lacking:
        raise SinkdError(f"{flag} {path} lacks {len(lacking)} of the model's weights, {min(lacking)} among them")
    if task is not None and replaced:
        _name_labels(model.config, task)
        _replace_head(model)
    elif order != sorted(order):
        _reorder_head(model, order)
    return model


def _name_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Tell a decoder the tokenizer's padding: its head reads a row's last token that is not `config.pad_token_id`."""
    config, padding = model.config.get_text_config(), getattr(tokenizer, "pad_token_id", None)
    is_decoder = "past_key_values" in parameters(model)
    if padding is not None and (is_decoder or config.pad_token_id is None):
        config.pad_token_id = padding


def _fitting_config(
    path: str, task: Task | None, flag: str, must_have_head: bool = False
) -> tuple[PretrainedConfig, list[int]]:
    """Load the config at `path`, and find the places of the task's labels in its head.

    Returns:
        The config, and for each of the task's labels its place; [] for a model that needs a new head.

    Raises:
        SinkdError: if there is no such head, but one is needed.
    """
    config = load_config(path, flag)
    if not _has_head(config):
        if must_have_head or task is None:
            on = "a task" if task is None else task.name
            raise SinkdError(f"{flag} {path} has no classifier on top; fine-tune it on {on} first (sinkd finetune)")
        return config, []
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    order = list(range(len(names))) if task is None else _places(names, task)
    if task is not None and not order:
        unnamed = _unnamed(names)
        there = f"{len(names)} unnamed labels" if unnamed else f"the labels {', '.join(names)}"
        wanted = "one number" if task.regression else ", ".join(task.labels)
        differ = f"{flag} {path} has {there}, and {task.name} has {wanted}"
        if must_have_head:
            raise SinkdError(f"{differ}; fine-tune it on {task.name} first (sinkd finetune)")
        logger.info("%s: it gets a new head", differ)
    return config, order


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


def _unnamed(names: Sequence[str]) -> bool:
    return all(name.upper() == f"LABEL_{i}" for i, name in enumerate(names))


def _places(names: Sequence[str], task: Task) -> list[int]:
    """Return the place of each of the task's labels among a head's; [] if they are not the task's."""
    if len(names) != task.num_labels:
        return []
    if task.regression or _unnamed(names):
        return list(range(len(names)))
    for spelling in (str, str.casefold):
        place = {spelling(name): i for i, name in enumerate(names)}
        if place.keys() == {spelling(label) for label in task.labels} and len(place) == len(names):
            return [place[spelling(label)] for label in task.labels]
    return []


def _head(model: PreTrainedModel) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_children() if name != model.base_model_prefix}


def _replace_head(model: PreTrainedModel) -> None:
    """Give the model a new head for the labels in its config, in place."""
    new = AutoModelForSequenceClassification.from_config(model.config)
    for name, part in _head(new).items():
        setattr(model, name, part)
    model.num_labels = model.config.num_labels


@torch.no_grad()
def _reorder_head(model: PreTrainedModel, order: list[int]) -> None:
    """Let the head's last layer answer in this order, in place."""
    layers = [module for part in _head(model).values() for module in part.modules() if isinstance(module, nn.Linear)]
    for parameter in layers[-1].parameters():
        parameter.copy_(parameter[order])
