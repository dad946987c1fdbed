"""The teacher's answers: live, or computed once and read from a store on disk.

The store's name is its key: a hash of the teacher's weights and of the tokenised rows, which carries data, tokenizer
and length alike. In it lies each feature that some objective needed, once for all of them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from sinkd.errors import SinkdError
from sinkd.losses.draws import RandomState
from sinkd.losses.embedding import watched
from sinkd.losses.feature import Feature, Forward
from sinkd.losses.term import View
from sinkd.tasks.cache import file_hash
from sinkd.training.answers import DTYPES, SHARD, Answers, batches_of
from sinkd.training.cpu import fast_layers
from sinkd.training.generation import answer_keywords, answer_logits

FORMAT = 2
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "decoder_input_ids")
# What of a row decides what a model shows of it.
ROW_INPUTS = ("input_ids", "token_type_ids", "answer_ids")
# Under which names a batch carries what the teacher answered.
TAUGHT = "teacher/"
# A shard is made in memory: no larger than this, where rows are large.
SHARD_BYTES = 2**28

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


def observe(model: nn.Module, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
    """What a model shows of a batch: the features asked for, from one forward pass.

    Where gradients are off nothing of it has a graph, whatever an attribution differentiates on the way.
    """
    features = list(features)
    captures = frozenset().union(*(feature.captures for feature in features))
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    generative = "positions" in batch
    keywords = answer_keywords(model, batch) if generative else {}
    # Models keep their own default where nothing is asked of them: some refuse an explicit False.
    hidden = "hidden_states" in captures
    keywords |= {"output_hidden_states": True} if hidden else {}
    attributes = "embeddings" in captures
    draws = RandomState(batch["input_ids"].device) if attributes and model.training else None
    with watched(model) if attributes else nullcontext([None]) as embeddings:
        outputs = model(**inputs, **keywords)
    logits = answer_logits(outputs.logits, batch, "logits_to_keep" in keywords) if generative else outputs.logits
    seen = Forward(model, inputs, logits, outputs.hidden_states if hidden else None, embeddings[0], draws)
    values = {feature: feature.read(seen, batch) for feature in features}
    # `watched` turns gradients on, and a loss must not find its way through a frozen teacher.
    return View(features=values if torch.is_grad_enabled() else {f: _detached(v) for f, v in values.items()})


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value


def freeze(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with no gradients: a teacher does not learn."""
    return model.eval().requires_grad_(False)


class SavedTeacher:
    """A teacher in a folder, loaded when it is first asked: a run that finds all its answers kept never needs it.

    folder: of a checkpoint; what `load` makes of it must depend on its files alone, and on width. width: of a language
    model's head, which may have been cut.
    """

    def __init__(self, folder: str, load: Callable[[], nn.Module], width: int = 0):
        self.folder = Path(folder)
        self.width = width
        self._load = load

    @cached_property
    def model(self) -> nn.Module:
        """The teacher itself, frozen."""
        return freeze(self._load())

    @property
    def loaded(self) -> bool:
        """Whether it was asked, and is in memory."""
        return "model" in vars(self)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files that make the model; of the model where the folder is a name on the hub."""
        if not self.folder.is_dir():
            return fingerprint(self.model)
        kinds = ("*.safetensors", "*.safetensors.index.json", "*.bin", "config.json")
        files = sorted({path for kind in kinds for path in self.folder.glob(kind) if path.name != "training_args.bin"})
        content = "".join(f"{path.name} {file_hash(path)}" for path in files) + (f" {self.width}" if self.width else "")
        return hashlib.sha256(content.encode()).hexdigest()


class TaughtRows(TorchDataset):
    """A data set whose rows carry what the teacher answered for them: each kept feature under `TAUGHT` + its name."""

    def __init__(self, rows: Dataset, answers: Answers):
        if len(rows) != len(answers):
            raise SinkdError(
                f"the teacher's cache holds {len(answers)} rows, the data set {len(rows)}; they must agree"
            )
        self.rows = rows
        self.answers = answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], **self._taught(index)}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        columns = self.rows[indices]
        untaught = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, **self._taught(index)} for row, index in zip(untaught, indices, strict=True)]

    def _taught(self, index: int) -> dict[str, Tensor]:
        return {TAUGHT + name: value for name, value in self.answers[index].items()}


class TaughtCollator:
    """A collator whose batches carry the teacher's kept features, as `Feature.join` puts their rows together."""

    def __init__(self, collator: Callable[[list[Batch]], Batch], features: Iterable[Feature]):
        self.collator = collator
        self.features = list(features)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        batch = self.collator([{n: value for n, value in row.items() if not n.startswith(TAUGHT)} for row in rows])
        taught = {TAUGHT + f.name: f.join([row[TAUGHT + f.name] for row in rows], batch) for f in self.features}
        return batch | taught


