"""The published entry points of language models, `T0/` and `GPT-Neo/`, onto finetune and distill.

One `--output_dir` serves both: the teacher goes to `<output_dir>/teacher`, where the student finds it, and the student
to `<output_dir>/student`. What a command line leaves silent is taken from the recipe of its kind, in recipes/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkd import recipes
from sinkd.cli import distill as distill_command
from sinkd.cli import finetune as finetune_command
from sinkd.cli import generative
from sinkd.cli.command import choice_task_name, show_plan
from sinkd.cli.main import guarded
from sinkd.errors import SinkdError
from sinkd.tasks.superglue import superglue_name
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.parser import parse_arguments

SHORT = {
    "-d": "--dataset_name",
    "-s": "--dataset_config_name",
    "-t": "--template_name",
    "-o": "--output_dir",
    "-m": "--model_name_or_path",
    "-pa": "--parallelize",
    "-eb": "--per_device_eval_batch_size",
    "-tb": "--per_device_train_batch_size",
    "-ns": "--num_shots",
    "-lr": "--learning_rate",
    "-ep": "--num_train_epochs",
    "-ms": "--max_train_steps",
    "-ga": "--gradient_accumulation_steps",
    "-ie": "--input_eos",
    "-db": "--debug",
    "-wb": "--wandb_proj",
    "-sd": "--seed",
    "-cf": "--config_name",
    "-tk": "--tokenizer_name",
    "-il": "--max_length",
    "-tl": "--target_max_length",
    "-pml": "--pad_to_max_length",
    "-st": "--use_slow_tokenizer",
    "-wd": "--weight_decay",
    "-ls": "--lr_scheduler_type",
    "-ws": "--num_warmup_steps",
}
# Published names that sinkd calls otherwise; `--model_name_or_path` is the model being trained.
RENAMED = {"--max_train_steps": "--max_steps", "--num_warmup_steps": "--warmup_steps"}
MODEL = {"teacher": "--model_path", "student": "--student_path"}
DEBUG_ROWS = "100"


def teacher(kind: str) -> int:
    """`distillation_t.py` of a kind, "t0" or "gpt": the exit status of its command line."""
    return guarded(lambda: _teacher(sys.argv[1:], kind), sys.argv[1:])


def student(kind: str) -> int:
    """`distillation.py` of a kind, "t0" or "gpt": the exit status of its command line."""
    return guarded(lambda: _student(sys.argv[1:], kind), sys.argv[1:])


def _teacher(argv: Sequence[str], kind: str) -> None:
    words = translated(argv, "teacher")
    recipe = _recipe(words, kind, "teacher")
    prog = f"{_folder(kind)}/distillation_t.py"
    silent = _silent(kind, generative.TEACHER)
    args = parse_arguments(FinetuneArguments, words, prog, recipe=recipe, output_dir="", **silent)
    args.output_dir = str(Path(_output_dir(args.output_dir), "teacher"))
    if not show_plan(args):
        finetune_command.run(args)


def _student(argv: Sequence[str], kind: str) -> None:
    words = translated(argv, "student")
    recipe = _recipe(words, kind, "student")
    prog = f"{_folder(kind)}/distillation.py"
    silent = _silent(kind, generative.STUDENT)
    args = parse_arguments(DistillationArguments, words, prog, recipe=recipe, output_dir="", **silent)
    root = _output_dir(args.output_dir)
    args.output_dir = str(Path(root, "student"))
    args.teacher_path = args.teacher_path or str(Path(root, "teacher"))
    if not show_plan(args):
        distill_command.run(args)


def translated(argv: Sequence[str], role: str) -> list[str]:
    """A published command line in sinkd's flags, for the "teacher" or the "student"."""
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        if name == "--model_name_or_path":
            name = MODEL[role]
        name = RENAMED.get(name, name)
        if name == "--debug":  # which to transformers is a choice of debuggers
            words += ["--max_train_rows", DEBUG_ROWS, "--max_dev_rows", DEBUG_ROWS]
        elif name == "--use_slow_tokenizer":
            print("sinkd: --use_slow_tokenizer has no effect: the tokens are the same, only sooner", file=sys.stderr)
        else:
            words.append(name + equals + value)
    return words


def _recipe(words: Sequence[str], kind: str, role: str) -> Path | None:
    """The recipe of the task on a translated command line, where there is one."""
    early = parse_arguments(FinetuneArguments, _named(words), "", output_dir="")
    chosen = choice_task_name(early)
    if chosen is None:
        raise SinkdError("--dataset_name is missing; give super_glue and --dataset_config_name, as in copa")
    name = f"{kind}/{superglue_name(chosen).replace('/', '-')}-{role}"
    return recipes.find(name) if name in recipes.names() else None


def _named(words: Sequence[str]) -> list[str]:
    """The part of a command line that names the task."""
    flags = {"--dataset_name", "--dataset_config_name", "--task_name"}
    kept: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in flags:
            kept += [word, following]
        elif word.partition("=")[0] in flags:
            kept.append(word)
    return kept


def _output_dir(given: str) -> str:
    if not given:
        raise SinkdError("--output_dir is missing; teacher and student go to folders in it")
    return given


def _silent(kind: str, published: dict[str, Any]) -> dict[str, Any]:
    """The settings of a kind for a task without a recipe, as ANLI's rounds are."""
    return published | (generative.GPT if kind == "gpt" else {})


def _folder(kind: str) -> str:
    return {"t0": "T0", "gpt": "GPT-Neo"}[kind]
