"""The teacher: a model and its family. It answers rows live, or once with the answers cached on disk.

The cache key is a hash of the teacher's weights and the tokenised rows, and so of the data, tokenizer and length.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sinkd.errors import SinkdError
from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.losses.input_embedding import input_table
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.models import Encoder, Family, find_checkpoint, stack
from sinkd.models.config import load_config
from sinkd.models.family import positions, positions_of
from sinkd.models.tokenizer import different_tokens, tokenizer_difference
from sinkd.tasks import Task
from sinkd.tasks.arrow_cache import cache_dir, file_hash
from sinkd.tasks.encode import column
from sinkd.tasks.metrics import Scores
from sinkd.training.answered_rows import Collate, OwnRows
from sinkd.training.arguments import DistillationArguments
from sinkd.training.balance import Balance
from sinkd.training.cpu import fast_layers
from sinkd.training.fingerprint import fingerprint_model, fingerprint_rows
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import read_outcome
from sinkd.training.teacher_cache import DTYPES, SHARD, Answers, batches_of

FORMAT = 2
SHARD_BYTES = 2**28  # approximate maximum: a shard is built in memory
OnRows = Callable[[int, int], None]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


class Teacher:
    """A frozen model and the family that reads rows for it.

    Args:
        model: The model; or a folder or a name on the hub, loaded on first use: a run that finds all answers on disk
            never loads it. None if it is elsewhere, see `ServedTeacher`.
        family: Reads, loads and runs the model. The loaded model must depend only on the folder's files and the
            family's `head_width`.

    Attributes:
        balance: Balances its logits to a class prior, once it has answered the transfer set; None leaves them.

    Raises:
        SinkdError: if the folder contains no model that answers the family's task.
    """

    def __init__(self, model: nn.Module | str | None, family: Family | None = None):
        self.family = family or Encoder()
        self._given = model
        self.balance: Balance | None = None
        self.folder = None
        if isinstance(model, str):
            self.family.check(model, "--teacher_path")
            self.folder = Path(find_checkpoint(model, "--teacher_path"))

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode, without gradients."""
        given = self._given
        model = self.family.load(given, "--teacher_path") if isinstance(given, str) else given
        assert model is not None
        return model.eval().requires_grad_(False)

    @property
    def embedding(self) -> Tensor:
        """The model's input embedding (V, d). Loads the model. Raises SinkdError if it has none."""
        weight = getattr(input_table(self.model), "weight", None)
        if weight is None:
            raise SinkdError(f"the teacher, {type(self.model).__name__}, has no input embedding, and semantic needs it")
        return weight.detach()

    @property
    def loaded(self) -> bool:
        """True if the model is in memory."""
        return self.folder is None or "model" in vars(self)

    @property
    def cacheable(self) -> bool:
        """True if `fingerprint` identifies the model; other modules may compute anything with the same weights."""
        return self.folder is not None or isinstance(self._given, PreTrainedModel)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's files, or of the model itself if it has no folder."""
        more = self.family.answer_key
        if self.folder is None or not self.folder.is_dir():
            return fingerprint_model(self.model) + more
        kinds = ("*.gguf", "*.safetensors", "*.safetensors.index.json", "*.bin", "config.json")
        files = sorted({path for kind in kinds for path in self.folder.glob(kind) if path.name != "training_args.bin"})
        content = "".join(f"{path.name} {file_hash(path)}" for path in files)
        return hashlib.sha256(f"{content} {more}".encode() if more else content.encode()).hexdigest()

    def differs_from(self, student: Family, pairs: bool = False) -> str | None:
        """The difference between the tokenizers of teacher and student; None if they read a text, or pairs, alike."""
        ours, theirs = self.family.tokenizer, student.tokenizer
        if ours is theirs or ours is None or theirs is None:
            return None
        return tokenizer_difference(ours, theirs, pairs)

    def reads_own_rows(self, student: Family) -> bool:
        """True if the teacher needs rows of its own: it reads other tokens, fewer of them, or in another way."""
        other_kind = type(self.family) is not type(student)
        return other_kind or bool(self.differs_from(student, pairs=True) or self._reads_fewer(student))

    def _reads_fewer(self, student: Family) -> str | None:
        ours, theirs = (family.reading.max_seq_length for family in (self.family, student))
        return f"length (at most {ours} and {theirs} tokens)" if ours < theirs else None

    def own_rows(self, student: Family, seed: int) -> OwnRows | None:
        """The training rows as the teacher reads them, in the student's order; None if it reads the student's."""
        if not self.reads_own_rows(student):
            return None
        family = self.family.for_seed(seed)
        return OwnRows(family.train, family.collator)

    def refuse_long_rows(self, rows: Any) -> None:
        """Raise SinkdError if a row has more tokens than the teacher reads."""
        given = self._given
        most = positions_of(self._config) if isinstance(given, str) else positions(given)
        self.family.refuse_long_rows(most, rows, reader="the teacher")

    @property
    def _config(self) -> PretrainedConfig:
        return load_config(str(self.folder), "--teacher_path")

    def check_tokens(self, objective: Objective, student: Family) -> None:
        """Raise SinkdError for features that the teacher does not show, or of tokens that the student lacks."""
        self.family.refuse_features(objective.teacher_needs)
        per_token = self.family.answers_tokens
        compared = {
            term.name.partition("/")[0]
            for term in objective
            if any(per_token or feature.of_tokens for feature in term.teacher_needs)
        }
        difference = (self.differs_from(student) or self._reads_fewer(student)) if compared else None
        if difference is not None:
            raise different_tokens(difference, f" for {', '.join(sorted(compared))}")

    @property
    def stack(self) -> Stack:
        """Depth and width. Raises SinkdError for a module that is not a model of transformers."""
        if self.folder is not None:
            return stack(self._config)
        return stack_of(self._given, "teacher")

    def move(self, device: torch.device) -> None:
        """Load the model and move it to a device, unless it is spread over several."""
        if not getattr(self.model, "hf_device_map", None):
            self.model.to(device)

    def release(self) -> None:
        """Free the model's memory; a model that was given goes to the CPU."""
        if self.folder is None:
            self.move(torch.device("cpu"))
        else:
            vars(self).pop("model", None)

    @torch.no_grad()
    def observe(self, batch: Mapping[str, Any], features: Iterable[Feature]) -> View:
        """Run the model on a batch and return its features."""
        with fast_layers(self.model):
            return self.family.observe(self.model, batch, features)

    def key(self, rows: Dataset, autocast: torch.dtype | None = None) -> str:
        """A hash of weights, config, tokenised rows and precision, which determine the answers."""
        parts = f"format {FORMAT} autocast {autocast}", self.fingerprint, fingerprint_rows(rows)
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]

    def answers(
        self,
        features: Iterable[Feature],
        rows: Dataset,
        collator: Collate,
        args: DistillationArguments,
        on_rows: OnRows | None = None,
    ) -> Answers:
        """Return the features of all rows, memory-mapped from a folder; compute those that are missing or damaged.

        Processes that run at the same time share the work.

        Args:
            rows: Tokenised rows with a `length` column.
            args: The folder and dtype of the cache, and the model's device, precision and batch size.
            on_rows: Called with (rows done, rows in total) while the teacher answers.

        Raises:
            SinkdError: if the teacher's answers are not finite, or there are no rows.
        """
        if len(rows) == 0:
            raise SinkdError("the training set is empty; the teacher needs rows to answer")
        features, dtype, autocast = list(features), args.teacher_cache_dtype, AUTOCAST.get(args.mixed_precision)
        token_bytes = sum(feature.token_bytes(self.family.head_width, DTYPES[dtype].itemsize) for feature in features)
        size = self.family.answer_tokens(rows) * token_bytes
        shard = min(SHARD, max(1, SHARD_BYTES * len(rows) // max(size, 1)))
        name = self.key(rows, autocast) + (f"-{shard}" if shard < SHARD else "")
        folder = Path(args.teacher_cache_dir or cache_dir() / "teachers")
        answers = Answers(folder / name, features, len(rows), dtype, shard)
        lengths = column(rows, "length")

        def answer(wanted: range, missing: list[Feature]) -> Mapping[str, Sequence[Tensor]]:
            nonlocal size
            if size:
                logger.info("the teacher's answers for %d rows take %.1f MB in %s", len(rows), size / 1e6, answers.home)
                size = 0
            self.move(args.device)
            answered: dict[str, list[Any]] = {feature.name: [None] * len(wanted) for feature in missing}
            done = wanted.start
            for places in batches_of(wanted, lengths, args.per_device_eval_batch_size):
                batch = collator([rows[place] for place in places])
                batch = {name: value.to(args.device) for name, value in batch.items()}
                with torch.autocast(args.device.type, dtype=autocast, enabled=autocast is not None):
                    view = self.observe(batch, missing)
                for feature in missing:
                    values = [value.detach().cpu() for value in feature.split(view[feature], batch, view.counts)]
                    if wrong := sum(not bool(value.isfinite().all()) for value in values):
                        found = f"{feature.name} that are not finite in {wrong} of {len(places)} rows"
                        raise SinkdError(f"the teacher gave {found}")
                    for place, value in zip(places, values, strict=True):
                        answered[feature.name][place - wanted.start] = value
                done += len(places)
                if on_rows is not None:
                    on_rows(min(done, len(rows)), len(rows))
            return answered

        answers.fill(answer)
        return answers

    def dev_answers(self, args: DistillationArguments, on_rows: OnRows | None = None) -> dict[str, Tensor]:
        """The logits (n, C) of all dev rows, by split; cached as `answers`."""
        return {
            split: self.answers([LOGITS], rows, self.family.collator, args, on_rows).column(LOGITS)
            for split, rows in self.family.dev.items()
        }


def reported_scores(folder: Path | None, task: Task) -> Scores | None:
    """The dev scores in the folder of a model's own run, if it had the same task and dev files; else None."""
    if folder is None:
        return None
    outcome, manifest = read_outcome(folder), read_manifest(folder)
    if outcome is None or manifest is None or outcome.task != task.name:
        return None
    fingerprints = {f"{split} file": task.fingerprint(split) for split in task.dev_splits}
    return outcome.scores if fingerprints.items() <= manifest.inputs.items() else None


def stack_of(model: Any, side: str) -> Stack:
    """A model's depth and width. Raises SinkdError for a module that is not a model of transformers."""
    if not isinstance(model, PreTrainedModel):
        raise SinkdError(f"hidden states can be compared of models of transformers, which the {side} is not")
    return stack(model.config)
