"""Batches of prompts and answers: a language model's inputs, and the positions of logits that predict the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sinkd.tasks.collate import mask, padded
from sinkd.tasks.encode import UNLABELLED

Ids = Sequence[int]


class PromptCollator:
    """Pads rows of `answer_rows` or of `choice_rows` to tensors.

    It pads with the tokenizer's padding token or else its end of sequence, on its side, which changes no loss. Prompts
    of an encoder-decoder are padded on the right: encoders may count padding as positions.

    Rows with answers give:

    - input_ids and attention_mask (B, L); decoder_input_ids (B, T) or, with padding on the left, position_ids (B, L);
    - labels (N,): the N answer tokens of the batch;
    - positions (N, 2): row and position of the logits that predict each;
    - counts (B,): the number of answer tokens in each row;
    - columns (C,): the positions that occur, ascending, for a model of one sequence.

    Rows with choices give:

    - the prompts, padded on the left for a model of one sequence;
    - choice_rows (M,): the row of each of the batch's M choices;
    - choice_labels (M, T): their tokens, -100 beyond them;
    - choice_inputs (M, T), or (M, T - 1) if the prompt's last token predicts the first: the inputs that predict them;
    - choice_places (B, K): the numbers of each row's choices, -1 beyond the last;
    - labels (B,), if the answers are known.

    Args:
        decoder_start: The token that an encoder-decoder's decoder begins with; None for a model of one sequence.
        pad_to: Pad prompts to at least this length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, decoder_start: int | None, pad_to: int = 0):
        self.pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.left = tokenizer.padding_side == "left" and decoder_start is None
        self.decoder_start = decoder_start
        self.pad_to = pad_to

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        prompts = [row["input_ids"] for row in rows]
        if "choices" in rows[0]:
            batch = self._choices(prompts, [row["choices"] for row in rows])
            return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {})
        return self.assemble(prompts, [row["answer_ids"] for row in rows])

    def assemble(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> dict[str, Tensor]:
        """Make a batch to train on, from the token ids of B prompts and of their answers, none of them empty."""
        counts = torch.tensor([len(answer) for answer in answers])
        rows = torch.arange(len(answers)).repeat_interleave(counts)
        place = torch.cat([torch.arange(len(answer)) for answer in answers])
        labels = torch.tensor([token for answer in answers for token in answer])
        if self.decoder_start is not None:
            batch = self._padded(prompts, left=False)
            batch["decoder_input_ids"] = padded([[self.decoder_start, *answer[:-1]] for answer in answers], self.pad)
        else:
            batch = self._padded([[*p, *a[:-1]] for p, a in zip(prompts, answers, strict=True)], self.left)
            padding = (batch["attention_mask"] == 0).sum(1) * self.left
            starts = padding + torch.tensor([len(prompt) for prompt in prompts]) - 1
            place = place + starts[rows]
            batch["columns"] = place.unique()
        return batch | {"labels": labels, "positions": torch.stack([rows, place], 1), "counts": counts}

    def prompts_of(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """Return the prompts of a batch to train on."""
        masks = batch["attention_mask"].bool()
        rows = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]
        if self.decoder_start is not None:
            return rows
        return [row[: len(row) - count + 1] for row, count in zip(rows, batch["counts"].tolist(), strict=True)]

    def ask(self, prompts: Sequence[Ids]) -> dict[str, Tensor]:
        """Pad prompts without answers, for a model to answer; on the left for a model of one sequence."""
        return self._padded(prompts, left=self.decoder_start is None)

    def _choices(self, prompts: Sequence[Ids], choices: Sequence[Sequence[Ids]]) -> dict[str, Tensor]:
        flat = [ids for row in choices for ids in row]
        start = [] if self.decoder_start is None else [self.decoder_start]
        ends = list(accumulate(map(len, choices)))
        places = [range(end - len(row), end) for row, end in zip(choices, ends, strict=True)]
        return self.ask(prompts) | {
            "choice_rows": torch.arange(len(choices)).repeat_interleave(torch.tensor([len(row) for row in choices])),
            "choice_inputs": padded([[*start, *ids[:-1]] for ids in flat], self.pad),
            "choice_labels": padded(flat, UNLABELLED),
            "choice_places": padded(places, -1),
        }

    def _padded(self, sequences: Sequence[Ids], left: bool) -> dict[str, Tensor]:
        attention = mask([len(sequence) for sequence in sequences], left, self.pad_to)
        batch = {"input_ids": padded(sequences, self.pad, left, self.pad_to), "attention_mask": attention}
        if left:
            # Without these, a model would count padding as positions.
            batch["position_ids"] = (attention.cumsum(1) - 1).clamp(min=0)
        return batch
