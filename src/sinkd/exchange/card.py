"""The model card of a run: `README.md` in its folder, which the hub shows beside a model.

It is made from the run's files (`card.md` is the template), and states only what was measured.
"""

import platform
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

import sinkd
from sinkd.errors import SinkdError
from sinkd.report import Table
from sinkd.tasks import Task
from sinkd.training.arguments import DistillationArguments, TaskArguments
from sinkd.training.checkpoint import write_text
from sinkd.training.hub import push_run
from sinkd.training.inference import megabytes, parameters
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import Outcome, Summary
from sinkd.training.served_arguments import ServedArguments

TEMPLATE = Path(__file__).with_name("card.md")
CARD = "README.md"
DATASETS = {"glue": "nyu-mll/glue", "superglue": "aps/super_glue"}  # their names on the hub
METRICS = {"mcc": "matthews_correlation"}
# Settings that a card shows in addition to the objective's.
SHOWN = (
    "num_train_epochs", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "protocol",
)  # fmt: skip
# Settings of a distillation that are not part of its objective.
ELSEWHERE = {
    "teacher_path",
    "student_path",
    "teacher_cache",
    "teacher_cache_dir",
    "teacher_cache_dtype",
    "teacher_prompt",
    "teacher_answers",
    "distill_loss",
}
ELSEWHERE |= {
    "per_device_eval_batch_size",
    *SHOWN,
    *(f.name for kind in (TaskArguments, ServedArguments) for f in fields(kind)),
}


def publish(args: TaskArguments, task: Task, summary: Summary) -> None:
    """Write the card of each finished run, and push the run if `--push_to_hub` is given.

    An existing card is not replaced, since its owner may have edited it.
    """
    if args.should_save:
        for outcome in summary.outcomes:
            if not Path(outcome.folder, CARD).exists():
                write_card(args, task, outcome)
    if args.push_to_hub:
        push_run(args)


def write_card(args: TaskArguments, task: Task, outcome: Outcome) -> None:
    """Write the card of a finished run from its folder."""
    folder = Path(outcome.folder)
    config = AutoConfig.from_pretrained(folder)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    language_model = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
    start = getattr(args, "student_path", None) or getattr(args, "model_path", None) or ""
    manifest = read_manifest(folder)
    balances = [] if manifest is None else manifest.balances
    name = args.hub_model_id or folder.resolve().name
    card = ModelCard.from_template(
        _metadata(args, name, start, outcome, "text-classification" if classifies else "text-generation"),
        template_path=str(TEMPLATE),
        name=name,
        task=task.name,
        distilled=isinstance(args, DistillationArguments),
        start=start,
        teacher="`, `".join(getattr(args, "teacher_names", ())),
        copied=getattr(args, "student_init", "") == "copy",
        version=sinkd.__version__,
        answers="scores" if task.regression else ", ".join(task.labels),
        auto_class="AutoModelForSequenceClassification" if classifies else language_model,
        outcome=outcome,
        results=_results(outcome).markdown(),
        size=_size(folder, outcome).markdown(),
        training=_training(args, task, outcome.seed, balances).markdown(),
        command=shown_command(folder),
        licence=licence_of(start),
    )
    write_text(folder / CARD, f"{str(card).rstrip()}\n")


def licence_of(path: str) -> str | None:
    """The licence in the card of a model's folder; None if there is none, or if `path` is not a folder."""
    file = Path(path) / CARD
    if not path or not file.is_file():
        return None
    try:
        licence = ModelCard.load(file, ignore_metadata_errors=True).data.get("license")
    except (ValueError, yaml.YAMLError, UnicodeDecodeError):  # a README that is not a card
        return None
    return str(licence) if licence else None


