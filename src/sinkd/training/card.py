"""The model card of a run: `README.md` in the output folder, as the hub shows it beside a model.

It says what the run's own files say, and nothing that was not measured.
"""

import copy
import platform
import shlex
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

import sinkd
from sinkd.errors import SinkdError
from sinkd.tasks import Task
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.inference import Model, make_evaluator, megabytes, parameters
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Outcome, read_outcome
from sinkd.training.teacher import Teacher
from sinkd.training.trainer import TaskTrainer

TEMPLATE = Path(__file__).with_name("card.md")
DATASETS = {"glue": "nyu-mll/glue", "superglue": "aps/super_glue"}  # what the hub calls them
# Settings of a run that its card tells beside the objective's.
TOLD = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "protocol",
)
# Fields of a distillation that are no part of its objective.
ELSEWHERE = {
    "teacher_path", "student_path", "teacher_cache", "teacher_cache_dir", "teacher_cache_dtype", "distill_loss", *TOLD,
    "per_device_eval_batch_size",
}  # fmt: skip

CITATION = """\
@inproceedings{cui-etal-2024-sinkhorn,
  title     = {Sinkhorn Distance Minimization for Knowledge Distillation},
  author    = {Cui, Xiao and Qin, Yulei and Gao, Yuting and Zhang, Enwei and Xu, Zihan and Wu, Tong and Li, Ke and \
Sun, Xing and Zhou, Wengang and Li, Houqiang},
  booktitle = {Proceedings of LREC-COLING 2024},
  year      = {2024},
  note      = {arXiv:2402.17110}
}"""


@dataclass(frozen=True)
class TeacherScores:
    """What the teacher reaches on the dev set, and where that was found."""

    scores: dict[str, float]
    source: str


def teacher_scores(args: TaskArguments, task: Task, teacher: Teacher | None) -> TeacherScores | None:
    """The teacher's dev scores, as its own run reported on this very file, or measured now; None without a teacher.

    Only a teacher that this run has loaded is measured: one that was asked elsewhere may not fit beside a student.
    """
    path = getattr(args, "teacher_path", None)
    if path is None:
        return None
    folder = Path(path)
    outcome, manifest = read_outcome(folder), read_manifest(folder)
    if outcome is not None and manifest is not None and outcome.task == task.name:
        fingerprints = {f"{split} file": task.fingerprint(split) for split in task.dev_splits}
        if fingerprints.items() <= manifest.inputs.items():
            return TeacherScores(outcome.scores, "as its own run reports")
    if teacher is None or not teacher.loaded or args.world_size > 1:
        return TeacherScores(
            {}, "not known, since no report on this dev set lies beside it; `sinkd evaluate` measures it"
        )
    evaluator = make_evaluator(teacher.model, teacher.family, copy.copy(args))
    measured = Model(evaluator, teacher.family).scores()
    timing = {"runtime", "samples_per_second", "epoch"}
    return TeacherScores(
        {name: value for name, value in measured.items() if name not in timing}, "measured by this run"
    )


def write_card(
    trainer: TaskTrainer, args: TaskArguments, task: Task, outcome: Outcome, teacher: TeacherScores | None
) -> ModelCard:
    """Write README.md beside a finished run's model, whose manifest lies there already; return the card."""
    folder = Path(args.output_dir)
    start = getattr(args, "student_path", None) or getattr(args, "model_path", None) or ""
    licence = licence_of(start)
    name = args.hub_model_id or folder.resolve().name
    card = ModelCard.from_template(
        _metadata(trainer, args, task, outcome, start, licence),
        template_path=str(TEMPLATE),
        name=name,
        auto_class=_auto_class(trainer.model),
        summary=_summary(args, task, start),
        results=_results(trainer, outcome, teacher, folder),
        results_note=_results_note(outcome, teacher),
        training=_training(args, task),
        command=shown_command(folder),
        licence=_licence_text(args, start, licence),
        citation=CITATION,
    )
    write_text(folder / "README.md", f"{str(card).rstrip()}\n")
    return card


def licence_of(path: str) -> str | None:
    """What the card in a model's folder says about its licence; None where it says nothing, or is no folder."""
    file = Path(path) / "README.md"
    if not path or not file.is_file():
        return None
    try:
        licence = ModelCard.load(file, ignore_metadata_errors=True).data.get("license")
    except (ValueError, yaml.YAMLError, UnicodeDecodeError):  # a README that is no card
        return None
    return str(licence) if licence else None


