"""A run trains a model on a task with one seed, and leaves the best model and a manifest in its folder.

`finetune` and `distill` repeat it for each seed. In an empty folder a run starts; in one with the same manifest it
resumes from the last checkpoint, or returns its outcome; another manifest is an error.
"""

import functools
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from sinkd.errors import SinkdError, Terminated
from sinkd.models import Family, choose_layers, copy_layers, depth, family_of, keep_layers, stack, student_and_teachers
from sinkd.models.config import load_config
from sinkd.models.family import positions
from sinkd.models.tokenizer import different_tokens
from sinkd.tasks import Task
from sinkd.tasks.encode import tokenizer_hash
from sinkd.training.arguments import DistillationArguments, FinetuneArguments, TaskArguments
from sinkd.training.checkpoint import last_checkpoint, write_text
from sinkd.training.distillation import DistillationTrainer
from sinkd.training.ensemble import Ensemble
from sinkd.training.fingerprint import fingerprint_model
from sinkd.training.folder import claim, clear, keep_inputs, locked
from sinkd.training.inference import teacher_scores
from sinkd.training.manifest import read_manifest
from sinkd.training.outcome import TIMING, Outcome, Summary, write_results
from sinkd.training.resumable import BEST
from sinkd.training.schedule import published_interval
from sinkd.training.teacher import OnRows
from sinkd.training.teacher_cache import Answers
from sinkd.training.trainer import TaskTrainer

MakeTrainer = Callable[[Any, Family], TaskTrainer]
TeacherScores = tuple[dict[str, float], str]  # scores, and their source

logger = logging.getLogger(__name__)


def finetune(args: FinetuneArguments, task: Task, callbacks: Sequence[TrainerCallback] = ()) -> Summary:
    """Train `args.model_path` on a task's labels, once for each seed."""
    if not task.labelled:
        raise SinkdError(f"{task.name} has no training rows with labels, and sinkd finetune learns from nothing else")
    path = args.model("model_path")
    family = family_of(task, args, path, "--model_path", to_train=True)

    def trainer(args: FinetuneArguments, family: Family) -> TaskTrainer:
        return TaskTrainer(
            model=_model_to_train(path, "--model_path", family, args), args=args, **_keywords(args, family, callbacks)
        )

    return _each_seed(args, family, trainer, None)


def distill(
    args: DistillationArguments,
    task: Task,
    callbacks: Sequence[TrainerCallback] = (),
    on_teacher_rows: OnRows | None = None,
) -> Summary:
    """Train `args.student_path` under the objective that the arguments name, once for each seed."""
    objective = args.objective_for(task)
    left_out = args.parse_objective().weights.keys() - objective.weights.keys()
    if left_out and args.process_index == 0:
        logger.info("no training row has a label: without %s the objective is %s", ", ".join(left_out), objective)
    path = args.model("student_path")
    copies = args.student_init == "copy"
    if args.copy_layers is not None and not copies:
        raise SinkdError("--copy_layers says which layers of the teacher are copied; give --student_init copy with it")
    needed = bool(objective.teacher_needs) or copies
    teachers = None
    if needed or args.teacher_path or args.teacher_url:
        student, families = student_and_teachers(task, args)
        teachers = Ensemble.of(args, families) if needed else None
    else:
        student = family_of(task, args, path, "--student_path", to_train=True)
    if copies:
        assert teachers is not None
        if type(teachers.first.family) is not type(student):
            raise SinkdError(
                "--student_init copy copies a classifier's layers, and the teacher is a language model; leave it out"
            )
        if difference := teachers.first.differs_from(student):
            raise different_tokens(difference, " where layers are copied")

    def trainer(args: DistillationArguments, student: Family) -> DistillationTrainer:
        model = _model_to_train(path, "--student_path", student, args)
        if copies:
            assert teachers is not None
            source = teachers.first.model
            layers = choose_layers(args.copy_layers or "first", depth(source), "--copy_layers", depth(model))
            copy_layers(model, source, layers)
        return DistillationTrainer(
            model=model,
            teacher=teachers,
            objective=args.objective_for(task),
            args=args,
            on_teacher_rows=on_teacher_rows,
            **_keywords(args, student, callbacks),
        )

    return _each_seed(args, student, trainer, teachers)


