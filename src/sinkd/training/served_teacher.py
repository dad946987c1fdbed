"""A teacher on a server: each row is asked once, and its answer is kept as soon as it comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.models.served import ServedModel
from sinkd.models.served_classifier import ServedClassifier
from sinkd.tasks.arrow_cache import cache_dir, key_of
from sinkd.tasks.label_prompt import Question
from sinkd.training.answered_rows import Collate
from sinkd.training.arguments import DistillationArguments
from sinkd.training.asked_rows import AskedRows
from sinkd.training.teacher import OnRows, Teacher
from sinkd.training.teacher_cache import Answers

logger = logging.getLogger(__name__)


class ServedTeacher(Teacher):
    """A language model on a server, which shows nothing but its answers.

    Args:
        concurrency: How many requests to send at a time.
    """

    family: ServedClassifier

    def __init__(self, server: ServedModel, family: ServedClassifier, concurrency: int):
        super().__init__(None, family)
        self.server, self.concurrency = server, concurrency

    @property
    def loaded(self) -> bool:
        return False

    @property
    def cacheable(self) -> bool:
        return True

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's name: `AskedRows` makes sure that it stays one model."""
        return key_of("served", self.server.name)

    @property
    def stack(self) -> Stack:
        raise SinkdError("a server shows no hidden states; choose an objective that compares answers alone")

    def move(self, device: torch.device) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def answers(
        self,
        features: Iterable[Feature],
        rows: Dataset,
        collator: Collate | None,
        args: DistillationArguments,
        on_rows: OnRows | None = None,
    ) -> Answers:
        """Return the logits of all rows; ask the server for those that it has never answered.

        Raises:
            SinkdError: if the server cannot answer a row, or there are no rows. All answers before that are kept.
        """
        if len(rows) == 0:
            raise SinkdError("the training set is empty; the teacher needs rows to answer")
        features, count = list(features), len(rows)
        folder = Path(args.teacher_cache_dir or cache_dir() / "teachers", self.fingerprint[:32])
        asked = AskedRows(folder, self.server, self.concurrency)
        keys = [asked.key(question) for batch in rows.iter(batch_size=1000) for question in _questions(batch)]
        answers = Answers(
            folder / key_of(tuple(keys), self.family.task.regression)[:32],  # deleted with what it is made from
            features,
            count,
            args.teacher_cache_dtype,
        )
        started, sent, fresh = time.perf_counter(), 0, 0

        def answer(wanted: range, missing: list[Feature]) -> Mapping[str, Sequence[Tensor]]:
            nonlocal sent
            done = wanted.start

            def step() -> None:
                nonlocal done, fresh
                done, fresh = done + 1, fresh + 1
                if on_rows is not None:
                    on_rows(done, count)

            new = asked.missing(keys[row] for row in wanted)
            if new and not sent:
                sent = len(asked.missing(keys))
                logger.info("sending %d of %d rows to %s, model %s", sent, count, self.server.url, self.server.name)
            found = dict(zip(wanted, _questions(rows[wanted.start : wanted.stop]), strict=True))
            asked.ask({row: question for row, question in found.items() if keys[row] in new}, step)
            if on_rows is not None:
                on_rows(wanted.stop, count)
            scores = torch.tensor([asked[keys[row]] for row in wanted])
            return {LOGITS.name: self.family.logits(scores).unbind(0)}

        answers.fill(answer)
        if fresh:
            seconds = time.perf_counter() - started
            logger.info(
                "%s answered %d rows in %.0f s (%.1f rows a second), by %s log-probabilities",
                self.server.name, fresh, seconds, fresh / seconds, self.server.way,
            )  # fmt: skip
        return answers


def _questions(batch: Mapping[str, list[Any]]) -> list[Question]:
    return [Question(*pair) for pair in zip(batch["prompt"], batch["answers"], strict=True)]