def taught_view(batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
    """The teacher's side of a batch as far as it was kept: those of the features that the batch carries."""
    return View(features={f: batch[TAUGHT + f.name] for f in features if TAUGHT + f.name in batch})


def cached_answers(
    teacher: nn.Module | SavedTeacher,
    features: Iterable[Feature],
    rows: Dataset,
    collator: Callable[[list[Batch]], Batch],
    folder: Path,
    batch_size: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    dtype: str = "float32",
    on_rows: Callable[[int, int], None] | None = None,
) -> Answers:
    """The teacher's features for all rows, memory-mapped from a store in `folder`; computed where absent or damaged.

    rows: tokenised, with a `length` column. autocast: the dtype of mixed precision, as the live teacher would run.
    dtype: what is kept, of `answers.DTYPES`. on_rows: told (rows done, rows in all) while the teacher answers.
    Processes that are started together share the work. Raises SinkdError when the teacher gives a number that is not
    finite, or there is no row.
    """
    if len(rows) == 0:
        raise SinkdError("there is no row for the teacher to answer; the training set is empty")
    features = list(features)
    size = answer_bytes(teacher, features, rows, dtype)
    shard = min(SHARD, max(1, SHARD_BYTES * len(rows) // max(size, 1)))
    key = cache_key(teacher, rows, autocast) + (f"-{shard}" if shard < SHARD else "")
    answers = Answers(folder / key, features, len(rows), dtype, shard if shard < SHARD else None)
    lengths = rows.select_columns(["length"]).with_format("numpy")[:]["length"]

    def answer(wanted: range, missing: list[Feature]) -> Mapping[str, Sequence[Tensor]]:
        nonlocal size
        if size:
            logger.info("the teacher's answers for %d rows take %.1f MB in %s", len(rows), size / 1e6, answers.home)
            size = 0
        model = on_device(freeze(teacher.model if isinstance(teacher, SavedTeacher) else teacher), device)
        answered: dict[str, list[Any]] = {feature.name: [None] * len(wanted) for feature in missing}
        done = 0
        for places in batches_of(wanted, lengths, batch_size):
            batch = collator([rows[place] for place in places])
            batch = {name: value.to(device) for name, value in batch.items()}
            cast = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
            with torch.no_grad(), cast, fast_layers(model):
                view = observe(model, batch, missing)
            for feature in missing:
                values = [value.detach().cpu() for value in feature.split(view[feature], batch)]
                wrong = sum(not bool(value.isfinite().all()) for value in values)
                if wrong:
                    raise SinkdError(
                        f"the teacher gave {feature.name} that are not finite in {wrong} of {len(places)} rows"
                    )
                for place, value in zip(places, values, strict=True):
                    answered[feature.name][place - wanted.start] = value
            done += len(places)
            if on_rows is not None:
                on_rows(min(wanted.start + done, len(rows)), len(rows))
        return answered

    answers.fill(answer)
    return answers


def answer_bytes(teacher: Any, features: Iterable[Feature], rows: Dataset, dtype: str) -> int:
    """Bytes that a language model's answers for all rows take; 0 for an encoder, whose answers are small."""
    if "answer_ids" not in rows.column_names:
        return 0
    saved = isinstance(teacher, SavedTeacher)
    width = teacher.width if saved else teacher.get_output_embeddings().weight.shape[0]
    tokens = sum(
        len(table["answer_ids"].combine_chunks().flatten())
        for table in rows.select_columns(["answer_ids"]).with_format("arrow").iter(batch_size=10_000)
    )
    return tokens * sum(feature.token_bytes(width, DTYPES[dtype].itemsize) for feature in features)


def on_device(model: Any, device: torch.device) -> Any:
    """The model on a device; one that is spread over several stays there."""
    return model if getattr(model, "hf_device_map", None) else model.to(device)


def cache_key(teacher: nn.Module | SavedTeacher, rows: Dataset, autocast: torch.dtype | None = None) -> str:
    """What decides the teacher's answers: its weights and config, the tokenised rows, and the precision."""
    digest = hashlib.sha256(f"format {FORMAT} autocast {autocast}".encode())
    known = teacher.fingerprint if isinstance(teacher, SavedTeacher) else fingerprint(teacher)
    digest.update(known.encode())
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
    """A hash of what a model is shown: the token columns of every row, in order, and its label."""
    digest = hashlib.sha256()
    columns = [name for name in ROW_INPUTS if name in rows.column_names]
    labels = [name for name in ("labels",) if name in rows.column_names]
    arrow = rows.select_columns(columns + labels).with_format("arrow")
    for table in arrow.iter(batch_size=10_000):
        for name in columns:
            lists = table[name].combine_chunks()
            for numbers in (lists.value_lengths(), lists.flatten()):
                digest.update(numbers.to_numpy(zero_copy_only=False).tobytes())
        if "labels" in table.column_names:
            digest.update(np.ascontiguousarray(table["labels"].to_numpy()).tobytes())
    return digest.hexdigest()