def shown_command(folder: Path) -> str:
    """The shell command of the run in a folder."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise SinkdError(f"{folder} has no manifest.json, from which a card takes the command")
    program, *words = manifest.argv
    if program == "__main__.py":
        program = "python -m sinkd"
    elif program.endswith(".py"):
        program = f"python3 {shlex.quote(program)}"
    return " ".join([program, *(shlex.quote(word) for word in words if word != "--traceback")])


def objective_settings(args: DistillationArguments) -> dict[str, Any]:
    """Settings of the objective in addition to its text: its terms' options, and others that are not defaults."""
    shown = args.objective_flags(args.parse_objective())
    values = {f.name: (getattr(args, f.name), f.default) for f in fields(args) if f.name not in ELSEWHERE}
    return {name: value for name, (value, default) in values.items() if name in shown or value != default}


def _metadata(args: TaskArguments, name: str, start: str, outcome: Outcome, kind: str) -> ModelCardData:
    family, _, short = outcome.task.partition("/")
    dataset = DATASETS.get(family)
    results = []
    if outcome.best is not None:
        result = EvalResult(
            task_type=kind,
            dataset_type=dataset or outcome.task,
            dataset_name=outcome.task,
            dataset_config=short.replace("-", ""),
            dataset_split="validation",
            metric_type=METRICS.get(outcome.metric, outcome.metric),
            metric_value=round(outcome.best, 4),
            metric_name=outcome.metric,
        )
        results.append(result)
    return ModelCardData(
        model_name=name,
        library_name="transformers",
        tags=["sinkd", *(["knowledge-distillation"] if isinstance(args, DistillationArguments) else [])],
        license=licence_of(start),
        language="en" if dataset else None,
        datasets=[dataset] if dataset else None,
        metrics=[result.metric_type for result in results] or None,
        base_model=start if start and not Path(start).exists() else None,  # only a name on the hub is accepted
        pipeline_tag=kind,
        eval_results=results or None,
    )


def _results(outcome: Outcome) -> Table:
    table = Table("", ["dev set", *outcome.scores])
    for model, scores in {"this model": outcome.scores, "its teacher": outcome.teacher_scores}.items():
        if scores:
            table.add(model, *(f"{scores[name]:.4f}" if name in scores else "" for name in outcome.scores))
    return table


def _size(folder: Path, outcome: Outcome) -> Table:
    table = Table("", ["size and speed", ""])
    table.add("parameters", f"{parameters(folder):,}")
    table.add("MB on disk", f"{megabytes(folder):.2f}")
    speeds = [entry["samples_per_second"] for entry in outcome.history if "samples_per_second" in entry]
    if speeds:
        threads = torch.get_num_threads()
        processor = f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
        table.add(f"dev rows a second, {machine}", f"{speeds[-1]:,.0f}")
    return table


def _balanced(balance: dict[str, Any]) -> str:
    """Each label's share in the teacher's answers before and after balancing, and the bias of its logit."""
    columns = (balance[name] for name in ("labels", "before", "after", "bias"))
    return ", ".join(
        f"{label} {before:.1%} to {after:.1%} (bias {bias:+.3f})"
        for label, before, after, bias in zip(*columns, strict=True)
    )


def _training(args: TaskArguments, task: Task, seed: int, balances: list[dict[str, Any]]) -> Table:
    given = [*task.files.values(), Path(getattr(args, "unlabeled_file", None) or "")]
    files = [path.name for path in given if path.is_file()]
    shown: dict[str, Any] = {"data": f"{task.name} ({', '.join(files)})"}
    if isinstance(args, DistillationArguments):
        shown["teacher"] = ", ".join(args.teacher_names) or None
        for name in ("teacher_prompt", "teacher_answers"):
            text = getattr(args, name)
            shown[name] = None if text is None else f"`{text}`".replace("\n", "\\n")
        shown |= {"objective": f"`{args.objective_for(task)}`", **objective_settings(args)}
        shown |= {f"teacher {each['teacher']}, balanced": _balanced(each) for each in balances}
    shown |= {name: getattr(args, name) for name in SHOWN} | {"seed": seed}
    table = Table("", ["", ""])
    for name, value in shown.items():
        if value is not None:
            table.add(name, f"{value:g}" if isinstance(value, float) else str(value))
    return table
