"""One run: a task, a model and a seed, into a folder that holds the best model and what made it.

`finetune` and `distill` repeat it over the seeds. What a folder already holds decides how a run begins: nothing, and it
starts; the same manifest, and it goes on from the last checkpoint, or is done; another one, and it is refused.
"""

import functools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from sinkd.errors import SinkdError, Terminated
from sinkd.models import (
    choose_layers,
    copy_layers,
    cut_head,
    depth,
    keep_layers,
    shared_tokenizer,
    stack,
)
from sinkd.models.encoder import load_config
from sinkd.tasks import ChoiceTask
from sinkd.tasks.encode import tokenizer_hash
from sinkd.training.answers import Answers
from sinkd.training.arguments import DistillationArguments, FinetuneArguments, TaskArguments
from sinkd.training.card import Teacher, teacher_scores, write_card
from sinkd.training.checkpoint import PARTIAL, is_partial, last_checkpoint, write_text
from sinkd.training.choice_rows import ChoiceRows
from sinkd.training.distillation import DistillationTrainer, ask_once
from sinkd.training.hub import push_run
from sinkd.training.kind import (
    AnyRows,
    AnyTask,
    load_model,
    read_rows,
    read_tokenizer,
    refuse_for_language_models,
    saved_teacher,
    shared_width,
)
from sinkd.training.manifest import describe, read_manifest
from sinkd.training.outcome import Outcome, Summary, read_outcome, write_results
from sinkd.training.schedule import published_interval
from sinkd.training.teacher import SavedTeacher, fingerprint
from sinkd.training.trainer import BEST, TaskTrainer, row_lengths

logger = logging.getLogger(__name__)

LOCK = ".lock"

MakeTrainer = Callable[[Any, AnyRows], TaskTrainer]


def finetune(args: FinetuneArguments, task: AnyTask, callbacks: Sequence[TrainerCallback] = ()) -> Summary:
    """Train `args.model_path` on a task's labels, once for each seed."""
    _need_splits(task)
    refuse_for_language_models(task, args)
    path = _given(args.model_path, "--model_path")
    rows = read_rows(task, read_tokenizer(path, "--model_path", args), args, path, "--model_path", to_train=True)

    def trainer(args: FinetuneArguments, rows: AnyRows) -> TaskTrainer:
        model = _trained_model(path, "--model_path", task, args)
        return TaskTrainer(model=model, args=args, **_keywords(args, rows, callbacks))

    return _each_seed(args, rows, trainer, lambda: None)


def distill(
    args: DistillationArguments,
    task: AnyTask,
    callbacks: Sequence[TrainerCallback] = (),
    on_teacher_rows: Callable[[int, int], None] | None = None,
) -> Summary:
    """Train `args.student_path` under the objective that the arguments name, once for each seed."""
    _need_splits(task)
    refuse_for_language_models(task, args)
    objective = args.parse_objective()
    student_path = _given(args.student_path, "--student_path")
    taught = bool(objective.teacher_needs) or args.student_init == "copy"
    if args.copy_layers is not None and args.student_init != "copy":
        raise SinkdError("--copy_layers says which layers of the teacher are copied; give --student_init copy with it")
    teacher_path = _given(args.teacher_path, "--teacher_path") if taught or args.teacher_path else None
    named = args.tokenizer_name, args.config_name
    if teacher_path is None:
        tokenizer = read_tokenizer(student_path, "--student_path", args)
    else:
        tokenizer = shared_tokenizer(teacher_path, student_path, args.do_lower_case, *named)
    rows = read_rows(task, tokenizer, args, student_path, "--student_path", to_train=True)
    width, cut = None, None
    if taught and teacher_path:
        width, cut = shared_width(task, tokenizer, teacher_path, student_path, args)
    if cut:
        logger.info(cut)
    teacher = saved_teacher(teacher_path, task, args, width) if taught and teacher_path else None

    def trainer(args: DistillationArguments, rows: AnyRows) -> DistillationTrainer:
        student = _trained_model(student_path, "--student_path", task, args)
        if args.student_init == "copy":
            assert teacher is not None
            layers = choose_layers(args.copy_layers or "first", depth(teacher.model), "--copy_layers", depth(student))
            copy_layers(student, teacher.model, layers)
        if width is not None:
            cut_head(student, width)
        return DistillationTrainer(
            model=student,
            teacher=teacher,
            objective=args.parse_objective(),
            args=args,
            on_teacher_rows=on_teacher_rows,
            **_keywords(args, rows, callbacks),
        )

    return _each_seed(args, rows, trainer, functools.cache(lambda: teacher_scores(args, rows, teacher)))