def cache_teacher(args: DistillationArguments, task: Task, on_rows: OnRows | None = None) -> list[Answers]:
    """Compute and cache the answers of the teachers that `distill` needs; several processes may share the work.

    Returns:
        The answers of each teacher; of each seed if each seed draws its own rows.

    Raises:
        SinkdError: if the objective needs nothing that can be cached.
    """
    objective = args.objective_for(task)
    student, families = student_and_teachers(task, args)
    student.refuse(args)
    teachers = Ensemble.of(args, families)
    teachers.check(objective, student)
    if objective.compares_layers:
        # The student's depth decides which of the teacher's layers are needed.
        learner = stack(load_config(args.model("student_path"), "--student_path"))
        if args.keep_layers is not None:
            layers = choose_layers(args.keep_layers, learner.layers, "--keep_layers")
            learner = learner._replace(layers=len(layers))
        objective.bind(learner, teachers.first.stack)
    if not objective.kept:
        raise SinkdError(f"the objective {objective} needs nothing of a teacher that can be kept; distill asks it live")
    stores = []
    for seed in args.seed_list:
        reads = student.for_seed(seed)
        taught = teachers.ask(
            objective, reads, reads.train, reads.collator, replace(args, seed=seed, teacher_cache="auto"), on_rows
        )
        stores += [answers for answers in taught.teachers if isinstance(answers, Answers)]
    return list({answers.home: answers for answers in stores}.values())


def _model_to_train(path: str, flag: str, family: Family, args: TaskArguments) -> PreTrainedModel:
    set_seed(args.seed)  # so that a new random head depends only on the seed
    model = family.load(path, flag, to_train=True, overrides=_overrides(args.config_overrides))
    if args.keep_layers is not None:
        keep_layers(model, choose_layers(args.keep_layers, depth(model), "--keep_layers"))
    return model


def _keywords(args: TaskArguments, family: Family, callbacks: Sequence[TrainerCallback]) -> dict[str, Any]:
    args.disable_tqdm = True
    published = args.protocol == "published"
    distills = isinstance(args, DistillationArguments)
    return {
        "family": family,
        "train_dataset": family.train,
        "eval_dataset": family.dev,
        "interval": published_interval(family.task.name, distills) if published else None,
        "callbacks": list(callbacks),
    }


def _each_seed(args: Any, family: Family, trainer: MakeTrainer, teachers: Ensemble | None) -> Summary:
    family.refuse(args)
    taught = functools.cache(lambda: teacher_scores(args, family.task, teachers))
    run = functools.partial(_run, family=family, make_trainer=trainer, taught=taught)
    if args.seeds is None:
        keep_inputs(args)
        return Summary([run(args)])
    if args.push_to_hub:
        raise SinkdError("--push_to_hub and --seeds would push several models to one place; give one seed to push")
    root = Path(args.output_dir)
    if args.should_save and (root / "manifest.json").exists():
        if not args.overwrite:
            raise SinkdError(f"{root} holds a run of one seed; choose another folder for --seeds, or --overwrite")
        clear(root)
        (root / "manifest.json").unlink()
    runs = [replace(args, seed=seed, seeds=None, output_dir=str(root / f"seed-{seed}")) for seed in args.seed_list]
    for args_of_run in runs:
        keep_inputs(args_of_run)
    summary = Summary([run(args_of_run) for args_of_run in runs])
    if args.should_save:
        write_text(root / "metrics.json", json.dumps(asdict(summary), indent=1) + "\n")
    return summary


