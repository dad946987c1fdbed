"""A trainer of classifiers, regressors and language models under an `Objective`.

Seed and epoch determine the batches, the split into micro-batches does not change an update's loss, and evaluation does
not change the random state. Everything else (DDP, mixed precision, compilation, loggers) works as in the Trainer.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from sinkd.errors import SinkdError, one_sentence
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress, View
from sinkd.models import Encoder, Family
from sinkd.models.family import positions
from sinkd.training.answered_rows import TaughtRows, row_lengths
from sinkd.training.arguments import TaskArguments
from sinkd.training.evaluation import EvaluatingTrainer
from sinkd.training.gpu import static_masks, without_full_mask
from sinkd.training.gradient_cache import GradientCache
from sinkd.training.sampler import UpdateBatches
from sinkd.training.trainer_arguments import check_arguments, with_best
from sinkd.training.training_log import Meter, MeterReader

OBJECTIVE_FILE = "objective.safetensors"


class TaskTrainer(EvaluatingTrainer):
    """Trains under an objective without a teacher, and scores answers.

    Args:
        model: The model to train; its forward returns logits, alone, first in a tuple, or under this name.
        objective: The objective; hard labels by default.
        family: Runs the model; by default an encoder. If it has a task, that also gives the collator, the tokenizer,
            the reported scores and the score that selects the best model. Otherwise evaluation reports the hard-label
            loss and the results of `compute_metrics`.
        kwargs: Those of `ResumableTrainer`. `eval_dataset` is tokenised rows, or {split: rows}.

    Raises:
        SinkdError: if an argument cannot be served, or `--fsdp` is set without an accelerator.
    """

    arguments: ClassVar[type[TaskArguments]] = TaskArguments

    # of the Trainer
    control: Any
    train_dataset: Any

    def __init__(
        self,
        model: Any,
        args: TaskArguments,
        *,
        objective: Objective | None = None,
        family: Family | None = None,
        **kwargs: Any,
    ):
        self.family = family or Encoder()
        check_arguments(self.arguments, args, self.family.task, kwargs)
        args = with_best(args, self.family.task)
        if self.family.task is not None:
            args.remove_unused_columns = False  # the family's collator selects them
            kwargs = {"data_collator": self.family.collator, "processing_class": self.family.tokenizer, **kwargs}
        with one_sentence("the Trainer"):
            super().__init__(model=model, args=args, **kwargs)
        if args.fsdp and not self.is_fsdp_enabled:
            raise SinkdError("--fsdp shards over accelerators, and there are none; leave it out to train by DDP")
        self.objective = (objective or Objective.parse("ce:1")).to(self.args.device)
        # The values of an update are averaged over its micro-batches: let the Trainer divide by their number, whatever
        # `num_items_in_batch` is.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = False
        self.meter = Meter()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MeterReader):
                callback.meter = self.meter
        self._update_batches: Any = None  # the `UpdateBatches` of training, once it begins

    # Training

    def train(self, resume_from_checkpoint=None, **kwargs):
        self.family.refuse_long_rows(positions(self.model), self.tokenised_rows())
        self.meter.restart()
        with static_masks() if self.args.device.type == "cuda" else nullcontext():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def tokenised_rows(self):
        rows = self.train_dataset
        return rows.rows if isinstance(rows, TaughtRows) else super().tokenised_rows()

    def get_train_dataloader(self):
        """Batches of the training rows for this process, determined only by seed and epoch."""
        args, rows = self.args, self.train_dataset
        lengths = row_lengths(rows) if args.group_by_length else None
        rows, collate = self._columns_in_use(rows)
        self._update_batches = UpdateBatches(
            len(rows),
            args.train_batch_size,
            args.seed if args.data_seed is None else args.data_seed,
            lengths,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            args.dataloader_drop_last,
        )
        return DataLoader(
            rows,
            batch_sampler=self._update_batches,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),  # a loader draws a seed when it starts; the global state is the model's
        )

    def _columns_in_use(self, rows: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Rows to train on and their collator, which leaves out what `--remove_unused_columns` removes."""
        if isinstance(rows, TaughtRows):
            return rows, rows.collate
        if isinstance(rows, Dataset):
            return self._remove_unused_columns(rows, "training"), self.data_collator
        return rows, self._get_collator_with_removed_columns(self.data_collator, "training")

    def _prepare_input(self, data):
        if isinstance(data, torch.Tensor):  # the Trainer's copy would wait for the device
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        if labels is None:
            return inputs
        # PyTorch's losses take no other integers, and -100 is not defined for some.
        return {**inputs, "labels": labels.float() if labels.is_floating_point() else labels.long()}

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an update, and its gradient cache.

        The Trainer passes the cache to `compute_loss` with each micro-batch, as `num_items_in_batch`.
        """
        self.objective.zero_grad()  # the Trainer zeroes only its model's gradients
        samples = enumerate(itertools.islice(epoch_iterator, num_batches))
        batches = [self.prepare_micro_batch(batch, place) for place, batch in samples]
        if not batches:
            return batches, None
        counts = None
        if self._update_batches is not None:  # a subclass may have a data loader of its own
            sizes = self._update_batches.sizes(self.state.global_step % self._update_batches.updates)
            self.meter.rows += int(sizes.sum())
            if len(sizes) == len(batches):  # not after --ignore_data_skip
                counts = sizes[:, self.args.process_index] > 0
        return batches, self._gradient_cache(self.model_wrapped, batches, counts)

    def prepare_micro_batch(self, batch: Mapping[str, Any], place: int) -> dict[str, Any]:
        """A micro-batch on the device; `place` is its number in the update."""
        if self.args.device.type == "cuda" and not self.family.answers_tokens:
            batch = without_full_mask(batch)
        return self._prepare_inputs(batch)

    def _gradient_cache(self, model: Any, batches: list[dict[str, Any]], counts: Any = None) -> GradientCache:
        needing = ", ".join(term.name for term in self.objective if term.needs_labels)
        if needing and any("labels" not in batch for batch in batches):
            raise SinkdError(f"the objective's {needing} cannot do without hard labels; give training rows with labels")
        epochs = max(1, self.state.num_train_epochs)  # determined by --max_steps if it is given
        return GradientCache(
            self.objective,
            batches,
            partial(self.family.observe, model),
            self.teacher_view,
            counts,
            getattr(self.args, "transport_scope", "window"),
            Progress(min(int(self.state.epoch or 0), epochs - 1), epochs),
        )

    def teacher_view(self, batch: Mapping[str, Any]) -> View:
        """The teacher's view of a batch; empty here, since only hard labels are used."""
        return View()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # In training it is the update's cache; otherwise a program asks for the loss of a batch.
        trains = num_items_in_batch is not None
        cache = num_items_in_batch if trains else self._gradient_cache(model, [inputs])
        value, student, teacher = cache.step()
        if trains:
            self.meter.add(value.total, value.parts)
            if self._logs_this_step():
                self.meter.figures = cache.diagnostics(student, teacher)
        return (value.total, {"logits": student.logits}) if return_outputs else value.total

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.args.world_size > 1 and self.accelerator.sync_gradients:
            # The model's engine reduces only the model's gradients; the objective is not part of the model.
            for parameter in self.objective.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return loss

    def create_optimizer(self, model=None):
        """The Trainer's optimiser, with a group for the objective's parameters: no weight decay, a separate rate."""
        fresh = self.optimizer is None
        with one_sentence(f"--optim {self.args.optim.value}"):
            optimizer = super().create_optimizer(model)
        own = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        if fresh and own:
            rate = getattr(self.args, "curvature_lr", None)
            rate = 10 * self.args.learning_rate if rate is None else rate
            optimizer.add_param_group({"params": own, "weight_decay": 0.0, "lr": rate})
            optimizer.register_step_post_hook(lambda *_: self._clamp_parameters())
        return optimizer

    def create_scheduler(self, *args, **kwargs):
        with one_sentence(f"--lr_scheduler_type {self.args.lr_scheduler_type.value}"):
            return super().create_scheduler(*args, **kwargs)

    def _clamp_parameters(self) -> None:
        """Keep the objective's parameters (a curvature, a scale) within the bounds of their modules."""
        for module in self.objective.modules():
            clamp: Any = getattr(module, "clamp_", None)
            if clamp is not None:
                clamp()

    # The log

    def log(self, logs, start_time=None):
        """Add each part of the loss, the terms' own figures and rows per second to the Trainer's log line.

        They cover the steps since the last line; the final line covers the steps that were not logged.
        """
        if "loss" in logs or ("train_loss" in logs and self.meter.steps):
            logs |= self.meter.read(lambda means: self.accelerator.reduce(means, "mean"))
        super().log(logs, start_time)

    def _logs_this_step(self) -> bool:
        step = self.state.global_step + 1
        if self.args.logging_strategy == "epoch":
            updates = 0 if self._update_batches is None else self._update_batches.updates
            return bool(updates and step % updates == 0) or step >= self.state.max_steps
        first = step == 1 and self.args.logging_first_step
        return self.args.logging_strategy == "steps" and (first or step % self.state.logging_steps == 0)

    # Evaluation

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The Trainer's evaluation; for a task, the dev set's reported scores, with seconds and rows per second."""
        started = time.perf_counter()
        splits = self.eval_dataset if eval_dataset is None else eval_dataset
        if not splits:
            raise SinkdError("there is no dev set to evaluate on")
        with self.meter.paused():
            if self.family.task is None:
                return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            splits = splits if isinstance(splits, Mapping) else {"dev": splits}
            found = {split: self._answered(rows) for split, rows in splits.items()}
            scores = {split: self.family.scores(each.predictions, each.label_ids) for split, each in found.items()}
        metrics = self.family.task.combine(scores)
        seconds = time.perf_counter() - started
        rows = sum(each.num_samples for each in found.values())
        metrics |= {"runtime": seconds, "samples_per_second": rows / seconds}
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in metrics.items()}
        self.log(dict(metrics))  # which adds the epoch
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Checkpoints

    def _save_checkpoint(self, model, trial):
        with self.meter.paused():
            super()._save_checkpoint(model, trial)

    def save_extras(self, folder):
        state = self.objective.state_dict()
        if state:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / OBJECTIVE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint, OBJECTIVE_FILE)
        if path.is_file():
            self.objective.load_state_dict(load_file(path))
