"""A language model on a server as a classifier: its rows are questions in words, which the server tokenises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset, List, Value

from sinkd.models.prompted import PromptedClassifier
from sinkd.models.questions import Row, question_rows

CHARACTERS = 4  # about as many make a token


@dataclass(frozen=True)
class ServedClassifier(PromptedClassifier):
    """The family of served models. It has neither a tokenizer nor a config."""

    def tokenise(self, texts: Dataset, to_train: bool) -> Dataset:
        most = CHARACTERS * self.reading.max_length

        def read(rows: list[Row]) -> tuple[dict[str, list[Any]], int]:
            found = [self.prompt.question(row, most) for row in rows]
            cut = sum(any(len(row.get(name, "")) > most for name in ("text", "text_pair")) for row in rows)
            prompts, answers = [question.prompt for question in found], [question.answers for question in found]
            return {"prompt": prompts, "answers": answers, "length": list(map(len, prompts))}, cut

        types = {"prompt": Value("string"), "answers": List(Value("string"))}
        key = ("served", self.prompt.fingerprint, most)
        return question_rows(texts, read, types, key, f"{most} characters", self.task.regression)

    @property
    def collator(self) -> Any:
        return list  # a server is asked for each row by itself