def _run(args: Any, family: Family, make_trainer: MakeTrainer, taught: Callable[[], TeacherScores]) -> Outcome:
    folder = Path(args.output_dir)
    family = family.for_seed(args.seed)
    args.template_name = family.template_name  # for the manifest, and so for evaluation
    with locked(folder, args.should_save):
        trainer = make_trainer(args, family)
        trainer.remove_callback(PrinterCallback)
        family.refuse_long_rows(positions(trainer.model), family.train, *family.dev.values())
        with args.main_process_first():
            finished = claim(folder, args, _inputs(trainer, family))
        if finished is not None:
            return finished
        started = time.perf_counter()
        resume = last_checkpoint(folder)
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        except KeyboardInterrupt as stop:
            kept = last_checkpoint(folder) or "what the teacher has answered"
            raise KeyboardInterrupt(f"interrupted; {kept} is kept, and the same command goes on from there") from stop
        if trainer.state.global_step < trainer.state.max_steps and trainer.schedule.terminated:
            raise Terminated(f"stopped at step {trainer.state.global_step}; the same command resumes from there")
        seconds = time.perf_counter() - started
        _record_balances(folder, trainer)
        trainer.adopt_best()
        outcome = _outcome(trainer, family.task, args, seconds, taught())
        if args.should_save:
            content = {name: value for name, value in asdict(outcome).items() if name != "folder"}
            write_text(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
            if family.names:
                write_results(folder / "results.csv", family.names, outcome)
            # Last, so that a run that is killed before this line still has its best model.
            shutil.rmtree(folder / BEST, ignore_errors=True)
        if trainer.schedule.terminated:  # too late to stop this run, but not the next ones
            raise Terminated(f"{folder} is finished; the same command continues with the next run")
        return outcome


def _inputs(trainer: TaskTrainer, family: Family) -> dict[str, str]:
    """Fingerprints of everything that determines a run, except its settings."""
    splits = (*family.task.train_splits, *family.task.dev_splits)
    read = {f"{split} file": family.task.fingerprint(split) for split in splits}
    read["starting model"] = fingerprint_model(trainer.model)
    read["tokenizer"] = tokenizer_hash(family.tokenizer)
    if isinstance(trainer, DistillationTrainer) and trainer.teachers is not None:
        read |= trainer.teachers.inputs(family)
    return read | family.fingerprints


def _record_balances(folder: Path, trainer: TaskTrainer) -> None:
    """Add to the manifest what is only known once the teachers have answered."""
    teachers = trainer.teachers if isinstance(trainer, DistillationTrainer) else None
    manifest = read_manifest(folder)
    if teachers is not None and teachers.balances and manifest is not None and trainer.args.should_save:
        replace(manifest, balances=teachers.balances).write(folder)


def _outcome(trained: TaskTrainer, task: Task, args: TaskArguments, seconds: float, taught: TeacherScores) -> Outcome:
    evaluations = [log for log in trained.state.log_history if "eval_runtime" in log]
    if not evaluations and task.dev_splits:
        progress = {"epoch": trained.state.epoch or 0.0, "step": trained.state.global_step}
        evaluations = [trained.evaluate() | progress]
    history = [{name.removeprefix("eval_"): value for name, value in log.items()} for log in evaluations]
    best = max(history, key=lambda entry: entry[task.metric], default={})
    return Outcome(
        task=task.name,
        metric=task.metric,
        best=best.get(task.metric),
        final=history[-1][task.metric] if history else None,
        scores={name: value for name, value in best.items() if name not in TIMING},
        history=history,
        seconds=round(seconds, 3),
        # The Trainer's own figure is of a clock that may be set back.
        samples_per_second=round(len(trained.train_dataset) * (trained.state.epoch or 0.0) / seconds, 3),
        seed=args.seed,
        folder=args.output_dir,
        teacher_scores=taught[0],
        teacher_source=taught[1],
    )


def _overrides(text: str | None) -> dict[str, object]:
    """Parse `"hidden_dropout_prob=0,hidden_act=relu"`; values that are JSON are read as JSON."""
    overrides: dict[str, object] = {}
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise SinkdError(f'--config_overrides holds "{part}"; write name=value, with commas between')
        try:
            overrides[key.strip()] = json.loads(value)
        except ValueError:
            overrides[key.strip()] = value.strip()
    return overrides
