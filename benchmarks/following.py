"""Does a student choose what its teacher chooses? Language models of a few million parameters, from a random start.

    python -m benchmarks.following --kind t5 --tokenizer models/t5 --data_dir datas/superglue

For each task a teacher learns from the labels, and the same smaller student learns several ways with several seeds:
from labels alone, under the published objective of language models, and from the teacher's predictions alone. The table
holds dev accuracy and agreement, the share of dev examples on which student and teacher choose the same, each as mean
and spread over the seeds. The tokenizer is a folder with spiece.model (t5), or vocab.json and merges.txt (gpt2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.models import write_model

from sinkd.cli.command import load_named_task
from sinkd.report import Table, show
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.inference import Model
from sinkd.training.outcome import Summary
from sinkd.training.run import distill, finetune
from sinkd.training.settings import resolve_settings

PROGRAM = "following"
VOCABULARIES = {"t5": 32128, "gpt2": 50257}
OBJECTIVES = {
    "labels alone": "ce:1",
    "published": "ce:1+kl:0.1+sinkhorn:1",
    "teacher alone": "kl:1",
}


def chosen(path: str, flags: list[str]) -> np.ndarray:
    """Which choice the model in a folder takes for each dev example, (n,)."""
    args = resolve_settings(FinetuneArguments, [*flags, "--output_dir", path], PROGRAM)
    model = Model.load(path, load_named_task(args), args)
    (rows,) = model.rows.dev.values()
    return model.trainer.answers(rows).argmax(-1)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


def study(task: str, template: str, options: argparse.Namespace, home: Path) -> dict[str, dict[str, list[float]]]:
    """Scores of the teacher and of each student: {who: {"accuracy": [...], "agreement": [...]}}, one entry a seed."""
    flags = ["--dataset_name", "super_glue", "--dataset_config_name", task, "--template_name", template]
    flags += ["--data_dir", str(options.data_dir), "--learning_rate", str(options.learning_rate)]
    flags += ["--per_device_train_batch_size", "8", "--num_train_epochs", str(options.epochs), "--report_to", "none"]
    flags += ["--max_length", "256", "--weight_decay", "0.01", "--save_strategy", "no"]
    if options.rows:
        flags += ["--max_train_rows", str(options.rows), "--max_dev_rows", str(options.rows)]
    base, width = home / task, VOCABULARIES[options.kind]
    teacher = [*flags, "--model_path", write_model(base / "T", options.kind, options.tokenizer, 128, 2, width)]
    args = resolve_settings(
        FinetuneArguments, [*teacher, "--seed", "0", "--output_dir", str(base / "taught")], "following"
    )
    scores = {"teacher": {"accuracy": [finetune(args, load_named_task(args)).mean], "agreement": [1.0]}}
    wanted = chosen(str(base / "taught"), flags)
    start = write_model(base / "S", options.kind, options.tokenizer, 64, 1, width)
    for who, objective in OBJECTIVES.items():
        output = base / who.replace(" ", "-")
        words = [*flags, "--student_path", start, "--teacher_path", str(base / "taught"), "--distill_loss", objective]
        words += ["--sinkhorn_weight", "0.0008", "--seeds", options.seeds, "--output_dir", str(output)]
        words += ["--temperature", "1"]
        args = resolve_settings(DistillationArguments, words, PROGRAM)
        summary: Summary = distill(args, load_named_task(args))
        agreement = [float((chosen(run.folder, flags) == wanted).mean()) for run in summary.outcomes]
        scores[who] = {"accuracy": [run.best for run in summary.outcomes], "agreement": agreement}
        print(task, who, scores[who], flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("t5", "gpt2"), default="t5")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, default=Path("datas/superglue"))
    parser.add_argument("--tasks", default="copa=by letter,cb=what follows", help="task=template, with commas between")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, help="use the first so many rows only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = Table(f"{options.kind}, from a random start", ["task", "who", "dev accuracy", "agreement"])
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for pair in options.tasks.split(","):
            task, _, template = pair.partition("=")
            found[task] = study(task, template, options, Path(home))
            for who, scores in found[task].items():
                table.add(task, who, spread(scores["accuracy"]), spread(scores["agreement"]))
    show(table)
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items()}
        options.out.write_text(json.dumps({"settings": settings, "tasks": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
