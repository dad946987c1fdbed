"""Recipes and scripts hold the published settings, say how they are run, and are found by name."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from sinkd import SinkdError, recipes
from sinkd.cli.main import main
from sinkd.training.arguments import DistillationArguments, FinetuneArguments
from sinkd.training.flag_topics import flag_parser
from sinkd.training.settings import resolve_settings

ROOT = Path(__file__).resolve().parents[1]

# task: batch, epochs, learning rate, seed; the seed is the published parser's where the script is silent
TEACHERS = {
    "cola": (2, 8, 2e-5, 42),
    "mnli": (128, 7, 1e-5, 42),
    "mrpc": (8, 10, 5e-5, 42),
    "qnli": (8, 8, 2e-5, 42),
    "qqp": (8, 5, 3e-6, 32),
    "rte": (15, 10, 3e-5, 42),
    "sst-2": (16, 10, 2e-5, 42),
}
# task: losses, batch, epochs, learning rate, alpha, temperature, beta, seed
STUDENTS = {
    "cola": ("kd+sinkhorn", 16, 20, 5e-5, 0.9, 1.0, 0.8, 0),
    "mnli": ("kd_anneal+sinkhorn", 16, 10, 4e-5, 0.8, 3.0, 0.8, 0),
    "mrpc": ("kd_anneal+sinkhorn", 16, 3, 3e-5, 1.0, 4.0, 0.8, 0),
    "qnli": ("kd+sinkhorn", 16, 6, 3e-5, 0.8, 3.0, 0.8, 0),
    "qqp": ("kd_anneal+sinkhorn", 32, 8, 4e-5, 1.0, 4.0, 0.8, 0),
    "rte": ("kd+sinkhorn", 16, 5, 2e-5, 0.9, 3.5, 0.8, 20),
    "sst-2": ("kd+sinkhorn", 32, 2, 4e-5, 0.9, 2.0, 0.8, 0),
}
TASKS = [*TEACHERS, "sts-b"]
KINDS = {"teacher": FinetuneArguments, "student": DistillationArguments}
ALL = [(task, role) for task in TASKS for role in ("teacher", "student")]


def head(task: str, role: str) -> list[str]:
    """The words of a recipe's first line, the command that runs it."""
    first = recipes.find(f"glue/{task}-{role}").read_text(encoding="utf-8").splitlines()[0]
    return shlex.split(first.removeprefix("# "))


def read(task: str, role: str):
    """The arguments that result from the command at a recipe's head, run at the repository's root."""
    program, command, *flags = head(task, role)
    flags[flags.index("--config") + 1] = str(ROOT / flags[flags.index("--config") + 1])
    return resolve_settings(KINDS[role], flags, f"{program} {command}")


@pytest.mark.parametrize("task", TEACHERS)
def test_teacher_recipes_hold_the_published_numbers(task):
    args = read(task, "teacher")
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.learning_rate, args.seed) == TEACHERS[task]


@pytest.mark.parametrize("task", STUDENTS)
def test_student_recipes_hold_the_published_numbers(task):
    args = read(task, "student")
    training = (args.per_device_train_batch_size, args.num_train_epochs, args.learning_rate)
    weights = (args.alpha, args.temperature, args.beta)
    assert (args.distill_loss, *training, *weights, args.seed) == STUDENTS[task]


@pytest.mark.parametrize(("task", "role"), ALL)
def test_every_published_script_has_a_recipe_with_the_settings_that_all_tasks_share(task, role):
    args = read(task, role)
    assert args.task_name == task
    assert args.per_device_eval_batch_size == args.per_device_train_batch_size
    assert (args.max_seq_length, args.weight_decay, args.adam_epsilon, args.max_grad_norm) == (128, 0.0, 1e-8, 1.0)
    assert (args.warmup_steps, args.gradient_accumulation_steps, args.logging_steps) == (0, 1, 100)
    assert args.lr_scheduler_type == "linear"
    if role == "student":
        options = args.options_of("sinkhorn")
        assert (options["temperature"], options["epsilon"], options["n_iters"]) == (2.0, 0.1, 20)
        assert (options["weight"], options["reduction"]) == (0.001, "sum")
        assert (options["cost"], options["curvature"], options["learnable_curvature"]) == ("lorentz", 1.0, False)


@pytest.mark.parametrize(("task", "role"), ALL)
def test_a_recipe_begins_with_the_command_that_runs_it(task, role):
    command = "finetune" if role == "teacher" else "distill"
    models = ["--model_path", "M"] if role == "teacher" else ["--teacher_path", "T", "--student_path", "S"]
    config = ["--config", f"recipes/glue/{task}-{role}.yaml"]
    assert head(task, role) == ["sinkd", command, *config, *models, "--data_dir", "datas/glue", "--output_dir", "O"]


def texts(content: object) -> list[str]:
    """All values of a recipe that YAML reads as text."""
    if isinstance(content, dict | list):
        return [text for part in (content.values() if isinstance(content, dict) else content) for text in texts(part)]
    return [content] if isinstance(content, str) else []


