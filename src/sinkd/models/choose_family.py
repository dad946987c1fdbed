"""Choose the family of a model: a task of choices is answered by a language model, any other by an encoder, or by a
language model that is asked for the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as ENCODER_DECODERS

from sinkd.errors import SinkdError
from sinkd.models.config import find_checkpoint, load_config
from sinkd.models.encoder import Encoder
from sinkd.models.family import Family, Reading
from sinkd.models.gguf import gguf_file
from sinkd.models.language_model import LanguageModel
from sinkd.models.prompted import PromptedClassifier
from sinkd.models.served_classifier import ServedClassifier
from sinkd.models.tokenizer import read_tokenizer, tokenizers_of
from sinkd.tasks import Task
from sinkd.tasks.label_prompt import LabelPrompt


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
    if task.choices:
        named = reading.config_name if to_train else None
        config = load_config(named or path, "--config_name" if named else flag)
        return LanguageModel(tokenizer, task, reading, config)
    if not to_train and answers_in_words(path, flag):
        return _prompted(task, reading, tokenizer, path, flag)
    if reading.prompt is not None or reading.answers is not None:
        raise SinkdError(f"{flag} {path} is no language model, which a prompt and answers are for; leave them out")
    return Encoder(tokenizer, task, reading)


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
    asked = replace(reading, prompt=settings.teacher_prompt, answers=settings.teacher_answers)
    worded = [not task.choices and answers_in_words(teacher, "--teacher_path") for teacher in teachers]
    families = []
    for teacher, (tokenizer, _), in_words in zip(teachers, readers, worded, strict=True):
        # A classifier beside a prompted model is not asked in words; alone it refuses to be.
        given = asked if in_words or not any(worded) else reading
        family = family_of(task, given, teacher, "--teacher_path", tokenizer=tokenizer)
        taught, family = taught.share_head(family)
        families.append(family.within(teacher, "--teacher_path"))
    return taught, families


def served_classifier(task: Task, settings: Any) -> ServedClassifier:
    """Return the family of a model on a server that is asked `settings.teacher_prompt`."""
    reading = Reading.of(settings)
    prompt = LabelPrompt.read(task, settings.teacher_prompt, settings.teacher_answers, reading.templates_dir)
    return ServedClassifier(task=task, reading=reading, prompt=prompt)


def answers_in_words(path: str, flag: str) -> bool:
    """Return whether the model at `path` is a decoder or an encoder-decoder with the head of a language model."""
    config = load_config(path, flag)
    # A GGUF file names no class; the type of its model has a decoder's.
    named = config.architectures or [DECODERS.get(config.model_type)] * bool(gguf_file(find_checkpoint(path, flag)))
    return not {*DECODERS.values(), *ENCODER_DECODERS.values()}.isdisjoint(named)


def _prompted(
    task: Task, reading: Reading, tokenizer: PreTrainedTokenizerBase, path: str, flag: str
) -> PromptedClassifier:
    if reading.prompt is None:
        side = "teacher_" if flag == "--teacher_path" else ""
        raise SinkdError(
            f"{flag} {path} is a language model; say how to ask it by --{side}prompt and --{side}answers, or give a "
            f"model that was fine-tuned on {task.name}"
        )
    prompt = LabelPrompt.read(task, reading.prompt, reading.answers, reading.templates_dir)
    return PromptedClassifier(tokenizer, task, reading, load_config(path, flag), prompt)
