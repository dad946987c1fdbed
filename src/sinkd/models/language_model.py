"""Language models, which answer a prompt in words: encoder-decoders (T5, T0) and decoders (GPT, Llama, Qwen)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import Feature
from sinkd.losses.term import View
from sinkd.models.config import find_checkpoint, load_config, override
from sinkd.models.family import Family, first
from sinkd.models.forward import observe
from sinkd.models.head import cut_head, decoder_start, shared_vocabulary, vocabulary
from sinkd.models.likelihood import (
    answer_keywords,
    answer_logits,
    choice_log_likelihoods,
    padding_last,
    takes_left_padding,
)
from sinkd.models.prompt import PromptReader, answer_rows, choice_rows
from sinkd.models.prompt_collator import PromptCollator
from sinkd.models.sampling import sampled_batch
from sinkd.models.weights import load_weights
from sinkd.tasks import Template, examples, find_template, templates
from sinkd.tasks.metrics import Scores
from sinkd.tasks.wording import chosen_answers, right_answers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel(Family):
    """The family of language models with one config.

    The seed draws a run's shots, and what the filter `choice` returns in training prompts. Dev and test prompts are the
    same in every run, so that scores compare.

    Attributes:
        width: Heads are cut to this width; None leaves them as they are.
    """

    config: PretrainedConfig = None
    width: int | None = None

    attributes = False
    answers_tokens = True
    refused: ClassVar = {
        "keep_layers": None,
        "copy_layers": None,
        "unlabeled_file": None,
        "student_init": "pretrained",
        "teacher_prompt": None,
        "teacher_answers": None,
        "class_prior": None,
        "prompt": None,
        "answers": None,
    }
    refusal = "for encoders, and this task is answered by a language model"
    shorter = "a smaller --max_length"

    def for_seed(self, seed: int) -> LanguageModel:
        return replace(self, reading=replace(self.reading, seed=seed))

    def training_texts(self) -> list[Dataset]:
        """Prompts with their answers."""
        worded = examples(self.task, "train", self.template, self.reading.seed)
        worded = first(worded, self.reading.max_train_rows)
        shots = self.reading.num_shots
        if shots is not None and shots < len(worded):
            drawn = np.random.default_rng(self.reading.seed).choice(len(worded), shots, replace=False)
            worded = worded.select(sorted(drawn.tolist()))
        return [worded]

    def texts(self, split: str) -> Dataset:
        """Prompts with their choices."""
        return self._worded_dev[split] if split in self.task.dev_splits else examples(self.task, split, self.template)

    @cached_property
    def _worded_dev(self) -> dict[str, Dataset]:
        """Once for all evaluations."""
        splits = self.task.dev_splits
        return {split: first(examples(self.task, split, self.template), self.reading.max_dev_rows) for split in splits}

    def tokenise(self, texts: Dataset, to_train: bool) -> Dataset:
        return (answer_rows if to_train else choice_rows)(texts, self.reader)

    @cached_property
    def template(self) -> Template:
        """The template that `--template_name` names, else the task's first."""
        name, folder = self.reading.template_name, self.reading.templates_dir
        return find_template(self.task.name, name or templates(self.task.name, folder)[0].name, folder)

    @cached_property
    def reader(self) -> PromptReader:
        """Converts prompts and answers to token ids."""
        reading = self.reading
        lengths = (reading.max_length, reading.target_max_length)
        return PromptReader(self.tokenizer, not self.config.is_encoder_decoder, *lengths, reading.input_eos)

    @property
    def collator(self) -> PromptCollator:
        return PromptCollator(self.tokenizer, decoder_start(self.config), self._pad_to)

    @property
    def _pad_to(self) -> int:
        return self.reading.max_length if self.reading.pad_to_max_length else 0

    @property
    def template_name(self) -> str:
        return self.template.name

    @property
    def names(self) -> dict[str, str]:
        collection, _, name = self.task.name.partition("/")
        dataset = "super_glue" if collection == "superglue" else collection
        return {"dataset_name": dataset, "dataset_config_name": name, "template_name": self.template.name}

    @property
    def fingerprints(self) -> dict[str, str]:
        return super().fingerprints | {"template": self.template.fingerprint}

    def answer_tokens(self, rows: Dataset) -> int:
        tables = rows.select_columns(["answer_ids"]).with_format("arrow").iter(batch_size=10_000)
        return sum(len(table["answer_ids"].combine_chunks().flatten()) for table in tables)

    @property
    def head_width(self) -> int:
        return self.width or self.config.get_text_config().vocab_size

    def share_head(self, teacher: LanguageModel) -> tuple[LanguageModel, LanguageModel]:
        width, cut = shared_vocabulary(self.tokenizer, teacher.config, self.config)
        if cut:
            logger.info(cut)
        return replace(self, width=width), replace(teacher, width=width)

    def scores(self, answers: np.ndarray, labels: np.ndarray) -> Scores:
        # These tasks have one dev split; their scores need its examples, not only the numbers of the right choices.
        (worded,) = map(self.texts, self.task.dev_splits)
        said = chosen_answers(self.task, worded, answers.argmax(axis=-1))
        return self.task.scores(said, right_answers(self.task, worded), worded["index"])

    def write_submission(self, split: str, answers: np.ndarray, folder: Path) -> Path:
        task, worded = self.task, self.texts(split)
        if missing := len(task.read(split)) - len(worded):
            raise SinkdError(
                f"the template has no answer for {missing} rows of {task.name} {split}, and a submission answers all;"
                " choose another template"
            )
        said = chosen_answers(task, worded, answers.argmax(axis=-1))
        return task.write_submission(split, said, folder, list(worded["index"]))

    def check(self, path: str, flag: str) -> None:
        load_config(path, flag)

    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        config_path = self.reading.config_name if to_train else None
        spread = self.reading.parallelize
        model = load_language_model(path, flag, overrides=overrides, parallelize=spread, config_path=config_path)
        return model if self.width is None else cut_head(model, self.width)

    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        if "position_ids" in batch and not takes_left_padding(model):
            batch = padding_last(batch)
        keywords = answer_keywords(model, batch)
        kept = "logits_to_keep" in keywords

        def logits_of(outputs: Any) -> Tensor:
            return answer_logits(outputs.logits, batch, kept)

        return observe(model, batch, features, keywords, logits_of, batch["counts"])

    def answer(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        return torch.log_softmax(choice_log_likelihoods(model, batch, self.reading.length_normalize), -1)

    def sample(self, model: nn.Module, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        ends = self.tokenizer.eos_token_id, vocabulary(self.tokenizer)
        return sampled_batch(model, batch, self.collator, *ends, seed)

    def refuse_long_rows(self, most: int | None, *tables: Any, reader: str = "the model") -> None:
        if most is not None and self._pad_to > most:
            padded = f"rows that --pad_to_max_length pads to {self._pad_to} tokens do not fit {reader}"
            raise SinkdError(f"{padded}, which reads {most}; give {self.shorter}")
        super().refuse_long_rows(most, *tables, reader=reader)


def load_language_model(
    path: str,
    flag: str,
    *,
    overrides: dict[str, object] | None = None,
    parallelize: bool = False,
    config_path: str | None = None,
) -> PreTrainedModel:
    """Load a language model, float32: an encoder-decoder or a decoder, depending on its config.

    Args:
        parallelize: Spread it over the machine's accelerators.
        config_path: Another folder to take the config from.

    Raises:
        SinkdError: if the model cannot be loaded, or lacks weights.
    """
    config = load_config(config_path or path, "--config_name" if config_path else flag)
    override(config, overrides, path)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    spread = device_map() if parallelize else None
    model, lacking = load_weights(auto, find_checkpoint(path, flag), f"{flag} {path}", config=config, device_map=spread)
    if lacking:
        raise SinkdError(f"{flag} {path} lacks {len(lacking)} of a language model's weights, {lacking[0]} among them")
    if not config.is_encoder_decoder and _looks_ahead(model):
        kind = type(model).__name__
        raise SinkdError(
            f"{flag} {path} is a {kind} that reads in both directions; give a model that predicts next words"
        )
    return model


@torch.no_grad()
def _looks_ahead(model: PreTrainedModel) -> bool:
    """Return whether a token changes the logits before it, as in BERT with a language model's head, and in XLNet."""
    one, other = model(input_ids=torch.tensor([[1, 1], [1, 2]], device=model.device)).logits[:, 0].float()
    return not torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


@cache
def device_map() -> str | None:
    """Return how `--parallelize` spreads a model: "auto" over several accelerators, else None, which is logged once."""
    count = torch.cuda.device_count()
    if count > 1:
        return "auto"
    there = "one accelerator" if count else "no accelerator"
    logger.info("--parallelize: this machine has %s, so models are not spread", there)
    return None
