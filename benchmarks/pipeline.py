"""Rows per second of distillation, beside plain fine-tuning and beside the published procedure.

    python -m benchmarks.pipeline --encoder models/minilm --data_dir datas/glue

On CoLA's training text, a 6-layer encoder teaches its own layers 0, 2, 4, in batches of 16, with the models' own
dropout. The arms take turns, round by round in one process, each on the same rows from the same weights:

- sinkd: `DistillationTrainer`, kd + sinkhorn (Lorentz), the teacher's answers cached. On: batches of like length,
  padding to a batch's longest row, embedding rows that no training row uses left out of the update. The time to fill
  the cache is printed below the table and is part of no ratio.
- fine-tuning: `transformers.Trainer` on the same student with hard labels, rows grouped by length, padded likewise.
- published: every row padded to 128 tokens, the teacher run live in every step, both models with eager attention
  returning all hidden states and attentions, the loss written plainly; the same AdamW and clipping.

Where the processor (or GPU) multiplies bfloat16, sinkd and fine-tuning also run with `--bf16`.

A figure is the median over rounds; a ratio is the median over rounds of the ratio within the round.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from benchmarks import device
from benchmarks.loss import published as published_sinkhorn
from benchmarks.result import machine, publish
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from sinkd.losses import kd
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective
from sinkd.models import keep_layers, load_encoder, load_tokenizer
from sinkd.report import Table
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.distillation import DistillationTrainer
from sinkd.transport.matmul import multiplies_bfloat16

BATCH, LENGTH, LAYERS = 16, 128, (0, 2, 4)


class Stopwatch(TrainerCallback):
    """Seconds from the first step to the end of training: no start-up, no saving."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        device.wait()
        self.seconds = time.perf_counter() - self.started


def arguments(kind: type[TrainingArguments], folder: str, **more) -> TrainingArguments:
    common = {"num_train_epochs": 1, "learning_rate": 5e-5, "per_device_train_batch_size": BATCH, "seed": 0}
    common |= {"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}
    common |= {"use_cpu": not device.on_cuda()}
    return kind(output_dir=folder, logging_steps=100, **common, **more)


def trained(trainer: Trainer) -> float:
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return watch.seconds


class Lesson:
    """A teacher of six layers, three of its layers as the student, and a random sample of CoLA's training rows.

    The file is not in random order, and its first sentences are longer than most.
    """

    def __init__(self, encoder: str, data_dir: str, rows: int):
        self.task = load_task("cola", data_dir)
        self.tokenizer = load_tokenizer(encoder, "--encoder")
        sample = np.random.default_rng(0).permutation(len(self.task.read("train")))[:rows]
        self.rows = encode(self.task.read("train").select(sample), self.tokenizer, LENGTH)
        self.teacher = load_encoder(encoder, self.task, "--encoder").eval()
        self.student = keep_layers(load_encoder(encoder, self.task, "--encoder"), LAYERS)

    def trainer(self, folder: str, **more) -> DistillationTrainer:
        """Distils a fresh student by kd + sinkhorn (Lorentz), with the teacher's answers cached in `folder`."""
        return DistillationTrainer(
            model=copy.deepcopy(self.student),
            teacher=self.teacher,
            objective=Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0),
            args=arguments(DistillationArguments, folder, teacher_cache_dir=folder, **more),
            train_dataset=self.rows,
            data_collator=Collator(self.tokenizer),
            processing_class=self.tokenizer,
        )


def add_lesson(parser: argparse.ArgumentParser) -> None:
    """The options that `Lesson` needs, but for the number of rows."""
    parser.add_argument("--encoder", default="models/minilm", help="folder of a 6-layer BERT encoder")
    parser.add_argument("--data_dir", default="datas/glue", help="folder that holds CoLA")


def finetuning_seconds(lesson: Lesson, folder: str, **more) -> float:
    more |= {"train_sampling_strategy": "group_by_length", "dataloader_pin_memory": False}
    args, collator = arguments(TrainingArguments, folder, **more), DataCollatorWithPadding(lesson.tokenizer)
    student = copy.deepcopy(lesson.student)
    return trained(Trainer(model=student, args=args, train_dataset=lesson.rows, data_collator=collator))


def published_seconds(lesson: Lesson, rows: Dataset) -> float:
    student = copy.deepcopy(lesson.student)
    teacher = copy.deepcopy(lesson.teacher).to(student.device)  # sinkd sends it away when it has answered
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-5, eps=1e-8, weight_decay=0.0)
    sinkhorn = published_sinkhorn("lorentz")
    student.train()
    started = time.perf_counter()
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(rows), BATCH):
        columns = rows[order[start : start + BATCH]]
        labels = torch.tensor(columns.pop("labels"), device=student.device)
        columns.pop("length")
        batch = lesson.tokenizer.pad(columns, padding="max_length", max_length=LENGTH, return_tensors="pt").to(
            student.device
        )
        shown = {"output_hidden_states": True, "output_attentions": True}
        logits = student(**batch, **shown).logits
        with torch.no_grad():
            taught = teacher(**batch, **shown).logits
        loss = 0.9 * kd(logits, taught, 1.0) + 0.1 * hard_label_loss(logits, labels) + 0.8 * sinkhorn(logits, taught)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    device.wait()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_lesson(parser)
    parser.add_argument("--rows", type=int, default=640, help="rows a round; the published arm takes a quarter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/pipeline.json"), help="where the JSON goes")
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device, default=False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    lesson = Lesson(given.encoder, given.data_dir, given.rows)
    few = lesson.rows.select(range(given.rows // 4))
    for model in (lesson.teacher, lesson.student):
        model.to(given.device)

    def sinkd(**more) -> float:
        return given.rows / trained(lesson.trainer(folder, **more))

    def finetuning(**more) -> float:
        return given.rows / finetuning_seconds(lesson, folder, **more)

    def published() -> float:
        return len(few) / published_seconds(lesson, few)

    arms = {"sinkd": sinkd, "fine-tuning": finetuning, "published": published}
    if device.on_cuda() or multiplies_bfloat16():
        arms = {"sinkd, bf16": partial(sinkd, bf16=True), "fine-tuning, bf16": partial(finetuning, bf16=True), **arms}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SINKD_CACHE"] = folder
        started = time.perf_counter()
        sinkd()
        first = time.perf_counter() - started
        for name in arms:
            if name not in ("sinkd", "published"):
                arms[name]()  # to warm up; bf16 fills a cache of its own
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(given.rounds):
            for name, measured in arms.items():
                speeds[name].append(measured())
        cache = first - given.rows / statistics.median(speeds["sinkd"])

    ours = [name for name in arms if name.startswith("sinkd")]
    columns = ["", "rows/s", *(column for name in ours for column in (f"{name} is", "range"))]
    table = Table(f"Distillation of {given.rows} rows of CoLA ({machine()})", columns)
    ratios: dict[str, dict[str, float]] = {name: {} for name in ours}
    for name, found in speeds.items():
        cells = []
        for mine in ours:
            each = [fast / slow for fast, slow in zip(speeds[mine], found, strict=True)]
            ratios[mine][name] = statistics.median(each)
            cells += [f"{ratios[mine][name]:.2f}x", f"{min(each):.2f} to {max(each):.2f}"]
        table.add(name, f"{statistics.median(found):.1f}", *cells)
    table.note = f"the teacher's {given.rows} answers were cached once before, in about {cache:.1f} s with start-up"
    publish("pipeline", given.out, table, rows=given.rows, speeds=speeds, ratios=ratios)


if __name__ == "__main__":
    main()
