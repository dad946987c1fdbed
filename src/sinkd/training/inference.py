"""A trained model at work: its scores on dev sets, its answers for test sets, its size and its speed."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PrinterCallback

from sinkd.losses.feature import LOGITS
from sinkd.training.arguments import TaskArguments
from sinkd.training.kind import AnyRows, AnyTask, load_model, read_rows, read_tokenizer
from sinkd.training.teacher import observe
from sinkd.training.trainer import TaskTrainer


@dataclass(frozen=True)
class Model:
    """A trained model with what it needs to answer a task's rows."""

    trainer: TaskTrainer
    rows: AnyRows

    @classmethod
    def load(cls, path: str, task: AnyTask, args: TaskArguments, flag: str = "--model_path") -> "Model":
        """The model in `path`, whose head must fit the task."""
        rows = read_rows(task, read_tokenizer(path, flag, args), args, path, flag)
        model = load_model(path, flag, task, args)
        return cls(make_evaluator(model, rows, args), rows)

    def scores(self) -> dict[str, float]:
        """What the run that made the model reported: the dev set's scores."""
        metrics = self.trainer.evaluate(self.rows.dev)
        return {name.removeprefix("eval_"): value for name, value in metrics.items()}

    def write_submissions(self, folder: Path) -> list[Path]:
        """Write the answers for every test split."""
        task = self.rows.task
        return [
            task.write_submission(split, self.rows.decide(self.trainer.answers(self.rows.test(split))), folder)
            for split in task.test_splits
        ]


def make_evaluator(model: PreTrainedModel, rows: AnyRows, args: TaskArguments) -> TaskTrainer:
    """A trainer that only evaluates; a Trainer makes its output folder, so this one is given one that is there."""
    args.disable_tqdm, args.eval_strategy, args.report_to = True, "no", []
    args.output_dir = tempfile.gettempdir()
    trainer = TaskTrainer(model=model, args=args, **rows.trainer_keywords())
    trainer.remove_callback(PrinterCallback)
    return trainer


def parameters(model: PreTrainedModel) -> int:
    """How many numbers the model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def megabytes(folder: Path) -> float:
    """Size of a model's weights on disk, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


@torch.inference_mode()
def rows_per_second(model: Model, repeats: int = 5) -> float:
    """Median rows per second of the model itself over the dev set, in batches made beforehand, after one to warm up."""
    trainer = model.trainer
    batches = [
        trainer._prepare_inputs(batch)
        for rows in model.rows.dev.values()
        for batch in trainer.get_test_dataloader(rows)
    ]
    network = trainer.model.to(trainer.args.device).eval()
    timings: list[float] = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for batch in batches:
            observe(network, batch, {LOGITS}).logits.cpu()
        timings.append(time.perf_counter() - started)
    return sum(len(batch["labels"]) for batch in batches) / statistics.median(timings[1:])
