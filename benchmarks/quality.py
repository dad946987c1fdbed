"""Task x objective x seeds: mean, spread, and the paired difference to kd.

    python -m benchmarks.quality --encoder models/minilm --data_dir datas/glue

A 6-layer encoder is fine-tuned on SST-2's training rows and teaches its own layers 0, 2, 4, the student's start. Every
objective trains the same student on the same rows with the same seeds, so differences to kd are paired by seed. A
score is that of the best epoch on the dev set, as in every run of sinkd; nothing is tuned here, and the table says
what came out. Finished runs are kept: started again, the command goes on where it stopped.
"""

import argparse
import json
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from sinkd.cli.command import load_named_task
from sinkd.report import RunProgress, Table, show
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.outcome import Summary
from sinkd.training.run import distill, finetune
from sinkd.training.settings import resolve_settings

MEAN = ["--sinkhorn_weight", "1", "--sinkhorn_reduction", "mean"]
OBJECTIVES = {
    "ce": ["--distill_loss", "ce"],
    "kd": ["--distill_loss", "kd"],
    **{
        f"kd+sinkhorn, {cost}, {name}": ["--distill_loss", "kd+sinkhorn", "--sinkhorn_cost", cost, *flags]
        for cost in ("l1", "lorentz")
        for name, flags in {
            "published": [],
            "mean": MEAN,
            "mean, pairing 1": [*MEAN, "--pairing", "1"],
            "mean, pairing 4": [*MEAN, "--pairing", "4"],
        }.items()
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="models/minilm", help="folder of a 6-layer BERT encoder")
    parser.add_argument("--data_dir", default="datas/glue", help="folder that holds SST-2")
    parser.add_argument("--rows", type=int, default=3000, help="labelled training rows")
    parser.add_argument("--unlabeled_rows", type=int, default=6000, help="further rows that only the teacher answers")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("experiments/quality"), help="where the runs go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/quality.json"), help="where the JSON goes")
    given = parser.parse_args()

    common = ["--task_name", "sst-2", "--data_dir", given.data_dir, "--max_train_rows", str(given.rows)]
    common += ["--num_train_epochs", str(given.epochs), "--save_strategy", "no"]
    teaching = [*common, "--model_path", given.encoder, "--seed", "0", "--output_dir", str(given.folder / "teacher")]
    args = resolve_settings(FinetuneArguments, teaching, "quality")
    task = load_named_task(args)
    taught = finetune(args, task, [RunProgress("teacher", task.metric)])

    more = given.folder / f"unlabeled-{given.unlabeled_rows}.txt"
    sentences = task.read("train").select(range(given.rows, given.rows + given.unlabeled_rows))["text"]
    more.write_text("".join(f"{sentence.strip()}\n" for sentence in sentences), encoding="utf-8")
    objectives = {**OBJECTIVES, f"kd, {given.unlabeled_rows} more rows unlabelled": ["--unlabeled_file", str(more)]}

    student = ["--teacher_path", taught.outcomes[0].folder, "--student_path", given.encoder, "--keep_layers", "0,2,4"]
    student += [
        "--alpha",
        "0.9",
        "--beta",
        "0.8",
        "--temperature",
        "2",
        "--batch_size",
        "32",
        "--learning_rate",
        "5e-5",
    ]
    summaries: dict[str, Summary] = {}
    for name, flags in objectives.items():
        folder = given.folder / "".join(letter if letter.isalnum() else "-" for letter in name)
        argv = [*common, *student, "--seeds", given.seeds, "--output_dir", str(folder), *flags]
        args = resolve_settings(DistillationArguments, argv, "quality")
        summaries[name] = distill(args, task, [RunProgress(name, task.metric)])

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    machine += f", transformers {transformers.__version__}, Python {platform.python_version()}"
    seeds = given.seeds.split(",")
    columns = ["objective", *(f"seed {seed}" for seed in seeds), "mean", "spread", "to kd", "its spread", "rows/s"]
    table = Table(f"{task.name}, {given.rows} rows, {given.epochs} epochs: dev {task.metric} ({machine})", columns)
    kd = [outcome.best for outcome in summaries["kd"].outcomes]
    for name, summary in summaries.items():
        best = [outcome.best for outcome in summary.outcomes]
        differences = [100 * (score - base) for score, base in zip(best, kd, strict=True)]
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        speed = statistics.median(outcome.samples_per_second for outcome in summary.outcomes)
        figures = [f"{100 * score:.1f}" for score in (*best, summary.mean, summary.spread)]
        table.add(name, *figures, f"{statistics.fmean(differences):+.1f}", f"{spread:.1f}", f"{speed:.0f}")
    table.note = f"the teacher's dev {task.metric}: {100 * taught.mean:.1f}"
    show(table)
    print(f"\n{table.markdown()}\n{table.note}")
    results = {name: asdict(summary) for name, summary in summaries.items()}
    content = {
        "command": " ".join(["python -m benchmarks.quality", *sys.argv[1:]]),
        "machine": machine,
        "teacher": asdict(taught),
        "objectives": results,
    }
    given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
