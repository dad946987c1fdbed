"""Choose the family of a model: a task of choices is answered by a language model, any other by an encoder, or by a
language model that is asked for the label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as ENCODER_DECODERS

from sinkd.errors import SinkdError
from sinkd.models.config import find_checkpoint, gguf_file, load_config
from sinkd.models.encoder import Encoder
from sinkd.models.family import Family, Reading
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
        if reading.prompt is None:
            side = "teacher_" if flag == "--teacher_path" else ""
            raise SinkdError(
                f"{flag} {path} is a language model; say how to ask it by --{side}prompt and --{side}answers, or give "
                f"a model that was fine-tuned on {task.name}"
            )
        return PromptedClassifier(tokenizer, task, reading, load_config(path, flag), _prompt(task, reading))
    if reading.prompt is not None or reading.answers is not None:
        raise SinkdError(f"{flag} {path} is no language model, which a prompt and answers are for; leave them out")
    return Encoder(tokenizer, task, reading)


def student_and_teachers(task: Task, settings: Any) -> tuple[Family, list[Family]]:
    """Return the families of a run's student and of its teachers; without a student the first teacher's stands in.

    An encoder reads with the tokenizer in its own folder; a student without one reads with the first teacher's.
    Language models all read with one tokenizer, and have heads of one width.

    Raises:
        SinkdError: if language models have different tokenizers.
    """
    reading, path = Reading.of(settings), settings.student_path
    asked = replace(reading, prompt=settings.teacher_prompt, answers=settings.teacher_answers)
    if settings.teacher_url is not None:
        served = ServedClassifier(task=task, reading=reading, prompt=_prompt(task, asked))
        return family_of(task, settings, path, "--student_path", to_train=True) if path else served, [served]
    teachers = settings.teacher_paths
    student = path or teachers[0]
    readers = [tokenizers_of(teacher, student, reading, may_differ=not task.choices) for teacher in teachers]
    taught = family_of(task, settings, student, "--student_path", tokenizer=readers[0][1], to_train=True)
    worded = [not task.choices and answers_in_words(teacher, "--teacher_path") for teacher in teachers]
    families = []
    for teacher, (tokenizer, _), in_words in zip(teachers, readers, worded, strict=True):
        # A classifier beside a prompted model is not asked in words; alone it refuses to be.
        given = asked if in_words or not any(worded) else reading
        family = family_of(task, given, teacher, "--teacher_path", tokenizer=tokenizer)
        taught, family = taught.share_head(family)
        families.append(family.within(teacher, "--teacher_path"))
    return taught if path else families[0], families


def answers_in_words(path: str, flag: str) -> bool:
    """Return whether the model at `path` is a decoder or an encoder-decoder with the head of a language model."""
    config = load_config(path, flag)
    # A GGUF file names no class; the type of its model has a decoder's.
    named = config.architectures or [DECODERS.get(config.model_type)] * bool(gguf_file(find_checkpoint(path, flag)))
    return not {*DECODERS.values(), *ENCODER_DECODERS.values()}.isdisjoint(named)


def _prompt(task: Task, reading: Reading) -> LabelPrompt:
    assert reading.prompt is not None
    return LabelPrompt.read(task, reading.prompt, reading.answers, reading.templates_dir)
