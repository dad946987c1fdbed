"""A language model on a server as a classifier: its rows are questions in words, which the server tokenises."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from sinkd.models.prompted import PromptedClassifier
from sinkd.tasks.arrow_cache import BATCH, cached, key_of

logger = logging.getLogger(__name__)

CHARACTERS = 4  # about as many make a token


@dataclass(frozen=True)
class ServedClassifier(PromptedClassifier):
    """The family of served models. It has neither a tokenizer nor a config."""

    def _read(self, rows: Dataset) -> Dataset:
        most = CHARACTERS * self.reading.max_length
        notes = {"cut": 0}
        label, missing = self.label_type

        def batches() -> Iterator[dict[str, list[Any]]]:
            for batch in rows.iter(batch_size=BATCH):
                examples = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
                texts = [batch[name] for name in ("text", "text_pair") if name in batch]
                notes["cut"] += sum(any(len(text) > most for text in row) for row in zip(*texts, strict=True))
                found = [self.prompt.question(row, most) for row in examples]
                yield {
                    "prompt": [question.prompt for question in found],
                    "answers": [question.answers for question in found],
                    "length": [len(question.prompt) for question in found],
                    "labels": batch.get("label", [missing] * len(found)),
                }

        types = {
            "prompt": Value("string"),
            "answers": List(Value("string")),
            "length": Value("int32"),
            "labels": Value(label),
        }
        key = key_of("served questions", rows._fingerprint, self.prompt.fingerprint, most, label)
        questions = cached(key, Features(types), batches, notes, f"wording {len(rows):,} questions")
        if notes["cut"]:
            logger.warning("cut the text of %d of %d rows to %d characters", notes["cut"], len(rows), most)
        return questions

    @property
    def collator(self) -> Any:
        return list  # a server is asked for each row by itself
