"""Hashes of the model and the rows that determine a teacher's answers."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn

# The columns of a row that determine a model's features.
ROW_INPUTS = ("input_ids", "token_type_ids", "answer_ids", "choices")


def fingerprint_model(model: nn.Module) -> str:
    """A hash of a model's weights, buffers and config."""
    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        kept = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_rows(rows: Dataset) -> str:
    """A hash of the tokens and label of every row, in order."""
    digest = hashlib.sha256()
    columns = [name for name in (*ROW_INPUTS, "labels") if name in rows.column_names]
    for table in rows.select_columns(columns).with_format("arrow").iter(batch_size=10_000):
        for name in columns:
            values = table[name].combine_chunks()
            parts = []
            while pa.types.is_list(values.type):
                parts.append(values.value_lengths())
                values = values.flatten()
            for numbers in (*parts, values):
                digest.update(np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()