def _metadata(
    trainer: TaskTrainer, args: TaskArguments, task: Task, outcome: Outcome, start: str, licence: str | None
) -> ModelCardData:
    classifier = type(trainer.model).__name__.endswith("ForSequenceClassification")
    kind = "text-classification" if classifier else "text-generation"
    family, _, short = task.name.partition("/")
    dataset = DATASETS.get(family)
    result = EvalResult(
        task_type=kind,
        dataset_type=dataset or task.name,
        dataset_name=task.name,
        dataset_config=short.replace("-", ""),
        dataset_split="validation",
        metric_type={"mcc": "matthews_correlation"}.get(outcome.metric, outcome.metric),
        metric_value=round(outcome.best, 4),
        metric_name=outcome.metric,
    )
    distilled = isinstance(args, DistillationArguments)
    return ModelCardData(
        model_name=args.hub_model_id or Path(args.output_dir).resolve().name,
        library_name="transformers",
        tags=["sinkd", *(["knowledge-distillation"] if distilled else [])],
        license=licence,
        language="en" if dataset else None,
        datasets=[dataset] if dataset else None,
        metrics=[result.metric_type],
        # The hub takes names on the hub alone.
        base_model=start if start and not Path(start).exists() else None,
        pipeline_tag=kind,
        eval_results=[result],
    )


def _auto_class(model: Any) -> str:
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "AutoModelForSequenceClassification"
    return "AutoModelForSeq2SeqLM" if model.config.is_encoder_decoder else "AutoModelForCausalLM"


def _summary(args: TaskArguments, task: Task, start: str) -> str:
    kind = "scores" if task.regression else f"{', '.join(task.labels)}"
    answers = f"It answers with {kind}." if kind else ""
    if isinstance(args, DistillationArguments):
        taught = f", taught by `{args.teacher_path}`" if args.teacher_path else ""
        return f"A student for {task.name}: `{start}`{taught}, trained with sinkd {sinkd.__version__}. {answers}"
    return f"A teacher for {task.name}: `{start}`, fine-tuned with sinkd {sinkd.__version__}. {answers}"


def _results(trainer: TaskTrainer, outcome: Outcome, teacher: TeacherScores | None, folder: Path) -> str:
    names = list(outcome.scores)
    rows = [["this model", *(f"{outcome.scores[name]:.4f}" for name in names)]]
    if teacher is not None and teacher.scores:
        rows.append(
            ["its teacher", *(f"{teacher.scores[name]:.4f}" if name in teacher.scores else "" for name in names)]
        )
    speeds = [entry["samples_per_second"] for entry in outcome.history if "samples_per_second" in entry]
    facts = [["parameters", f"{parameters(trainer.model):,}"], ["MB on disk", f"{megabytes(folder):.2f}"]]
    if speeds:
        facts.append([f"dev rows a second, {_machine()}", f"{speeds[-1]:,.0f}"])
    return f"{_table(['dev set', *names], rows)}\n{_table(['size and speed', ''], facts)}"


def _results_note(outcome: Outcome, teacher: TeacherScores | None) -> str:
    note = f"The epoch or step with the best {outcome.metric} on the dev set was kept"
    count = len(outcome.history)
    note += f" ({count} evaluation{'s' * (count > 1)}; after the last step {outcome.final:.4f})."
    return note if teacher is None else f"{note} The teacher's scores: {teacher.source}."


def _training(args: TaskArguments, task: Task) -> str:
    shown: dict[str, Any] = {
        "data": f"{task.name} ({', '.join(path.name for path in task.files.values() if path.is_file())})"
    }
    if isinstance(args, DistillationArguments):
        objective = args.parse_objective()
        shown |= {
            "teacher": args.teacher_path,
            "objective": f"`{objective}`",
            **_objective_settings(args, args.objective_flags(objective)),
        }
    shown |= {name: getattr(args, name) for name in TOLD}
    return _table(["", ""], [[name, _shown(value)] for name, value in shown.items() if value is not None])


def _objective_settings(args: DistillationArguments, flags: Collection[str]) -> dict[str, Any]:
    """What decides the objective beside its text: its terms' own flags, and any that is not at its default."""
    elsewhere = {f.name for f in fields(TaskArguments)} | ELSEWHERE
    values = {f.name: (getattr(args, f.name), f.default) for f in fields(args) if f.name not in elsewhere}
    return {name: value for name, (value, default) in values.items() if name in flags or value != default}


def shown_command(folder: Path) -> str:
    """What made the run in a folder, as a shell takes it."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise SinkdError(f"{folder} has no manifest, and a card tells the command from it")
    program, *words = manifest.argv
    if program == "__main__.py":
        program = "python -m sinkd"
    elif program.endswith(".py"):
        program = f"python3 {shlex.quote(program)}"
    return " ".join([program, *map(shlex.quote, words)])


def _licence_text(args: TaskArguments, start: str, licence: str | None) -> str:
    came = f"`{start}`" + (f" and `{args.teacher_path}`" if getattr(args, "student_init", "") == "copy" else "")
    what = f"The weights come from {came}, " + (
        f"whose licence is {licence}." if licence else "whose licence holds for them too."
    )
    return f"{what} The data has terms of its own. sinkd itself is Apache-2.0."


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in [head, *rows]]
    lines.insert(1, "|---|" + "---:|" * (len(head) - 1))
    return "\n".join(lines) + "\n"
