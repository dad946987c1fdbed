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
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from sinkd.losses import kd
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective
from sinkd.models import keep_layers, load_encoder, load_tokenizer
from sinkd.report import Table
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.cpu import multiplies_bfloat16
from sinkd.training.distillation import DistillationTrainer

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


def sinkd_seconds(student, teacher, rows, tokenizer, folder: str, **more) -> float:
    return trained(
        DistillationTrainer(
            model=copy.deepcopy(student),
            teacher=teacher,
            objective=Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0),
            args=arguments(DistillationArguments, folder, teacher_cache_dir=folder, **more),
            train_dataset=rows,
            data_collator=Collator(tokenizer),
            processing_class=tokenizer,
        )
    )


def finetuning_seconds(student, rows, tokenizer, folder: str, **more) -> float:
    more |= {"train_sampling_strategy": "group_by_length", "dataloader_pin_memory": False}
    args, collator = arguments(TrainingArguments, folder, **more), DataCollatorWithPadding(tokenizer)
    return trained(Trainer(model=copy.deepcopy(student), args=args, train_dataset=rows, data_collator=collator))


def published_seconds(student, teacher, rows, tokenizer) -> float:
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher).to(student.device)  # sinkd sent it away
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
        batch = tokenizer.pad(columns, padding="max_length", max_length=LENGTH, return_tensors="pt").to(student.device)
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
    parser.add_argument("--encoder", default="models/minilm", help="folder of a 6-layer BERT encoder")
    parser.add_argument("--data_dir", default="datas/glue", help="folder that holds CoLA")
    parser.add_argument("--rows", type=int, default=640, help="rows a round; the published arm takes a quarter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/pipeline.json"), help="where the JSON goes")
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device, default=False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    task = load_task("cola", given.data_dir)
    tokenizer = load_tokenizer(given.encoder, "--encoder")
    # A random sample: the file is not in random order, and its first sentences are longer than most.
    sample = np.random.default_rng(0).permutation(len(task.read("train")))[: given.rows]
    rows = encode(task.read("train").select(sample), tokenizer, LENGTH)
    few = rows.select(range(given.rows // 4))
    teacher = load_encoder(given.encoder, task, "--encoder").eval().to(given.device)
    student = keep_layers(load_encoder(given.encoder, task, "--encoder"), LAYERS).to(given.device)

    def sinkd(**more) -> float:
        return len(rows) / sinkd_seconds(student, teacher, rows, tokenizer, folder, **more)

    def finetuning(**more) -> float:
        return len(rows) / finetuning_seconds(student, rows, tokenizer, folder, **more)

    def published() -> float:
        return len(few) / published_seconds(student, teacher, few, tokenizer)

    arms = {"sinkd": sinkd, "fine-tuning": finetuning, "published": published}
    if device.on_cuda() or multiplies_bfloat16():
        arms |= {"sinkd, bf16": partial(sinkd, bf16=True), "fine-tuning, bf16": partial(finetuning, bf16=True)}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SINKD_CACHE"] = folder
        started = time.perf_counter()
        sinkd()
        first = time.perf_counter() - started
        for name in arms:
            if name not in ("sinkd", "published"):
                arms[name]()  # warms up; bf16 fills a cache of its own
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(given.rounds):
            for name, measured in arms.items():
                speeds[name].append(measured())
        cache = first - len(rows) / statistics.median(speeds["sinkd"])

    ours = [name for name in arms if name.startswith("sinkd")]
    columns = ["", "rows/s", *(column for name in ours for column in (f"{name} is", "range"))]
    table = Table(f"Distillation of {len(rows)} rows of CoLA ({machine()})", columns)
    ratios: dict[str, dict[str, float]] = {name: {} for name in ours}
    for name, found in speeds.items():
        cells = []
        for mine in ours:
            each = [fast / slow for fast, slow in zip(speeds[mine], found, strict=True)]
            ratios[mine][name] = statistics.median(each)
            cells += [f"{ratios[mine][name]:.2f}x", f"{min(each):.2f} to {max(each):.2f}"]
        table.add(name, f"{statistics.median(found):.1f}", *cells)
    table.note = f"the teacher's {len(rows)} answers were cached once before, in about {cache:.1f} s with start-up"
    publish("pipeline", given.out, table, rows=len(rows), speeds=speeds, ratios=ratios)


if __name__ == "__main__":
    main()
