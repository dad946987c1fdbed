"""Tokenise the questions of a `LabelPrompt`: a prompt, and an answer for each label.

A decoder reads prompt and answer as one text. What its answers begin with in common belongs to the prompt, which is
read once; so answers that differ in one token need the logits of one position. An answer ends with the end-of-sequence
token only if one answer is the beginning of another.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value

from sinkd.errors import SinkdError
from sinkd.models.prompt import IDS, PromptReader, row_length
from sinkd.tasks.arrow_cache import BATCH, cached, key_of
from sinkd.tasks.encode import UNLABELLED, tokenizer_hash
from sinkd.tasks.label_prompt import LabelPrompt, Question

logger = logging.getLogger(__name__)

VERSION = 2  # raise it when the same questions would be encoded into other rows

Row = Mapping[str, Any]
Read = Callable[[list[Row]], tuple[dict[str, list[Any]], int]]


class Tokens(NamedTuple):
    """A question in tokens."""

    prompt: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class QuestionReader:
    """Converts rows to token ids.

    Attributes:
        most: The longest sequence that the model reads, in tokens. The text of a longer row is cut, longest column
            first, and never the question.
    """

    prompt: LabelPrompt
    reader: PromptReader
    most: int

    def tokens(self, questions: Sequence[Question]) -> list[Tokens]:
        """Return the token ids of questions. Raises SinkdError for answers that read as the same tokens, or as none."""
        reader, counts = self.reader, [len(question.answers) for question in questions]
        if reader.one_sequence and not reader.input_eos:
            whole = iter(reader.prompts([prompt + answer for prompt, answers in questions for answer in answers]))
            found = [_divided([next(whole) for _ in range(count)]) for count in counts]
        else:
            prompts = reader.prompts([question.prompt for question in questions])
            pieces = iter(reader.pieces([answer.strip() for question in questions for answer in question.answers]))
            answers = [[next(pieces) for _ in range(count)] for count in counts]
            found = [Tokens(*pair) for pair in zip(prompts, answers, strict=True)]
        return [self._ended(*pair) for pair in zip(questions, found, strict=True)]

    def _ended(self, question: Question, tokens: Tokens) -> Tokens:
        """Tell answers apart that begin with each other."""
        # Sorted, whatever begins with an answer follows it directly.
        order = sorted(range(len(tokens.answers)), key=tokens.answers.__getitem__)
        ordered = [tokens.answers[place] for place in order]
        for place, (one, other) in enumerate(pairwise(ordered)):
            if one == other:
                same = (repr(question.answers[k].strip()) for k in sorted(order[place : place + 2]))
                raise SinkdError(f"the answers {' and '.join(same)} read as the same tokens; change one")
        if not any(other[: len(one)] == one for one, other in pairwise(ordered)):
            return tokens
        return Tokens(tokens.prompt, [[*ids, self.reader.tokenizer.eos_token_id] for ids in tokens.answers])

    def check(self, row: Row) -> None:
        """Raise SinkdError if a row cannot be asked for, or an answer has no tokens."""
        question = self.prompt.question(row)
        for answer, ids in zip(
            question.answers, self.reader.pieces([a.strip() for a in question.answers]), strict=True
        ):
            if not ids:
                raise SinkdError(f"the tokenizer reads the answer {answer.strip()!r} as no token; choose another word")
        self.tokens([question])

    def length(self, tokens: Tokens) -> int:
        """Return the length of the longest sequence that the model reads for a question."""
        return row_length(self.reader, tokens.prompt, tokens.answers)

    def rows(self, texts: Dataset, regression: bool) -> Dataset:
        """Tokenise rows of text, memory-mapped: the columns of `choice_rows`."""

        def read(rows: list[Row]) -> tuple[dict[str, list[Any]], int]:
            found = self.tokens([self.prompt.question(row) for row in rows])
            long = [place for place, tokens in enumerate(found) if self.length(tokens) > self.most]
            for place in long:
                found[place] = self.cut(rows[place])
            ids, choices = [tokens.prompt for tokens in found], [tokens.answers for tokens in found]
            return {"input_ids": ids, "choices": choices, "length": list(map(self.length, found))}, len(long)

        key = (self.prompt.fingerprint, tokenizer_hash(self.reader.tokenizer), *self.reader.settings, self.most)
        types = {"input_ids": IDS, "choices": List(IDS)}
        return question_rows(texts, read, types, key, f"{self.most} tokens with the prompt", regression)

    def cut(self, row: Row) -> Tokens:
        """Return the question of a row with as many characters of each text as fit."""

        def cut_at(most: int) -> Tokens:
            return self.tokens([self.prompt.question(row, most)])[0]

        fitting = cut_at(0)
        if self.length(fitting) > self.most:
            raise SinkdError(
                f"the prompt without its text has {self.length(fitting)} tokens, and the model reads {self.most}; "
                "shorten it, or give a larger --max_length if the model can read more"
            )
        low, high = 0, max(len(row[name]) for name in ("text", "text_pair") if name in row)
        while high - low > 1:
            middle = (low + high) // 2
            tokens = cut_at(middle)
            if self.length(tokens) <= self.most:
                low, fitting = middle, tokens
            else:
                high = middle
        return fitting


def question_rows(
    rows: Dataset, read: Read, types: Mapping[str, Any], key: tuple[Any, ...], limit: str, regression: bool
) -> Dataset:
    """Word rows of text, memory-mapped.

    Args:
        rows: Columns text, text_pair (optional) and label (optional).
        read: Returns the columns of some rows, `length` among them, and how many of these rows it had to cut.
        types: Types of the columns, except `length`.
        key: What determines the columns beside the rows.
        limit: To what rows are cut, for people.
        regression: Labels are float32, and NaN if they are missing; otherwise int64 and -100.

    Returns:
        The columns of `read`, and labels.
    """
    notes = {"cut": 0}
    label, missing = ("float32", math.nan) if regression else ("int64", UNLABELLED)

    def batches() -> Iterator[dict[str, list[Any]]]:
        for batch in rows.iter(batch_size=BATCH):
            examples: list[Row] = [
                dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
            ]
            columns, cut = read(examples)
            notes["cut"] += cut
            yield columns | {"labels": batch.get("label", [missing] * len(examples))}

    features = Features({**types, "length": Value("int32"), "labels": Value(label)})
    hashed = key_of("questions", VERSION, rows._fingerprint, key, label)
    found = cached(hashed, features, batches, notes, f"wording {len(rows):,} questions")
    if notes["cut"]:
        logger.warning("cut the text of %d of %d rows to %s", notes["cut"], len(rows), limit)
    return found


def _divided(whole: list[list[int]]) -> Tokens:
    """Divide the tokens of prompt and answer, for each answer, where the answers begin to differ."""
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*whole, strict=False)))
    return Tokens(whole[0][:shared], [ids[shared:] for ids in whole])
