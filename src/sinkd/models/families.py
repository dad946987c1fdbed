"""Which family a model belongs to: the one place that decides it, by the task."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from sinkd.models.config import load_config
from sinkd.models.encoder import Encoder
from sinkd.models.family import Family, Reading
from sinkd.models.language_model import LanguageModel
from sinkd.models.tokenizer import load_tokenizer, tokenizers_of
from sinkd.tasks import Task


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
        return LanguageModel(tokenizer, task, reading, config)
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
