"""Studies on real text: which objective makes a student better. Tasks x objectives x seeds, as sweeps.

    python -m benchmarks.study matching --encoder models/minilm --data_dir datas/glue

A 6-layer encoder is fine-tuned on a task's rows and teaches its own layers 0, 2, 4 on the same rows, in batches of 32.
Seeds pair the objectives: the same rows in the same order. Nothing is tuned.

- matching: `kd` alone, and with three ways to compare the same pooled hidden states: each with its teacher's (paired
  cosine), the batch with the teacher's (distance), each to be recognised among its teacher's (matching).
- objectives: every objective for one epoch on CoLA and RTE: the score after it, and the speed of training.
- transport: transport of predictions on a small part of SST-2, and `kd` on further rows without labels.

Trials that are finished stay finished: started again, the command runs what is missing.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from sinkd.cli.command import load_named_task
from sinkd.cli.sweep import run, tabulate
from sinkd.report import show
from sinkd.sweep.comparison import Result
from sinkd.sweep.sweep import Sweep, make_sweep

Flags = dict[str, Any]

# matching has weight 0.3 and the other two 3, as first measured on SST-2; pairing 1000 makes the plan the identity
HIDDEN = {"distill_loss": "kd+sinkhorn_hidden"}
DISTANCE = {**HIDDEN, "hidden_value": "distance", "hidden_weight": 3}
NAMES = "ce kd kd+sinkhorn kd+saliency kd_anneal+saliency kd+integrated_saliency kd+mgskd kd+sinkhorn_hidden"
NAMES += " kd+sinkhorn+saliency+mgskd"
MEAN = {"sinkhorn_weight": 1, "sinkhorn_reduction": "mean"}
VARIANTS = {"published": {}, "mean": MEAN, "mean, pairing 1": {**MEAN, "pairing": 1}}
VARIANTS["mean, pairing 4"] = {**MEAN, "pairing": 4}
MORE = "kd, twice as many rows unlabelled"


@dataclass(frozen=True)
class Study:
    """Objectives and tasks with the flags of each, the flags of every student, and the epochs of a teacher."""

    objectives: dict[str, Flags]
    tasks: dict[str, Flags]
    flags: Flags = field(default_factory=lambda: {"learning_rate": 1e-4, "beta": 1})
    teacher_epochs: int = 3
    seeds: str = "0,1,2"


STUDIES = {
    "matching": Study(
        {
            "kd": {},
            "kd + paired cosine": {**DISTANCE, "hidden_pairing": 1000},
            "kd + distance": DISTANCE,
            "kd + matching": HIDDEN,
        },
        {
            "sst-2": {"max_train_rows": 6000, "max_seq_length": 64, "num_train_epochs": 3},
            "cola": {"max_seq_length": 64, "num_train_epochs": 3},
            "rte": {"max_seq_length": 128, "num_train_epochs": 2},
            "sts-b": {"max_seq_length": 64, "num_train_epochs": 2},
        },
    ),
    "objectives": Study(
        {**{name: {"distill_loss": name} for name in NAMES.split()}, "mgskd alone": {"only_mgskd": True}},
        {"cola": {"max_seq_length": 64}, "rte": {"max_seq_length": 128}},
        {"learning_rate": 1e-4, "beta": 1, "num_train_epochs": 1, "ig_steps": 4, "eval_strategy": "no"},
        seeds="0",
    ),
    "transport": Study(
        {
            "ce": {"distill_loss": "ce"},
            "kd": {},
            **{
                f"kd+sinkhorn, {cost}, {name}": {"distill_loss": "kd+sinkhorn", "sinkhorn_cost": cost, **flags}
                for cost in ("l1", "lorentz")
                for name, flags in VARIANTS.items()
            },
            MORE: {},
        },
        {"sst-2": {"max_train_rows": 3000, "num_train_epochs": 2}},
        {"learning_rate": 5e-5, "beta": 0.8},
        teacher_epochs=2,
    ),
}


def sweeps(study: Study, task: str, given: argparse.Namespace) -> tuple[Sweep, Sweep]:
    """Sweeps for a task's teacher and for its students."""
    rows = {"max_train_rows": given.rows} if given.rows else {}
    flags = {**study.tasks[task], **rows, "data_dir": given.data_dir, "batch_size": 32, "save_strategy": "no"}
    of_teacher = {**flags, "num_train_epochs": study.teacher_epochs, "model_path": given.encoder}
    of_teacher["learning_rate"] = study.flags["learning_rate"]
    home = given.folder / f"teacher-{flags.get('max_train_rows', 'all')}-rows-{study.teacher_epochs}-epochs"
    teacher = {"command": "finetune", "tasks": [task], "seeds": [0], "flags": of_teacher}
    taught = make_sweep(teacher, "the teacher", home)
    objectives = {name: {"distill_loss": "kd", **flags} for name, flags in study.objectives.items()}
    if given.only:
        objectives = {name: objectives[name] for name in given.only}
    if MORE in objectives:
        objectives[MORE]["unlabeled_file"] = str(unlabeled(given.folder, task))
    of_students = {"teacher_path": str(taught.trials[0].folder), "student_path": given.encoder}
    of_students |= {"keep_layers": "0,2,4", "alpha": 0.9, "temperature": 2, **study.flags, **flags}
    students = {"tasks": [task], "objectives": objectives, "baseline": "kd", "flags": of_students}
    return taught, make_sweep(students, given.study, given.folder / given.study, given.seeds or study.seeds)


