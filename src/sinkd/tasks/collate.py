"""Batches: rows padded to the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sinkd.errors import SinkdError

LABELS = ("labels", "label", "label_ids")  # the names that the collators of transformers know


class Collator:
    """Pads rows of `encode` to tensors.

    Called on a list of B rows, it returns input_ids, attention_mask and, if rows have them, token_type_ids, each (B, L)
    int64 with L the length of the longest row; and labels (B,) int64 or float32, from the first of LABELS that rows
    have. Other columns are dropped.

    Args:
        tokenizer: Rows are padded with its tokens, on the right, so that no model counts padding as positions; on the
            left if they end with its classification token, where XLNet looks for the answer.

    Raises:
        SinkdError: if the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.pad_token_id is None:
            name = type(tokenizer).__name__
            raise SinkdError(f"{name} has no padding token, expected one (tokenizer.pad_token = ...)")
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.answer = tokenizer.cls_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        left = self.answer is not None and all(list(row["input_ids"][-1:]) == [self.answer] for row in rows)
        batch = {"attention_mask": mask([len(row["input_ids"]) for row in rows], left)}
        for name, padding in self.padding.items():
            if name in rows[0]:
                batch[name] = padded([row[name] for row in rows], padding, left)
        for name in LABELS:
            if name in rows[0]:
                labels = torch.as_tensor(np.array([row[name] for row in rows]))
                batch["labels"] = labels.float() if labels.is_floating_point() else labels.long()
                break
        return batch


def padded(sequences: Sequence[Sequence[int]], padding: int, left: bool = False, least: int = 0) -> torch.Tensor:
    """Pad B sequences to (B, L) int64, where L is the length of the longest and at least `least`."""
    length = max(least, *map(len, sequences))
    filled = np.full((len(sequences), length), padding, dtype=np.int64)
    for row, sequence in zip(filled, sequences, strict=True):
        row[length - len(sequence) if left else 0 :][: len(sequence)] = sequence
    return torch.from_numpy(filled)


def mask(lengths: Sequence[int], left: bool = False, least: int = 0) -> torch.Tensor:
    """Return which entries of `padded` are not padding: (B, L) int64 of 0 and 1."""
    longest = max(least, *lengths)
    places = torch.arange(longest)
    kept = torch.tensor(lengths)[:, None]
    return ((places >= longest - kept) if left else (places < kept)).long()