@pytest.mark.parametrize("name", ["t0/teacher", "t0/student", "gpt/teacher", "gpt/student"])
def test_generative_recipes_hold_the_published_numbers(name):
    words = shlex.split(recipes.find(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    kind, role = name.split("/")
    command = {"teacher": "finetune", "student": "distill"}[role]
    assert words[:4] == ["sinkd", command, "--config", f"recipes/{name}.yaml"]
    words[3] = str(ROOT / words[3])
    args = resolve_settings(KINDS[role], words[2:], " ".join(words[:2]))
    gpt = kind == "gpt"
    assert args.task_name == "superglue/copa"
    assert (args.learning_rate, args.weight_decay, args.max_length, args.target_max_length) == (1e-4, 0.01, 1024, 256)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == ((1, 4) if gpt else (4, 1))
    assert args.num_train_epochs == (300 if gpt else {"teacher": 30, "student": 10}[role])
    assert args.seed == (32 if gpt else 42)
    if role == "student":
        assert (args.distill_loss, args.sinkhorn_weight) == ("ce:1+kl:0.1+sinkhorn:1", 0.0008)
        assert (args.temperature, args.sinkhorn_temperature) == (1.0, 2.0)


@pytest.mark.parametrize("name", recipes.names())
def test_numbers_in_recipes_are_numbers_to_any_yaml_reader(name):
    for text in texts(yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))):
        with pytest.raises(ValueError, match=text.replace("+", r"\+")):
            float(text)


def test_the_sweeps_recipe_begins_with_its_command_and_comes_to_its_trials(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    first = recipes.find("sweep/cola-objectives").read_text(encoding="utf-8").splitlines()[0]
    program, *argv = shlex.split(first.removeprefix("# "))
    assert program == "sinkd" and main([*argv, "--dry_run"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    trials = [resolve_settings(DistillationArguments, argv, "sinkd distill") for _, _, *argv in commands]
    objectives = {("kd", "lorentz"), ("kd+sinkhorn", "l1"), ("kd+sinkhorn", "lorentz")}
    assert {(args.distill_loss, args.sinkhorn_cost) for args in trials} == objectives
    assert {args.seed for args in trials} == {0, 1, 2} and len(trials) == 9
    # what the recipe leaves to the published student's
    assert {(args.alpha, args.beta, args.temperature, args.task_name) for args in trials} == {(0.9, 0.8, 1.0, "cola")}


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(SinkdError, match=r'"glue/cola-studnt" is no recipe .*did you mean "glue/cola-student'):
        recipes.find("glue/cola-studnt")


def run_script(task: str, role: str, tmp_path: Path, *flags: str, **environment: str):
    """A script started away from the repository, with a python3 that prints where it stands and what it was given."""
    echo = tmp_path / "bin" / "python3"
    echo.parent.mkdir(exist_ok=True)
    echo.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    command = ["sh", str(ROOT / "script" / role / f"{task}.sh"), *flags]
    environment["PATH"] = f"{echo.parent}:{os.environ['PATH']}"
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("task", "role"), ALL)
def test_a_script_runs_its_task_and_leaves_the_numbers_to_the_recipe(task, role, tmp_path):
    done = run_script(task, role, tmp_path, "--overwrite", TEACHER_PATH="T", STUDENT_PATH="S")
    where, entry, *flags = done.stdout.splitlines()
    assert Path(where) == ROOT
    assert entry == {"teacher": "main_glue.py", "student": "main_glue_distill.py"}[role]
    models = {"teacher": {"model_path": "T"}, "student": {"teacher_path": ["T"], "student_path": "S"}}[role]
    typed = flag_parser(KINDS[role]).typed(flags)
    assert typed.pop("do_lower_case", False) == (role == "teacher")
    expected = {"do_train": True, "do_eval": True, "task_name": task, "data_dir": "./datas/glue", "overwrite": True}
    assert typed == expected | models


def test_a_script_resolves_folders_from_the_working_directory(tmp_path):
    (tmp_path / "models" / "my teacher").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    done = run_script("cola", "teacher", tmp_path, TEACHER_PATH="models/my teacher", DATA_DIR="data")
    words = done.stdout.splitlines()
    assert words[words.index("--model_path") + 1] == str(tmp_path / "models" / "my teacher")
    assert words[words.index("--data_dir") + 1] == str(tmp_path / "data")


def test_a_student_script_uses_the_folder_of_the_teacher_script(tmp_path):
    words = run_script("sst-2", "student", tmp_path, STUDENT_PATH="S").stdout.splitlines()
    assert words[words.index("--teacher_path") + 1] == "experiments/exp_distill_sst-2/teacher"


@pytest.mark.parametrize(("role", "variable"), [("teacher", "TEACHER_PATH"), ("student", "STUDENT_PATH")])
def test_a_script_without_its_model_says_so_in_one_sentence(role, variable, tmp_path):
    done = run_script("cola", role, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{variable} is not set") and done.stderr.count("\n") == 1
    assert f"script/{role}/cola.sh" in done.stderr
