"""Language models as classifiers: a row's logits are the log-likelihoods of its answers to a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature
from sinkd.losses.term import View
from sinkd.models.config import load_config
from sinkd.models.family import Family, positions_of
from sinkd.models.head import decoder_start
from sinkd.models.language_model import load_language_model
from sinkd.models.likelihood import choice_log_likelihoods
from sinkd.models.prompt import PromptReader
from sinkd.models.prompt_collator import PromptCollator
from sinkd.models.questions import QuestionReader
from sinkd.tasks.label_prompt import LabelPrompt

UNLIMITED = 2**30


@dataclass(frozen=True)
class PromptedClassifier(Family):
    """The family of language models, decoders and encoder-decoders, that are asked for a label or a number in words.

    Its rows depend on neither label nor seed. It answers, and is not trained.
    """

    config: PretrainedConfig = None
    prompt: LabelPrompt = None  # type: ignore[assignment]

    attributes = False
    answers_tokens = False
    zero_shot = True
    refused: ClassVar = {}
    refusal = ""
    shorter = "a smaller --max_length"

    def tokenise(self, texts: Dataset, to_train: bool) -> Dataset:
        return self.reader.rows(texts, self.task.regression)

    @cached_property
    def reader(self) -> QuestionReader:
        """Words and tokenises rows."""
        reading, config = self.reading, self.config
        reader = PromptReader(
            self.tokenizer, not config.is_encoder_decoder, UNLIMITED, UNLIMITED, input_eos=reading.input_eos
        )
        return QuestionReader(self.prompt, reader, min(reading.max_length, positions_of(config) or UNLIMITED))

    @property
    def collator(self) -> PromptCollator:
        return PromptCollator(self.tokenizer, decoder_start(self.config))

    @property
    def fingerprints(self) -> dict[str, str]:
        return super().fingerprints | {"teacher's prompt": self.prompt.fingerprint}

    @property
    def answer_key(self) -> str:
        return "mean of tokens" if self.reading.length_normalize else ""

    def check(self, path: str, flag: str) -> None:
        load_config(path, flag)
        rows = self.task.read(self.task.splits[0]) if self.task.splits else self.training_texts()[0]
        self.reader.check(rows[0])

    def load(
        self, path: str, flag: str, *, to_train: bool = False, overrides: dict[str, object] | None = None
    ) -> PreTrainedModel:
        self.check(path, flag)
        return load_language_model(path, flag, overrides=overrides, parallelize=self.reading.parallelize)

    def refuse_features(self, features: Iterable[Feature]) -> None:
        others = sorted(feature.name for feature in features if feature != LOGITS)
        if others:
            raise SinkdError(
                f"a prompted language model shows no {', '.join(others)}, only its answers; choose an objective that "
                "compares answers alone, as kd+sinkhorn does"
            )

    def observe(self, model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        self.refuse_features(features)
        return View(self.answer(model, batch))

    def answer(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        return self.logits(choice_log_likelihoods(model, batch, self.reading.length_normalize))

    def logits(self, log_likelihoods: Tensor) -> Tensor:
        """Return the log-probabilities (B, C) of the answers; for a number to predict (B, 1), their mean value."""
        answers = torch.log_softmax(log_likelihoods, -1)
        if not self.task.regression:
            return answers
        return answers.exp() @ answers.new_tensor(self.prompt.values).unsqueeze(1)
