"""Rows to a batch: padded to the longest, on the tokenizer's side."""

import pytest
import torch

from sinkd.errors import SinkdError
from sinkd.tasks import Collator
from small_tokenizer import small_tokenizer

ROWS = [
    {"input_ids": [5, 6], "token_type_ids": [0, 1], "length": 2, "labels": 1},
    {"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 0, 1, 1], "length": 4, "labels": -100},
]


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_are_padded_to_the_longest_on_the_right(side):
    tokenizer = small_tokenizer(padding_side=side)
    batch = Collator(tokenizer)(ROWS)
    pad = tokenizer.pad_token_id
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    first = {
        "input_ids": [5, 6, pad, pad],
        "attention_mask": [1, 1, 0, 0],
        "token_type_ids": [0, 1, 0, 0],
    }
    for name, expected in first.items():
        assert batch[name].dtype == torch.int64
        assert batch[name][0].tolist() == expected
    assert batch["input_ids"][1].tolist() == [5, 6, 7, 8]
    assert batch["labels"].tolist() == [1, -100]


def test_rows_that_end_with_the_classification_token_keep_it_last():
    tokenizer = small_tokenizer()
    batch = Collator(tokenizer)([{"input_ids": [5, tokenizer.cls_token_id]}, {"input_ids": [5, 6, 2]}])
    assert batch["input_ids"].tolist() == [[0, 5, 2], [5, 6, 2]]


def test_it_pads_as_the_tokenizer_pads():
    tokenizer = small_tokenizer()
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in ("the lamp", "the lamp fell and the king laughed")]
    ours, theirs = Collator(tokenizer)(rows), tokenizer.pad(rows, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])


def test_scores_are_float_and_missing_ones_stay_nan():
    rows = [{"input_ids": [1], "labels": 2.5}, {"input_ids": [1], "labels": float("nan")}]
    labels = Collator(small_tokenizer())(rows)["labels"]
    assert labels.dtype == torch.float32
    assert labels[0] == 2.5 and labels[1].isnan()


def test_a_tokenizer_without_padding_is_refused():
    with pytest.raises(SinkdError, match="has no padding token"):
        Collator(small_tokenizer(pad_token=None))
