"""The teacher's answers: live, or computed once and read from a memory-mapped file.

A cache is one folder: `logits.npy` (float32, a row an example, in the order of the data set) and `index.json` (what it
was made of, and a checksum). Its name is the key: a hash of the teacher's weights and of the tokenised rows, which
carries data, tokenizer and length alike. Anything amiss (a truncated file, another shape, a foreign key), and the
teacher answers anew.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sinkd.errors import SinkdError
from sinkd.losses.term import View
from sinkd.tasks.cache import file_hash
from sinkd.training.checkpoint import written_aside

FORMAT = 1
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def observe(model: nn.Module, batch: Mapping[str, Any], needs: Iterable[str]) -> View:
    """What a model shows of a batch: its logits, and its hidden states where `needs` names them."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    hidden = "hidden_states" in needs
    # Models keep their own default where nothing is asked of them: some refuse an explicit False.
    outputs = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    return View(outputs.logits, outputs.hidden_states) if hidden else View(outputs.logits)


def freeze(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with no gradients: a teacher does not learn."""
    return model.eval().requires_grad_(False)


class TaughtRows(TorchDataset):
    """A data set whose rows carry the teacher's logits, `teacher_logits` (C,) float32 each."""

    def __init__(self, rows: Dataset, logits: np.ndarray):
        if len(rows) != len(logits):
            raise SinkdError(f"the teacher's cache holds {len(logits)} rows, the data set {len(rows)}; they must agree")
        self.rows = rows
        self.logits = logits

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "teacher_logits": np.array(self.logits[index])}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        columns = self.rows[indices]
        columns["teacher_logits"] = list(np.asarray(self.logits[indices]))
        names = list(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def cached_logits(
    teacher: nn.Module,
    rows: Dataset,
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]],
    folder: Path,
    batch_size: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The teacher's logits for all rows, (n, C) float32, memory-mapped from `folder`; computed where absent or damaged.

    rows: tokenised, with a `length` column. autocast: the dtype of mixed precision, as the live teacher would run.
    on_rows: told (rows done, rows in all) while the teacher answers.
    Raises SinkdError when the teacher gives a number that is not finite.
    """
    key = cache_key(teacher, rows, autocast)
    home = folder / key
    folder.mkdir(parents=True, exist_ok=True)
    # Ranks and runs that need the same answers wait for the first of them.
    with FileLock(folder / f"{key}.lock"):
        cached = read_cache(home, key, len(rows))
        if cached is not None:
            return cached
        with written_aside(home) as aside:
            logits = _answer(teacher, rows, collator, batch_size, device, autocast, on_rows)
            np.save(aside / "logits.npy", logits)
            index = {
                "format": FORMAT,
                "key": key,
                "shape": list(logits.shape),
                "sha256": file_hash(aside / "logits.npy"),
            }
            (aside / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        reread = read_cache(home, key, len(rows))
    if reread is None:
        raise SinkdError(f"the teacher's cache in {home} cannot be read back; --teacher_cache off does without")
    return reread


def read_cache(home: Path, key: str, n_rows: int) -> np.ndarray | None:
    """The cached logits, or None where they are absent, damaged or of something else."""
    try:
        index = json.loads((home / "index.json").read_text(encoding="utf-8"))
        if index["format"] != FORMAT or index["key"] != key or index["shape"][0] != n_rows:
            return None
        if index["sha256"] != file_hash(home / "logits.npy"):
            return None
        logits = np.load(home / "logits.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return logits if list(logits.shape) == index["shape"] and logits.dtype == np.float32 else None


def cache_key(teacher: nn.Module, rows: Dataset, autocast: torch.dtype | None = None) -> str:
    """What decides the teacher's answers: its weights and config, the tokenised rows, and the precision."""
    digest = hashlib.sha256(f"format {FORMAT} autocast {autocast}".encode())
    digest.update(fingerprint(teacher).encode())
    digest.update(fingerprint_rows(rows).encode())
    return digest.hexdigest()[:32]


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights, buffers and config: equal exactly when the model answers the same."""
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
    """A hash of what a model is fed: the token columns of every row, in order."""
    digest = hashlib.sha256()
    columns = [name for name in MODEL_INPUTS if name in rows.column_names]
    arrow = rows.select_columns(columns).with_format("arrow")
    for table in arrow.iter(batch_size=10_000):
        for name in columns:
            lists = table[name].combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                digest.update(numbers.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _answer(teacher, rows, collator, batch_size, device, autocast, on_rows) -> np.ndarray:
    teacher = freeze(teacher).to(device)
    # Rows of like length together: the teacher reads little padding.
    order = np.argsort(rows.select_columns(["length"]).with_format("numpy")[:]["length"], kind="stable")
    # A loader draws a seed when it starts; from its own generator, or finding a cache would change a run's dropout.
    generator = torch.Generator()
    loader = DataLoader(rows, batch_size=batch_size, sampler=order.tolist(), collate_fn=collator, generator=generator)
    answers: np.ndarray | None = None
    done = 0
    for batch in loader:
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            logits = observe(teacher, batch, {"logits"}).logits.float().cpu().numpy()
        wrong = int((~np.isfinite(logits).all(axis=-1)).sum())
        if wrong:
            raise SinkdError(f"the teacher gave numbers that are not finite in {wrong} of {len(logits)} rows")
        if answers is None:
            answers = np.empty((len(rows), logits.shape[-1]), np.float32)
        answers[order[done : done + len(logits)]] = logits
        done += len(logits)
        if on_rows is not None:
            on_rows(done, len(rows))
    if answers is None:
        raise SinkdError("there is no row for the teacher to answer; the training set is empty")
    return answers
