"""A Trainer that answers rows in the order of their lengths, which needs little padding, and returns them in their own.

Everything else about `evaluate` and `predict` is the Trainer's, except that evaluation does not change the random state
and answers every row, whatever `--dataloader_drop_last` says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

from sinkd.losses.labels import hard_label_loss
from sinkd.models import Family
from sinkd.models.family import positions
from sinkd.training.answered_rows import row_lengths
from sinkd.training.resumable import ResumableTrainer


class LengthOrder(Sampler[int]):
    """Rows from short to long.

    Args:
        lengths: Tokens of each row, (n,).
    """

    def __init__(self, lengths: np.ndarray):
        self.order = np.argsort(lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def restored(self, values: Any) -> Any:
        """Values of the rows, first axis n, in the order of the rows; arrays, or nested collections of them."""
        if isinstance(values, np.ndarray):
            rows = np.empty_like(values)
            rows[self.order] = values
            return rows
        if isinstance(values, Mapping):
            return {name: self.restored(value) for name, value in values.items()}
        return values if values is None else tuple(map(self.restored, values))


class EvaluatingTrainer(ResumableTrainer):
    """See the module's docstring; `family` runs the model."""

    args: Any
    compute_metrics: Any
    family: Family
    model: Any

    def answers(self, rows: Any) -> np.ndarray:
        """The model's logits for tokenised rows, (n, C) float32, in the order of the rows."""
        return self._answered(rows).predictions

    def _answered(self, rows: Any) -> EvalLoopOutput:
        return self.evaluation_loop(self.get_test_dataloader(rows), "Evaluation", prediction_loss_only=False)

    def _get_dataloader(self, *args, **kwargs):
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop

    def _get_eval_sampler(self, eval_dataset):
        lengths = row_lengths(eval_dataset)
        return super()._get_eval_sampler(eval_dataset) if lengths is None else LengthOrder(lengths)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "length" not in self._signature_columns:
            self._signature_columns.append("length")  # --remove_unused_columns: batches are made by it

    def evaluation_loop(self, dataloader, *args, **kwargs):
        self.family.refuse_long_rows(positions(self.model), dataloader.dataset)
        sampler, compute = _sampler(dataloader), self.compute_metrics
        # The loader draws a seed from the global random state, which only training may change.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if not isinstance(sampler, LengthOrder):
                return super().evaluation_loop(dataloader, *args, **kwargs)

            def compute_in_order(found: EvalPrediction) -> dict:
                parts = (found.predictions, found.label_ids, found.inputs, found.losses)
                return compute(EvalPrediction(*map(sampler.restored, parts)))

            self.compute_metrics = compute and compute_in_order
            try:
                output = super().evaluation_loop(dataloader, *args, **kwargs)
            finally:
                self.compute_metrics = compute
        predictions, labels = map(sampler.restored, (output.predictions, output.label_ids))
        return output._replace(predictions=predictions, label_ids=labels)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self.family.answer(model, inputs).float()
        labels = inputs.get("labels")
        scored = labels is None or self.family.task is not None  # by the task
        loss = None if scored else hard_label_loss(logits, labels)
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)


def _sampler(loader: DataLoader) -> Any:
    """The sampler of a loader, which Accelerate may have wrapped."""
    batches: Any = loader.batch_sampler
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    return getattr(batches, "sampler", None)
