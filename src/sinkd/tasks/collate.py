"""Rows to a batch: padded to its longest row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sinkd.errors import SinkdError


class Collator:
    """Encoded rows as tensors.

    Called on a list of B rows of `encode`, gives input_ids, attention_mask and, where rows have them, token_type_ids,
    each (B, L) int64 with L the length of the longest row; and labels (B,) int64 or float32. Other columns are dropped.
    Pads on the tokenizer's side, with its tokens.

    Raises SinkdError for a tokenizer without a padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.pad_token_id is None:
            raise SinkdError(
                f"{type(tokenizer).__name__} has no padding token, expected one (tokenizer.pad_token = ...)"
            )
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        spans = [slice(longest - n, longest) if self.left else slice(0, n) for n in lengths]
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for row, span in enumerate(spans):
            mask[row, span] = 1
        batch = {"attention_mask": torch.from_numpy(mask)}
        for name, padding in self.padding.items():
            if name in rows[0]:
                filled = np.full((len(rows), longest), padding, dtype=np.int64)
                for row, span in enumerate(spans):
                    filled[row, span] = rows[row][name]
                batch[name] = torch.from_numpy(filled)
        if "labels" in rows[0]:
            labels = [row["labels"] for row in rows]
            batch["labels"] = torch.tensor(labels, dtype=torch.float32 if isinstance(labels[0], float) else torch.int64)
        return batch
