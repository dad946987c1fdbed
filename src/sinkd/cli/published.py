"""The published system's scripts: `sinkd finetune` and `sinkd distill` with the scripts' flags and output folders.

Defaults come from the recipe of the task (GLUE), of T0 or of GPT-Neo.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from sinkd.cli import distill, finetune
from sinkd.cli.command import load_named_task, settle_output, show_plan
from sinkd.cli.evaluate import evaluate
from sinkd.cli.main import guarded
from sinkd.cli.predict import predict_after
from sinkd.errors import SinkdError
from sinkd.tasks import names_superglue
from sinkd.tasks.glue import task_name
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.outcome import read_outcome
from sinkd.training.settings import named_task, resolve_settings

# Script -> the folder of its recipes, and the role of the model that it trains.
SCRIPTS = {
    "main_glue.py": ("glue", "teacher"),
    "main_glue_distill.py": ("glue", "student"),
    "T0/distillation_t.py": ("t0", "teacher"),
    "T0/distillation.py": ("t0", "student"),
    "GPT-Neo/distillation_t.py": ("gpt", "teacher"),
    "GPT-Neo/distillation.py": ("gpt", "student"),
}
# Flags of T0/ and GPT-Neo/ that `translated` treats specially, and sinkd's names of the others.
MODEL, DEBUG, SLOW_TOKENIZER = "--model_name_or_path", "--debug", "--use_slow_tokenizer"
ALIASES = {
    "-d": "--dataset_name",
    "-s": "--dataset_config_name",
    "-t": "--template_name",
    "-o": "--output_dir",
    "-m": MODEL,
    "-pa": "--parallelize",
    "-eb": "--per_device_eval_batch_size",
    "-tb": "--per_device_train_batch_size",
    "-ns": "--num_shots",
    "-lr": "--learning_rate",
    "-ep": "--num_train_epochs",
    "-ms": "--max_steps",
    "--max_train_steps": "--max_steps",
    "-ga": "--gradient_accumulation_steps",
    "-ie": "--input_eos",
    "-db": DEBUG,
    "-wb": "--wandb_proj",
    "-sd": "--seed",
    "-cf": "--config_name",
    "-tk": "--tokenizer_name",
    "-il": "--max_length",
    "-tl": "--target_max_length",
    "-pml": "--pad_to_max_length",
    "-st": SLOW_TOKENIZER,
    "-wd": "--weight_decay",
    "-ls": "--lr_scheduler_type",
    "-ws": "--warmup_steps",
    "--num_warmup_steps": "--warmup_steps",
}

Arguments = FinetuneArguments | DistillationArguments


def main(script: str) -> int:
    """Run a script of SCRIPTS with this process's command line, and return the exit status."""
    return guarded(lambda: _main(script, sys.argv[1:]), sys.argv[1:])


def _main(script: str, argv: Sequence[str]) -> None:
    collection, role = SCRIPTS[script]
    kind: type[Arguments] = FinetuneArguments if role == "teacher" else DistillationArguments
    if collection == "glue":
        args = resolve_settings(
            kind, argv, script, recipe=lambda task: "" if names_superglue(task) else f"glue/{task_name(task)}-{role}"
        )
        settle_output(args)
        if not show_plan(args):
            _run_glue(args)
        return
    args = resolve_settings(kind, translated(argv, role), script, recipe=lambda task: f"{collection}/{role}")
    task = named_task(vars(args))
    if task is None or not names_superglue(task):
        raise SinkdError("--dataset_name is missing; give super_glue and --dataset_config_name, as in copa")
    if not args.output_dir:
        raise SinkdError("--output_dir is missing; teacher and student go to folders in it")
    root = Path(args.output_dir)
    args.output_dir = str(root / role)
    if isinstance(args, DistillationArguments):
        args.teacher_path = args.teacher_path or [str(root / "teacher")]
    if not show_plan(args):
        _train(args)


def translated(argv: Sequence[str], role: str) -> list[str]:
    """Translate a command line of T0/ or GPT-Neo/ to sinkd's flags, for the "teacher" or the "student"."""
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        name = ALIASES.get(name, name)
        if name == DEBUG:  # sinkd's --debug, from transformers, chooses a debugger
            words += ["--max_train_rows", "100", "--max_dev_rows", "100"]
        elif name == SLOW_TOKENIZER:
            print(f"sinkd: {name} has no effect: the fast tokenizer gives the same tokens", file=sys.stderr)
        elif name == MODEL:
            words.append({"teacher": "--model_path", "student": "--student_path"}[role] + equals + value)
        else:
            words.append(name + equals + value)
    return words


def _train(args: Arguments) -> None:
    if isinstance(args, FinetuneArguments):
        finetune.run(args)
    else:
        distill.run(args)


def _run_glue(args: Arguments) -> None:
    """Train; without `--do_train` evaluate or predict with the models of earlier runs."""
    if args.do_train:
        _train(args)
        return
    if not (args.do_eval or args.do_test or args.do_predict):
        raise SinkdError("nothing to do: give --do_train, --do_eval or --do_test")
    root = Path(args.output_dir or "")
    outcomes = []
    for folder in [root] if args.seeds is None else [root / f"seed-{seed}" for seed in args.seed_list]:
        outcome = read_outcome(folder)
        if outcome is None:
            raise SinkdError(f"{folder} holds no finished run; run the same command with --do_train first")
        outcomes.append(outcome)
    if args.do_eval:
        for outcome in outcomes:
            evaluate(args, outcome.folder)
    predict_after(args, load_named_task(args), outcomes)
