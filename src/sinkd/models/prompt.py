"""Tokenise prompts and answers once: rows that a language model trains on, and rows that it answers.

A decoder reads a prompt and its answer as one text, separated by a space; an encoder-decoder reads them separately.
Every answer ends with the tokenizer's end-of-sequence token, in training and in evaluation, so that "no" is not a
beginning of "none".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import BATCH, cached, key_of
from sinkd.tasks.encode import tokenizer_hash

VERSION = 2  # raise it when the same examples would be encoded into other rows
IDS = List(Value("int32"))
BEFORE = ":"  # answers are tokenised after it: in every vocabulary, and part of no word


@dataclass(frozen=True)
class PromptReader:
    """Converts prompts and answers to token ids.

    Attributes:
        tokenizer: Must have an end-of-sequence token.
        one_sequence: Prompt and answer are one text (decoders), not two (encoder-decoders).
        max_length: Tokens to keep of a prompt, special ones included.
        target_max_length: Tokens to keep of an answer, special ones included.
        input_eos: End prompts with the end-of-sequence token.
    """

    tokenizer: PreTrainedTokenizerBase
    one_sequence: bool
    max_length: int = 1024
    target_max_length: int = 256
    input_eos: bool = False

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise SinkdError(f"{type(self.tokenizer).__name__} has no end-of-sequence token; an answer must end")
        for name, least in (("max_length", 1 + self.input_eos), ("target_max_length", 2)):
            if getattr(self, name) < least:
                raise SinkdError(f"--{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def settings(self) -> tuple[int, ...]:
        """All that determines token ids beside the tokenizer."""
        return self.one_sequence, self.max_length, self.target_max_length, self.input_eos

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompts, at least one each, cut on the tokenizer's truncation side."""
        eos = self.tokenizer.eos_token_id
        ids = self.tokenizer(list(texts), add_special_tokens=self.one_sequence, verbose=False)["input_ids"]
        kept = []
        for row in ids:
            row = row[:-1] if row and row[-1] == eos else row  # some tokenizers of decoders add one
            room = self.max_length - self.input_eos
            row = row[-room:] if self.tokenizer.truncation_side == "left" else row[:room]
            kept.append([*row, eos] if self.input_eos or not row else row)
        return kept

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of answers, each with the end-of-sequence token last."""
        room = self.target_max_length - 1
        return [[*row[:room], self.tokenizer.eos_token_id] for row in self.pieces(texts)]

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of answers without any special token."""
        plain = {"add_special_tokens": False, "verbose": False}
        if not texts:
            return []
        if not self.one_sequence:
            return self.tokenizer(text_target=list(texts), **plain)["input_ids"]
        if self.input_eos:
            return self.tokenizer(list(texts), **plain)["input_ids"]
        # The text before a word decides how it is cut: tokenise the answer at the end of a text, and take its part.
        before = self.tokenizer(BEFORE, **plain)["input_ids"]
        whole = self.tokenizer([f"{BEFORE} {text}" for text in texts], **plain)["input_ids"]
        alone = {i: f" {texts[i]}" for i, row in enumerate(whole) if row[: len(before)] != before}
        pieces = [row[len(before) :] for row in whole]
        if alone:  # the tokenizer joins ":" to the next text: tokenise these answers separately
            read = self.tokenizer(list(alone.values()), **plain)["input_ids"]
            for i, ids in zip(alone, read, strict=True):
                pieces[i] = ids
        return pieces


def answer_rows(examples: Dataset, reader: PromptReader) -> Dataset:
    """Tokenise rows to train on, memory-mapped, from examples with columns prompt and target.

    Returns:
        Columns input_ids (the prompt), answer_ids (lists of int32), and length (int32): the number of tokens in the
        longest sequence that a model reads for the row.
    """

    def columns(batch: dict[str, Any]) -> dict[str, list[Any]]:
        prompts, answers = reader.prompts(batch["prompt"]), reader.answers(batch["target"])
        lengths = [row_length(reader, p, [a]) for p, a in zip(prompts, answers, strict=True)]
        return {"input_ids": prompts, "answer_ids": answers, "length": lengths}

    types = {"input_ids": IDS, "answer_ids": IDS, "length": Value("int32")}
    return _encode("answers", examples, reader, types, columns)


def choice_rows(examples: Dataset, reader: PromptReader) -> Dataset:
    """Tokenise rows to answer, memory-mapped, from examples with columns prompt, choices and answer.

    Returns:
        Columns input_ids (the prompt), choices (the token ids of each), length as in `answer_rows`, and labels (int64):
        the number of the right choice, -1 if it is unknown.
    """

    def columns(batch: dict[str, Any]) -> dict[str, list[Any]]:
        if bare := sum(not choices for choices in batch["choices"]):
            raise SinkdError(
                f"{bare} examples have no choices to compare; choose a template with answer_choices (--template_name)"
            )
        prompts = reader.prompts(batch["prompt"])
        flat = iter(reader.answers([text for choices in batch["choices"] for text in choices]))
        choices = [[next(flat) for _ in row] for row in batch["choices"]]
        lengths = [row_length(reader, p, c) for p, c in zip(prompts, choices, strict=True)]
        return {"input_ids": prompts, "choices": choices, "length": lengths, "labels": batch["answer"]}

    types = {"input_ids": IDS, "choices": List(IDS), "length": Value("int32"), "labels": Value("int64")}
    return _encode("choices", examples, reader, types, columns)


def row_length(reader: PromptReader, prompt: list[int], answers: list[list[int]]) -> int:
    """Return the number of tokens in the longest sequence that a model reads for a prompt and its answers."""
    longest = max(map(len, answers))
    # The last token of an answer is not read. A decoder reads prompt and answer in one sequence, others in two.
    return len(prompt) + longest - 1 if reader.one_sequence else max(len(prompt), longest)


def _encode(kind: str, examples: Dataset, reader: PromptReader, types: dict[str, Any], columns: Any) -> Dataset:
    def batches() -> Iterator[dict[str, list[Any]]]:
        for batch in examples.iter(batch_size=BATCH):
            yield columns(batch)

    key = key_of("generative", kind, VERSION, examples._fingerprint, tokenizer_hash(reader.tokenizer), reader.settings)
    return cached(key, Features(types), batches, {}, f"tokenizing {len(examples):,} examples")
