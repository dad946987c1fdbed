"""Does a student choose what its teacher chooses? Language models of a few million parameters, from a random start.

    python -m benchmarks.following --kind t5 --tokenizer models/t5 --data_dir datas/superglue

For each task a teacher learns from the labels, and the same smaller student learns in several ways with several seeds:
from labels alone, under the published objective of language models, and from the teacher's predictions alone. The table
holds dev accuracy and agreement, the share of dev examples on which student and teacher choose the same, each as mean
and spread over the seeds. The tokenizer is a folder with spiece.model (t5), or vocab.json and merges.txt (gpt2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks.models import write_model

from sinkd.cli.command import load_named_task
from sinkd.cli.sweep import run
from sinkd.report import Table, show
from sinkd.sweep.comparison import Result
from sinkd.sweep.sweep import make_sweep
from sinkd.training.inference import Model

VOCABULARIES = {"t5": 32128, "gpt2": 50257}
OBJECTIVES = {
    "labels alone": {"distill_loss": "ce:1"},
    "published": {"distill_loss": "ce:1+kl:0.1+sinkhorn:1"},
    "teacher alone": {"distill_loss": "kl:1"},
}
FLAGS = {"per_device_train_batch_size": 8, "report_to": "none", "max_length": 256, "save_strategy": "no"}


def chosen(result: Result) -> np.ndarray:
    """Which choice a trained model takes for each dev example, (n,)."""
    args = result.trial.settings()
    model = Model.load(str(result.trial.folder), load_named_task(args), args)
    (rows,) = model.family.dev.values()
    return model.trainer.answers(rows).argmax(-1)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {deviation:.3f}"


def trained(content: dict[str, object], folder: Path) -> list[Result]:
    """The results of a sweep, all of them finished."""
    results = run(make_sweep(content, "following", folder), folder)
    for result in results:
        if result.outcome is None:
            sys.exit(f"{result.trial.name} crashed: {result.reason}")
    return results


def study(task: str, template: str, options: argparse.Namespace, home: Path) -> dict[str, dict[str, list[float]]]:
    """Scores of the teacher and of each student: {who: {"accuracy": [...], "agreement": [...]}}, one entry a seed."""
    flags = {**FLAGS, "template_name": template, "data_dir": str(options.data_dir)}
    flags |= {"learning_rate": options.learning_rate, "num_train_epochs": options.epochs}
    if options.rows:
        flags |= {"max_train_rows": options.rows, "max_dev_rows": options.rows}
    width, tasks = VOCABULARIES[options.kind], [f"superglue/{task}"]
    start = write_model(home / "T", options.kind, options.tokenizer, 128, 2, width)
    content = {"command": "finetune", "tasks": tasks, "seeds": [0], "flags": {**flags, "model_path": start}}
    (teacher,) = trained(content, home / "taught")
    start = write_model(home / "S", options.kind, options.tokenizer, 64, 1, width)
    flags |= {"student_path": start, "teacher_path": str(teacher.trial.folder)}
    flags |= {"sinkhorn_weight": 0.0008, "temperature": 1}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    students = trained({"tasks": tasks, "objectives": OBJECTIVES, "seeds": seeds, "flags": flags}, home)
    wanted = chosen(teacher)
    scores: dict[str, dict[str, list[float]]] = {}
    for who, result in [("teacher", teacher), *((result.trial.objective, result) for result in students)]:
        entry = scores.setdefault(who, {"accuracy": [], "agreement": []})
        assert result.outcome is not None
        entry["accuracy"].append(result.outcome.best)
        entry["agreement"].append(float((chosen(result) == wanted).mean()))
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
    parser.add_argument("--rows", type=int, help="use only this many of the first rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = Table(f"{options.kind}, from a random start", ["task", "who", "dev accuracy", "agreement"])
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for pair in options.tasks.split(","):
            task, _, template = pair.partition("=")
            found[task] = study(task, template, options, Path(home, task))
            for who, scores in found[task].items():
                table.add(task, who, spread(scores["accuracy"]), spread(scores["agreement"]))
    show(table)
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items()}
        options.out.write_text(json.dumps({"settings": settings, "tasks": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
