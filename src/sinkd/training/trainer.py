"""The Trainer of transformers, with what exact resumption and a task's scores add.

`TaskTrainer` trains and evaluates a classifier or a regressor: batches decided by seed and epoch, checkpoints that are
whole or absent, the best model kept aside, evaluation that leaves the random state alone. Everything else (DDP, mixed
precision, compilation, loggers) is the Trainer's own.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from sinkd.errors import SinkdError
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective, Value
from sinkd.losses.term import Progress, View
from sinkd.models import Encoder, Family
from sinkd.training.arguments import TaskArguments
from sinkd.training.checkpoint import PARTIAL, remove_partial, written_whole
from sinkd.training.cpu import CpuTrainer
from sinkd.training.gradient_cache import GradientCache
from sinkd.training.hub import open_repository, push_checkpoint
from sinkd.training.sampler import UpdateBatches
from sinkd.training.schedule import Schedule
from sinkd.training.teacher import TaughtRows

BEST = "best"


class TaskTrainer(CpuTrainer):
    """Trains with hard labels; see the module.

    eval_dataset: tokenised rows, or {split: rows}. scores: (logits, labels) -> {metric: value} of one split; without it
    the loss of hard labels, and what the Trainer's `compute_metrics` gives. combine: {split: its scores} -> what is
    reported. best_metric: the reported metric that picks the best model. interval: see `Schedule`. objective: what is
    minimised; hard labels alone where none is given. family: how models are run; as encoders where none is given. The
    other keywords are the Trainer's.
    """

    # of the Trainer
    control: Any
    train_dataset: Any

    def __init__(
        self,
        *,
        args: TaskArguments,
        scores: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
        combine: Callable[[dict[str, dict[str, float]]], dict[str, float]] | None = None,
        best_metric: str | None = None,
        interval: Callable[[int], int | None] | None = None,
        objective: Objective | None = None,
        family: Family | None = None,
        **kwargs: Any,
    ):
        if best_metric is not None:
            args.metric_for_best_model, args.greater_is_better = best_metric, True
        super().__init__(args=args, **kwargs)
        if args.fsdp and not self.is_fsdp_enabled:
            raise SinkdError("--fsdp shards over accelerators, and there are none; leave it out to train by DDP")
        self.objective = (objective or Objective.parse("ce:1")).to(self.args.device)
        self.scores = self._default_scores if scores is None else scores
        self.family = family or Encoder()
        self.combine = combine or (lambda by_split: dict(next(iter(by_split.values()))))
        # The values of an update are averaged over its micro-batches: let the Trainer divide by their number.
        self.loss_is_scaled_for_ga = False
        self.schedule = Schedule(interval)
        self.add_callback(self.schedule)
        self._saving_to: Path | None = None
        self.seconds_beside = 0.0  # spent on evaluating and saving since somebody set it to 0
        self._update_batches: Any = None  # the `UpdateBatches` of training, once it begins
        self.rows_trained = 0  # by all processes, since this object was made

    # What is trained on

    def tokenised_rows(self):
        rows = self.train_dataset
        return rows.rows if isinstance(rows, TaughtRows) else super().tokenised_rows()

    def get_train_dataloader(self):
        """Batches of the training rows for this process, which seed and epoch alone decide."""
        args, rows = self.args, self.train_dataset
        self._update_batches = UpdateBatches(
            len(rows),
            args.train_batch_size,
            args.seed if args.data_seed is None else args.data_seed,
            row_lengths(rows) if args.group_by_length else None,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            args.dataloader_drop_last,
        )
        return DataLoader(
            rows,
            batch_sampler=self._update_batches,
            collate_fn=self.train_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # a loader draws a seed when it starts; the global state is the model's
        )

    @property
    def train_collator(self) -> Any:
        """What makes a batch of training rows."""
        return self.data_collator

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an update, and its gradient cache.

        The Trainer hands the second to `compute_loss` together with each micro-batch, as `num_items_in_batch`.
        """
        samples = enumerate(itertools.islice(epoch_iterator, num_batches))
        batches = [self.prepare_micro_batch(batch, place) for place, batch in samples]
        sizes = np.array([[len(batch["input_ids"])] for batch in batches])
        counts = None
        if self._update_batches is not None:
            sizes = self._update_batches.sizes(self.state.global_step % self._update_batches.updates)
            counts = sizes[:, self.args.process_index] > 0
        self.rows_trained += int(sizes.sum())
        return batches, self._gradient_cache(self.model_wrapped, batches, counts) if batches else None

    def prepare_micro_batch(self, batch: Mapping[str, Any], place: int) -> dict[str, Any]:
        """A micro-batch on the device; `place` counts those of an update."""
        return self._prepare_inputs(batch)

    def get_test_dataloader(self, test_dataset):
        # `--dataloader_drop_last` is about training: every row is answered.
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_test_dataloader(test_dataset)
        finally:
            self.args.dataloader_drop_last = drop

    def _get_eval_sampler(self, eval_dataset):
        lengths = row_lengths(eval_dataset)
        if lengths is None or self.args.world_size > 1:
            return super()._get_eval_sampler(eval_dataset)
        return np.argsort(lengths, kind="stable").tolist()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        cache = self._gradient_cache(model, [inputs]) if num_items_in_batch is None else num_items_in_batch
        value, student, teacher = cache.step()
        self.on_value(value, student, teacher, cache)
        return (value.total, {"logits": student.logits}) if return_outputs else value.total

    def _gradient_cache(self, model: Any, batches: list[dict[str, Any]], counts: Any = None) -> GradientCache:
        needing = ", ".join(term.name for term in self.objective if term.needs_labels)
        if needing and any("labels" not in batch for batch in batches):
            raise SinkdError(f"the objective's {needing} cannot do without hard labels; give training rows with labels")
        epochs = max(1, self.state.num_train_epochs)  # which --max_steps decides where it is given
        return GradientCache(
            self.objective,
            batches,
            partial(self.family.observe, model),
            self.teacher_view,
            counts,
            getattr(self.args, "transport_scope", "window"),
            Progress(min(int(self.state.epoch or 0), epochs - 1), epochs),
        )

    def teacher_view(self, inputs: Mapping[str, Any]) -> View:
        """The teacher's side of a batch: nothing, where hard labels teach."""
        return View()

    def on_value(self, value: Value, student: View, teacher: View, cache: GradientCache) -> None:
        """Called with every micro-batch's value, before it is propagated."""

    # Evaluation

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The reported scores of the dev set, each under `metric_key_prefix`, with seconds and rows per second."""
        started = time.perf_counter()
        splits = self.eval_dataset if eval_dataset is None else eval_dataset
        splits = splits if isinstance(splits, Mapping) else {"dev": splits}
        by_split = {}
        for split, rows in splits.items():
            by_split[split] = self.scores(
                self.answers(rows), rows.select_columns(["labels"]).with_format("numpy")[:]["labels"]
            )
        metrics = self.combine(by_split)
        seconds = time.perf_counter() - started
        self.seconds_beside += seconds
        metrics |= {"runtime": seconds, "samples_per_second": sum(map(len, splits.values())) / seconds}
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in metrics.items()}
        self.log(dict(metrics))  # which adds the epoch
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def answers(self, rows: Dataset) -> np.ndarray:
        """The model's logits for tokenised rows, (n, C) float32, in the order of the rows."""
        unlabelled = rows.remove_columns("labels") if "labels" in rows.column_names else rows
        # The loader draws a seed from the global random state, which belongs to training alone.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            loader = self.get_test_dataloader(unlabelled)
            output = self.evaluation_loop(loader, description="Evaluation", prediction_loss_only=False)
        logits = np.asarray(output.predictions, dtype=np.float32)
        order = self._get_eval_sampler(unlabelled)
        if not isinstance(order, list):
            return logits
        answers = np.empty_like(logits)
        answers[order] = logits
        return answers

    def _default_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        loss = hard_label_loss(torch.from_numpy(logits), torch.from_numpy(labels))
        return {"loss": float(loss), **(self.compute_metrics((logits, labels)) if self.compute_metrics else {})}

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self.family.answer(model, inputs)
        return None, logits.float(), None

    # Checkpoints

    def train(self, resume_from_checkpoint=None, **kwargs):
        if self.args.should_save:
            remove_partial(Path(self.args.output_dir))
        with self.schedule.catching_sigterm():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save_checkpoint(self, model, trial):
        started = time.perf_counter()
        folder = Path(self.args.output_dir)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with written_whole(folder / name, writer=self.args.should_save) as partial_folder:
            # Trainer writes `<its output folder>/checkpoint-N`, and every rank its own files in it.
            self._saving_to = folder / PARTIAL
            try:
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self.save_extras(partial_folder)
            except (OSError, RuntimeError, SafetensorError) as error:
                reason = str(error).splitlines()[0]
                raise SinkdError(
                    f"{name} could not be written in {folder} ({reason}); once it can, the same command goes on from "
                    "the checkpoint before it"
                ) from error
            finally:
                self._saving_to = None
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()
        push_checkpoint(self, folder / name)
        if self.args.should_save:
            rotate_checkpoints(output_dir=str(folder), save_total_limit=self.args.save_total_limit, use_mtime=False)
        self.seconds_beside += time.perf_counter() - started

    def init_hf_repo(self, token=None, private=None):
        if self.is_world_process_zero():
            open_repository(self, token, private)

    def _push_from_checkpoint(self, checkpoint_folder):
        """Not from the folder that is being written: `_save_checkpoint` pushes the whole one."""

    def save_extras(self, folder: Path) -> None:
        """Write what a resumed run needs beside the Trainer's own files."""

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        # A pickle of the arguments, which nothing here ever reads; the manifest holds them.
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _determine_best_metric(self, metrics, trial):
        is_best = super()._determine_best_metric(metrics, trial)
        # The best model lies in a folder of its own: the Trainer is not to look for it among the checkpoints.
        self.state.best_global_step = None
        if is_best:
            with written_whole(Path(self.args.output_dir) / BEST, writer=self.args.should_save) as partial_folder:
                self.save_model(str(partial_folder), _internal_call=True)
                self.accelerator.wait_for_everyone()
            self.accelerator.wait_for_everyone()
        return is_best

    def adopt_best(self) -> None:
        """Copy the best model into the output folder itself, and load it; without evaluation, the last model."""
        folder = Path(self.args.output_dir)
        best = folder / BEST
        if not best.is_dir():
            self.save_model(_internal_call=True)
            return
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            for path in best.iterdir():
                shutil.copy2(path, folder / path.name)
        self._load_from_checkpoint(str(best))
        self.accelerator.wait_for_everyone()


def row_lengths(rows: Any) -> np.ndarray | None:
    """Tokens a row, (n,), where the data set tells; the rows themselves are not read."""
    rows = rows.rows if isinstance(rows, TaughtRows) else rows
    if not isinstance(rows, Dataset) or "length" not in rows.column_names:
        return None
    return rows.select_columns(["length"]).with_format("numpy")[:]["length"]
