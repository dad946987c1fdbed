"""Rows per second of distillation, beside plain fine-tuning and beside the published procedure.

    python -m benchmarks.pipeline --encoder models/minilm --data_dir datas/glue

On CoLA's training text, a 6-layer encoder teaches its own layers 0, 2, 4, in batches of 16, with dropout as the models
come. Three arms take turns, round by round in one process, each on the same rows from the same weights:

- sinkd: `DistillationTrainer`, kd + sinkhorn (Lorentz), the teacher's answers cached. On: batches of like length,
  padding to a batch's longest row, embedding rows that no training row uses left out of the update. What filling the
  cache took stands below the table, and in no ratio.
- fine-tuning: `transformers.Trainer` on the same student with hard labels, rows grouped by length, padded likewise.
- published: every row padded to 128 tokens, the teacher run live in every step, both models with eager attention
  returning all hidden states and attentions, the loss written plainly; the same AdamW and clipping.

A figure is the median over rounds; a ratio is the median over rounds of the ratio within the round.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from benchmarks import device
from benchmarks.loss import published as published_sinkhorn
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from sinkd.losses import kd
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective
from sinkd.models import keep_layers, load_encoder, load_tokenizer
from sinkd.report import Table, show
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.arguments import DistillationArguments
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


def sinkd_seconds(student, teacher, rows, tokenizer, folder: str) -> float:
    return trained(
        DistillationTrainer(
            model=student,
            teacher=teacher,
            objective=Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0),
            args=arguments(DistillationArguments, folder, teacher_cache_dir=folder),
            train_dataset=rows,
            data_collator=Collator(tokenizer),
            processing_class=tokenizer,
        )
    )


def finetuning_seconds(student, rows, tokenizer, folder: str) -> float:
    args = arguments(TrainingArguments, folder, train_sampling_strategy="group_by_length", dataloader_pin_memory=False)
    collator = DataCollatorWithPadding(tokenizer)
    return trained(Trainer(model=student, args=args, train_dataset=rows, data_collator=collator))


def published_seconds(student, teacher, rows, tokenizer) -> float:
    teacher.to(student.device)  # sinkd sent it away when it had answered
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

    speeds: dict[str, list[float]] = {"sinkd": [], "fine-tuning": [], "published": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SINKD_CACHE"] = folder
        started = time.perf_counter()
        sinkd_seconds(copy.deepcopy(student), teacher, rows, tokenizer, folder)
        first = time.perf_counter() - started
        finetuning_seconds(copy.deepcopy(student), rows, tokenizer, folder)
        for _ in range(given.rounds):
            seconds = sinkd_seconds(copy.deepcopy(student), teacher, rows, tokenizer, folder)
            speeds["sinkd"].append(len(rows) / seconds)
            seconds = finetuning_seconds(copy.deepcopy(student), rows, tokenizer, folder)
            speeds["fine-tuning"].append(len(rows) / seconds)
            seconds = published_seconds(copy.deepcopy(student), copy.deepcopy(teacher), few, tokenizer)
            speeds["published"].append(len(few) / seconds)
        cache = first - len(rows) / statistics.median(speeds["sinkd"])

    machine = f"{device.described()}, torch {torch.__version__}"
    machine += f", transformers {transformers.__version__}, Python {platform.python_version()}"
    table = Table(f"Distillation of {len(rows)} rows of CoLA ({machine})", ["", "rows/s", "sinkd is", "range"])
    result = {
        "command": " ".join(["python -m benchmarks.pipeline", *sys.argv[1:]]),
        "machine": machine,
        "rows": len(rows),
        "speeds": speeds,
        "ratios": {},
    }
    for name, found in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds["sinkd"], found, strict=True)]
        result["ratios"][name] = statistics.median(ratios)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add(name, f"{statistics.median(found):.1f}", f"{statistics.median(ratios):.2f}x", spread)
    table.note = f"the teacher's {len(rows)} answers were cached once before, in about {cache:.1f} s with start-up"
    show(table)
    print(table.markdown())
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
