"""Choose the family of a model: a task of choices is answered by a language model, any other by an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from sinkd.models.config import load_config
from sinkd.models.encoder import Encoder
from sinkd.models.family import Family, Reading
from sinkd.models.language_model import LanguageModel
from sinkd.models.tokenizer import read_tokenizer, tokenizers_of
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
    """Return the family of the model at `path`, for a task.

    Args:
        task: The task to answer.
        settings: An object with (some of) the attributes of `Reading`.
        path: A model's folder, or a name on the hub.
        flag: The flag that gave the path, for messages.
        tokenizer: Default: the one that `--tokenizer_name` names, or that lies beside the model.
        to_train: The model is to be trained, with the config that `--config_name` names.
    """
    reading = Reading.of(settings)
    tokenizer = tokenizer or read_tokenizer(path, flag, reading)
    if not task.choices:
        return Encoder(tokenizer, task, reading)
    named = reading.config_name if to_train else None
    return LanguageModel(tokenizer, task, reading, load_config(named or path, "--config_name" if named else flag))


def student_and_teachers(
    task: Task, settings: Any, student: str, teachers: Sequence[str]
) -> tuple[Family, list[Family]]:
    """Return the families of a student and its teachers, for one task.

    An encoder reads with the tokenizer in its own folder; a student without one reads with the first teacher's.
    Language models all read with one tokenizer, and have heads of one width.

    Raises:
        SinkdError: if language models have different tokenizers.
    """
    reading = Reading.of(settings)
    readers = [tokenizers_of(teacher, student, reading, may_differ=not task.choices) for teacher in teachers]
    taught = family_of(task, settings, student, "--student_path", tokenizer=readers[0][1], to_train=True)
    families = []
    for teacher, (tokenizer, _) in zip(teachers, readers, strict=True):
        family = family_of(task, settings, teacher, "--teacher_path", tokenizer=tokenizer)
        taught, family = taught.share_head(family)
        families.append(family)
    return taught, families