def cache_teacher(
    args: DistillationArguments, task: AnyTask, on_rows: Callable[[int, int], None] | None = None
) -> list[Answers]:
    """Ask `args.teacher_path` all that a `distill` with these arguments needs of it, and keep the answers.

    One set of answers, or one for each of the seeds that draws rows of its own. Any number of processes may do it at
    once. Raises SinkdError where the objective's needs cannot be kept.
    """
    objective = args.parse_objective()
    if objective.compares_layers:
        # The student's depth decides which of the teacher's layers are asked for.
        learner, asked = (
            stack(load_config(_given(given, flag), flag))
            for given, flag in ((args.student_path, "--student_path"), (args.teacher_path, "--teacher_path"))
        )
        if args.keep_layers is not None:
            kept = choose_layers(args.keep_layers, learner.layers, "--keep_layers")
            learner = learner._replace(layers=len(kept))
        objective.meet(learner, asked)
    if not objective.kept:
        raise SinkdError(f"the objective {objective} needs nothing of a teacher that can be kept; distill asks it live")
    path = _given(args.teacher_path, "--teacher_path")
    student = args.student_path or path
    tokenizer = shared_tokenizer(path, student, args.do_lower_case, args.tokenizer_name, args.config_name)
    rows = read_rows(task, tokenizer, args, path, "--teacher_path")
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    collator = rows.trainer_keywords()["data_collator"]
    width, _ = shared_width(task, tokenizer, path, student, args)
    teacher = saved_teacher(path, task, args, width)
    stores: dict[Path, Answers] = {}
    for seed in args.seed_list:
        drawn = rows.of_run(replace(args, seed=seed, seeds=None)).train
        answers = ask_once(teacher, objective, drawn, collator, args, precision, on_rows)
        stores[answers.home] = answers
    return list(stores.values())


def _each_seed(args: Any, rows: AnyRows, trainer: MakeTrainer, teacher: Teacher) -> Summary:
    if args.seeds is None:
        _keep_inputs(args)
        return Summary([_run(args, rows.of_run(args), trainer, teacher)])
    if args.push_to_hub:
        raise SinkdError("--push_to_hub and --seeds would push several models to one place; push a run of one seed")
    root = Path(args.output_dir)
    if args.should_save and (root / "manifest.json").exists():
        if not args.overwrite:
            raise SinkdError(f"{root} holds a run of one seed; choose another folder for --seeds, or --overwrite")
        _clear(root)
        (root / "manifest.json").unlink()
    runs = [replace(args, seed=seed, seeds=None, output_dir=str(root / f"seed-{seed}")) for seed in args.seed_list]
    for run in runs:
        _keep_inputs(run)
    summary = Summary([_run(run, rows.of_run(run), trainer, teacher) for run in runs])
    if args.should_save:
        write_text(root / "metrics.json", json.dumps(asdict(summary), indent=1) + "\n")
    return summary


def _run(args: Any, rows: AnyRows, make_trainer: MakeTrainer, teacher: Teacher) -> Outcome:
    with _alone(Path(args.output_dir), args.should_save):
        return _run_alone(args, rows, make_trainer, teacher)


