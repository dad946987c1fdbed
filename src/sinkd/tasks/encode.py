"""Tokenise text once: rows for an encoder, memory-mapped and cached."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from sinkd.errors import SinkdError
from sinkd.tasks.arrow_cache import BATCH, cached, key_of

ENCODER_VERSION = 1  # raise it when the same text would be encoded into other rows
UNLABELLED = -100  # the label that PyTorch's cross-entropy ignores


def encode(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, regression: bool = False) -> Dataset:
    """Tokenise a data set's texts, once for this text, tokenizer and length.

    Pairs are cut at the longer text first. Segment ids follow the tokenizer's own rule, if it has any.

    Args:
        dataset: Columns text, text_pair (optional) and label (optional), as `Task.read` and `read_unlabeled` give them.
        max_length: Tokens to keep, special tokens included.
        regression: Labels that are missing are NaN, not -100.

    Returns:
        Columns input_ids (list of int32), token_type_ids (list of int8, if the tokenizer has them), length (int32) and
        labels (int64; float32 for regression).

    Raises:
        SinkdError: max_length leaves no room for text beside the special tokens, or the cache folder cannot be written.
    """
    columns = dataset.column_names
    pair = "text_pair" in columns
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length <= special + pair:
        raise SinkdError(
            f"found max_length {max_length}, expected at least {special + pair + 1}: {special} are special tokens"
        )
    label = dataset.features["label"].dtype if "label" in columns else ("float32" if regression else "int64")
    missing = float("nan") if label == "float32" else UNLABELLED
    segments = "token_type_ids" in tokenizer("a", "b" if pair else None)

    def batches() -> Iterator[dict[str, list[Any]]]:
        for batch in dataset.iter(batch_size=BATCH):
            texts = (batch["text"], batch["text_pair"]) if pair else (batch["text"],)
            encoded = tokenizer(
                *texts,
                truncation="longest_first" if pair else True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            )
            ids = encoded["input_ids"]
            rows = {"input_ids": ids, "length": [len(row) for row in ids]}
            if segments:
                rows["token_type_ids"] = encoded["token_type_ids"]
            yield rows | {"labels": batch["label"] if "label" in batch else [missing] * len(ids)}

    features = Features({"input_ids": List(Value("int32")), "length": Value("int32"), "labels": Value(label)})
    if segments:
        features["token_type_ids"] = List(Value("int8"))
    key = key_of("encoded", ENCODER_VERSION, dataset._fingerprint, tokenizer_hash(tokenizer), max_length, label)
    return cached(key, features, batches, {}, f"tokenizing {len(dataset):,} rows")


def column(rows: Dataset, name: str) -> np.ndarray:
    """Return a column of numbers of tokenised rows, (n,), without reading the others."""
    return rows.select_columns([name]).with_format("numpy")[:][name]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of vocabulary, merges, normalisation, special tokens and segments, which determine a text's ids.

    The tokenizer's folder, and the padding and truncation of its last call, do not matter.
    """
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content["padding"] = content["truncation"] = None
        text = json.dumps(content, sort_keys=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = sorted(map(Path, tokenizer.save_pretrained(folder)))
            text = "".join(f"{file.name} {file.read_bytes().hex()}" for file in files if file.is_file())
    settings = (type(tokenizer).__name__, tuple(tokenizer.model_input_names), tokenizer.truncation_side)
    return hashlib.sha256((text + repr(settings)).encode()).hexdigest()