def unlabeled(folder: Path, task: str) -> Path:
    """The file of a task's rows without labels."""
    return folder / f"{task}-unlabeled.txt"


def run_task(study: Study, task: str, given: argparse.Namespace) -> list[Result]:
    """Train a task's teacher and students, print the comparison, and return the students' results."""
    taught, students = sweeps(study, task, given)
    folder = given.folder / given.study
    (teacher,) = run(taught, taught.trials[0].folder.parents[1])
    if teacher.outcome is None:
        sys.exit(f"the teacher crashed: {teacher.reason}")
    if MORE in study.objectives:
        settings = taught.trials[0].settings()
        raw, first = load_named_task(settings).read("train"), settings.max_train_rows or 0
        sentences = raw.select(range(first, min(len(raw), 3 * first)))["text"]
        text = "".join(f"{sentence.strip()}\n" for sentence in sentences)
        unlabeled(given.folder, task).write_text(text, encoding="utf-8")
    results = run(students, folder)
    for result in results:  # a model for each trial would fill a disk; a trial is finished without it
        (result.trial.folder / "model.safetensors").unlink(missing_ok=True)
    table = tabulate(results, "kd", folder)
    table.title = f"{task}: best dev score"
    table.note += f"; the teacher's: {teacher.outcome.best:.4f}; {machine()}"
    print(flush=True)
    show(table)
    print(f"\n{table.markdown()}", flush=True)
    return results


def machine() -> str:
    """The machine and the versions, in one line."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{platform.machine()}, one thread a trial, {versions}, Python {platform.python_version()}"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--encoder", default="models/minilm", help="folder of a 6-layer BERT encoder")
    parser.add_argument("--data_dir", default="datas/glue", help="folder that holds the tasks")
    parser.add_argument("--tasks", help="only these tasks, with commas")
    parser.add_argument("--only", nargs="+", help="only these objectives; kd, with which they are compared, among them")
    parser.add_argument("--rows", type=int, help="training rows, in place of the study's own number")
    parser.add_argument("--seeds", help="seeds with commas, in place of the study's")
    parser.add_argument("--folder", type=Path, default=Path("experiments/study"), help="where teachers and runs go")
    parser.add_argument("--out", type=Path, help="results as JSON (default: benchmarks/study-NAME.json)")
    return parser


def main() -> None:
    given = parser().parse_args()
    study = STUDIES[given.study]
    tasks = given.tasks.split(",") if given.tasks else list(study.tasks)
    results = [result for task in tasks for result in run_task(study, task, given)]
    runs = [
        {
            "objective": result.trial.objective,
            "reason": result.reason,
            **(asdict(result.outcome) if result.outcome else {}),
        }
        for result in results
    ]
    out = given.out or Path(f"benchmarks/study-{given.study}.json")
    command = " ".join(["python -m benchmarks.study", *sys.argv[1:]])
    out.write_text(json.dumps({"command": command, "machine": machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