@contextmanager
def _alone(folder: Path, writer: bool) -> Iterator[None]:
    """Keep other commands out of the folder. A process that is killed holds nothing: its lock goes with it."""
    if not writer:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SinkdError(f"another command works in {folder}; wait for its end, or choose another folder") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: nobody can have locked it and find it gone
        lock.release()


def _run_alone(args: Any, rows: AnyRows, make_trainer: MakeTrainer, teacher: Teacher) -> Outcome:
    folder = Path(args.output_dir)
    trainer = make_trainer(args, rows)
    trainer.remove_callback(PrinterCallback)
    _need_positions(trainer, rows)
    with args.main_process_first():
        finished = _claim(folder, args, _inputs(trainer, rows))
    if finished is not None:
        push_run(trainer)
        return finished
    started = time.perf_counter()
    resume = last_checkpoint(folder)
    result = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if trainer.state.global_step < trainer.state.max_steps and trainer.schedule.terminated:
        raise Terminated(f"stopped at step {trainer.state.global_step}; the same command goes on from there")
    outcome = _outcome(trainer, rows.task, args, time.perf_counter() - started, result.metrics)
    trainer.adopt_best()
    taught = teacher()
    if args.should_save:
        write_card(trainer, args, rows.task, outcome, taught)
        content = {name: value for name, value in asdict(outcome).items() if name != "folder"}
        write_text(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
        if rows.names:
            write_results(folder / "results.csv", rows.names, outcome)
        # Only now: a run that is killed before this line finds its best model again.
        shutil.rmtree(folder / BEST, ignore_errors=True)
    push_run(trainer)
    if trainer.schedule.terminated:  # too late for this run, and not for those that would follow it
        raise Terminated(f"{folder} is finished; the same command goes on with what was to follow")
    return outcome


def _need_positions(trainer: TaskTrainer, rows: AnyRows) -> None:
    """Refuse rows that are longer than what the model can read."""
    config = trainer.model.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return
    if "roberta" in config.model_type:
        positions -= config.pad_token_id + 1  # RoBERTa counts positions from there
    flag = "a smaller --max_length" if isinstance(rows, ChoiceRows) else f"--max_seq_length {positions}"
    padded = rows.pad_to if isinstance(rows, ChoiceRows) else None
    if padded is not None and padded > positions:
        raise SinkdError(
            f"rows that --pad_to_max_length pads to {padded} tokens do not fit the model, which reads {positions}; "
            f"give {flag}"
        )
    for read in (rows.train, *rows.dev.values()):
        lengths = row_lengths(read)
        if lengths is not None and len(lengths) and lengths.max() > positions:
            longest = f"rows of up to {lengths.max()} tokens"
            raise SinkdError(f"{longest} do not fit the model, which reads {positions}; give {flag}")


def _keep_inputs(args: TaskArguments) -> None:
    """Refuse to write a run over the models that it starts from."""
    for name in ("model_path", "teacher_path", "student_path"):
        path = getattr(args, name, None)
        if path is not None and Path(path).resolve() == Path(args.output_dir).resolve():
            raise SinkdError(f"--output_dir and --{name} are one folder, {path}; choose another for the results")


def _inputs(trainer: TaskTrainer, rows: AnyRows) -> dict[str, str]:
    """Fingerprints of all that decides a run beside its settings."""
    read = {f"{split} file": rows.task.fingerprint(split) for split in ("train", *rows.task.dev_splits)}
    read["starting model"] = fingerprint(trainer.model)
    read["tokenizer"] = tokenizer_hash(rows.tokenizer)
    teacher = getattr(trainer, "teacher", None)
    if teacher is not None:
        read["teacher"] = teacher.fingerprint if isinstance(teacher, SavedTeacher) else fingerprint(teacher)
    return read | rows.fingerprints


def _claim(folder: Path, args: TaskArguments, inputs: dict[str, str]) -> Outcome | None:
    """Make the folder this run's; the outcome where it is done already. Raises SinkdError where it is another's."""
    manifest = describe(args, inputs)
    earlier = read_manifest(folder)
    if earlier is not None and not args.overwrite:
        difference = manifest.same_run(earlier)
        if difference is not None:
            raise SinkdError(f"{folder} holds another run ({difference}); choose another folder, or --overwrite")
        finished = read_outcome(folder)
        if finished is not None and args.should_save:
            logger.info("%s holds this very run, finished earlier; --overwrite runs it again", folder)
        return finished
    if not args.should_save:
        return None
    if earlier is not None:
        _clear(folder)
    elif folder.is_dir() and not all(
        path.name == LOCK or is_partial(path, "manifest.json") for path in folder.iterdir()
    ):
        several = "runs of several seeds" if any(folder.glob("seed-*/manifest.json")) else "no run"
        raise SinkdError(f"{folder} is not empty and holds {several}; choose another folder")
    manifest.write(folder)
    return None


def _clear(folder: Path) -> None:
    """Remove what a run wrote, and nothing else; its manifest stays until the next run's replaces it."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in [*checkpoints, folder / BEST, folder / PARTIAL, folder / "runs"]:
        shutil.rmtree(path, ignore_errors=True)
    for name in ("metrics.json", "results.csv", "model.safetensors", "README.md"):
        (folder / name).unlink(missing_ok=True)


def _outcome(trained: TaskTrainer, task: AnyTask, args: TaskArguments, seconds: float, metrics: dict) -> Outcome:
    evaluations = [log for log in trained.state.log_history if "eval_runtime" in log] or [_evaluated(trained)]
    history = [{name.removeprefix("eval_"): value for name, value in log.items()} for log in evaluations]
    best = max(history, key=lambda entry: entry[task.metric])
    timing = {"runtime", "samples_per_second", "epoch", "step"}
    return Outcome(
        task=task.name,
        metric=task.metric,
        best=best[task.metric],
        final=history[-1][task.metric],
        scores={name: value for name, value in best.items() if name not in timing},
        history=history,
        seconds=round(seconds, 3),
        samples_per_second=metrics.get("train_samples_per_second", 0.0),
        seed=args.seed,
        folder=args.output_dir,
    )


def _evaluated(trained: TaskTrainer) -> dict[str, float]:
    """The scores of a run that never evaluated, as its log would have them."""
    return trained.evaluate() | {"epoch": trained.state.epoch or 0.0, "step": trained.state.global_step}


def _keywords(args: TaskArguments, rows: AnyRows, callbacks: Sequence[TrainerCallback]) -> dict[str, Any]:
    args.disable_tqdm = True
    published = args.protocol == "published"
    return {
        **rows.trainer_keywords(),
        "train_dataset": rows.train,
        "eval_dataset": rows.dev,
        "interval": published_interval(rows.task.name, isinstance(args, DistillationArguments)) if published else None,
        "callbacks": list(callbacks),
    }


def _trained_model(path: str, flag: str, task: AnyTask, args: TaskArguments) -> PreTrainedModel:
    # A new head draws from the random state: the seed decides it, and not what ran before.
    set_seed(args.seed)
    model = load_model(path, flag, task, args, to_train=True, overrides=_overrides(args.config_overrides))
    if args.keep_layers is not None:
        keep_layers(model, choose_layers(args.keep_layers, depth(model), "--keep_layers"))
    return model


def _overrides(text: str | None) -> dict[str, object]:
    """`"hidden_dropout_prob=0,hidden_act=relu"` as a dictionary, values read as JSON where they are."""
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


def _given(value: str | None, flag: str) -> str:
    if value is None:
        raise SinkdError(f"{flag} is missing; name a model's folder, or a name on the hub")
    return value


def _need_splits(task: AnyTask) -> None:
    for split in ("train", "dev"):
        if not any(name.startswith(split) for name in (task.splits if isinstance(task, ChoiceTask) else task.files)):
            raise SinkdError(f"{task.name} has no {split} file, so nothing can be trained on it")
