"""Tasks x objectives x seeds on real text: how much a student gains from what else it can imitate.

    python -m benchmarks.study matching --encoder models/minilm --data_dir datas/glue
    python -m benchmarks.study objectives --encoder models/minilm --data_dir datas/glue

A 6-layer encoder is fine-tuned on a task's rows and teaches its own layers 0, 2, 4 on the same rows, in batches of 32
at 1e-4 (alpha 0.9, temperature 2, beta 1). Seeds pair the objectives: same rows in the same order.

- matching: `kd` alone, and with the three things that can be asked of the same pooled hidden states: that each be near
  its teacher's (paired cosine), that the batch be near the teacher's (distance), that each be known by its teacher's
  (matching). The score is the best epoch's on the dev set.
- objectives: every objective for one epoch on CoLA and RTE, one seed: the score after it, and rows per second of
  training, what is cached being cached before.

A line a run goes to `--out` as it ends; started again, the command does what is missing and prints the tables.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from sinkd.cli.command import load_named_task
from sinkd.report import RunProgress, Table, show
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.run import distill, finetune
from sinkd.training.settings import resolve_settings

# matching weighs 0.3 and the other two 3, as first measured on SST-2; 1000 makes the plan the identity
HIDDEN = ["--distill_loss", "kd+sinkhorn_hidden"]
DISTANCE = [*HIDDEN, "--hidden_value", "distance", "--hidden_weight", "3"]
MATCHING = {
    "kd": ["--distill_loss", "kd"],
    "kd + paired cosine": [*DISTANCE, "--hidden_pairing", "1000"],
    "kd + distance": DISTANCE,
    "kd + matching": HIDDEN,
}
NAMES = "ce kd kd+sinkhorn kd+saliency kd_anneal+saliency kd+integrated_saliency kd+mgskd kd+sinkhorn_hidden"
NAMES += " kd+sinkhorn+saliency+mgskd"
OBJECTIVES = {name: ["--distill_loss", name, "--ig_steps", "4"] for name in NAMES.split()}
OBJECTIVES["mgskd alone"] = ["--only_mgskd"]


@dataclass(frozen=True)
class Setting:
    """What is trained on: the first so many rows (None: all), cut to so many tokens, and for how long."""

    rows: int | None
    length: int
    epochs: int
    teacher_epochs: int = 3


STUDIES: dict[str, tuple[dict[str, list[str]], dict[str, Setting]]] = {
    "matching": (
        MATCHING,
        {
            "sst-2": Setting(6000, 64, 3),
            "cola": Setting(None, 64, 3),
            "rte": Setting(None, 128, 2),
            "sts-b": Setting(None, 64, 2),
        },
    ),
    "objectives": (OBJECTIVES, {"cola": Setting(None, 64, 1), "rte": Setting(None, 128, 1)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--encoder", default="models/minilm", help="folder of a 6-layer BERT encoder")
    parser.add_argument("--data_dir", default="datas/glue", help="folder that holds the tasks")
    parser.add_argument("--tasks", help="only these, with commas")
    parser.add_argument("--rows", type=int, help="so many training rows in place of a study's own number")
    parser.add_argument("--seeds", help="with commas (default: 0,1,2 for matching, 0 for objectives)")
    parser.add_argument("--folder", type=Path, default=Path("experiments/study"), help="where teachers and runs go")
    parser.add_argument("--out", type=Path, help="a line a run (default: benchmarks/study-NAME.jsonl)")
    given = parser.parse_args()
    out = given.out or Path(f"benchmarks/study-{given.study}.jsonl")
    objectives, settings = STUDIES[given.study]
    seeds = (given.seeds or ("0,1,2" if given.study == "matching" else "0")).split(",")
    tasks = given.tasks.split(",") if given.tasks else list(settings)

    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for task in tasks:
        setting = settings[task]
        rows = given.rows or setting.rows
        common = ["--task_name", task, "--data_dir", given.data_dir]
        common += ["--max_train_rows", str(rows)] if rows else []
        common += ["--max_seq_length", str(setting.length), "--save_strategy", "no", "--batch_size", "32"]
        teacher = train_teacher(given, task, common, setting)
        for seed in seeds:
            for name, flags in objectives.items():
                if any((run["task"], run["objective"], run["seed"]) == (task, name, int(seed)) for run in done):
                    continue
                argv = [*common, *student(given, teacher), "--seed", seed, *flags]
                argv += ["--num_train_epochs", str(setting.epochs)]
                argv += ["--eval_strategy", "no"] if given.study == "objectives" else []
                run = {"task": task, "objective": name, "seed": int(seed), "rows": rows, **train(given, argv)}
                done.append(run)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run | {"teacher": teacher["best"]}) + "\n")
        report(given.study, task, setting, rows, teacher, [run for run in done if run["task"] == task], objectives)


def train_teacher(given: argparse.Namespace, task: str, common: list[str], setting: Setting) -> dict[str, Any]:
    folder = given.folder / f"{task}-teacher"
    argv = [*common, "--model_path", given.encoder, "--seed", "0", "--output_dir", str(folder)]
    argv += ["--learning_rate", "1e-4", "--num_train_epochs", str(setting.teacher_epochs)]
    args = resolve_settings(FinetuneArguments, argv, "study")
    read = load_named_task(args)
    (outcome,) = finetune(args, read, [RunProgress(f"{task}, teacher", read.metric)]).outcomes
    return {"folder": outcome.folder, "best": outcome.best}


def student(given: argparse.Namespace, teacher: dict[str, Any]) -> list[str]:
    flags = ["--teacher_path", teacher["folder"], "--student_path", given.encoder, "--keep_layers", "0,2,4"]
    return [*flags, "--alpha", "0.9", "--beta", "1", "--temperature", "2", "--learning_rate", "1e-4"]


def train(given: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    folder = given.folder / "run"
    args = resolve_settings(DistillationArguments, [*argv, "--output_dir", str(folder), "--overwrite"], "study")
    task = load_named_task(args)
    (outcome,) = distill(args, task, [RunProgress(f"{task.name}, {args.distill_loss}", task.metric)]).outcomes
    shutil.rmtree(folder)  # a model a run would fill a disk; what a run says of itself is in its line
    scores = {"metric": task.metric, "best": outcome.best, "history": [entry[task.metric] for entry in outcome.history]}
    return {**scores, "rows_per_second": outcome.samples_per_second, "seconds": outcome.seconds}


def report(
    study: str,
    task: str,
    setting: Setting,
    rows: int | None,
    teacher: dict[str, Any],
    runs: list[dict[str, Any]],
    objectives: dict[str, list[str]],
) -> None:
    """Print a task's table: each seed's score, mean and spread, and the difference to kd paired by seed."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    machine += f", transformers {transformers.__version__}, Python {platform.python_version()}"
    seeds = sorted({run["seed"] for run in runs})
    title = (
        f"{task}, {rows or 'all'} rows, {setting.length} tokens, {setting.epochs} epochs: dev {runs[0]['metric']} x 100"
    )
    table = Table(
        title, ["objective", *(f"seed {s}" for s in seeds), "mean", "spread", "to kd", "its spread", "rows/s"]
    )
    score = {(run["objective"], run["seed"]): 100 * run["best"] for run in runs}
    for name in objectives:
        of = [seed for seed in seeds if (name, seed) in score]
        if not of:
            continue
        scores = [score[name, seed] for seed in of]
        gains = [score[name, seed] - score["kd", seed] for seed in of]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in (scores, gains)]
        speed = statistics.median(run["rows_per_second"] for run in runs if run["objective"] == name)
        cells = [f"{score[name, seed]:.1f}" if seed in of else "" for seed in seeds]
        cells += [f"{statistics.fmean(scores):.1f}", f"{spreads[0]:.1f}"]
        table.add(name, *cells, f"{statistics.fmean(gains):+.1f}", f"{spreads[1]:.1f}", f"{speed:.0f}")
    best = f"the teacher's ({setting.teacher_epochs} epochs): {100 * teacher['best']:.1f}"
    table.note = f"{best}; python -m benchmarks.study {' '.join(sys.argv[1:])}; {machine}"
    show(table)
    print(f"\n{table.title}\n\n{table.markdown()}\n{table.note}\n", flush=True)


if __name__ == "__main__":
    main()
