"""The published entry points of language models work as typed: one output folder, teacher first, then the student."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sinkd import SinkdError, recipes
from sinkd.cli.main import main
from sinkd.cli.published_generative import SHORT, student, teacher, translated
from sinkd.models.language import say_not_spread
from small_language_models import write_copa, write_language_model, write_templates

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"t0": "T0", "gpt": "GPT-Neo"}
MODELS = {"t0": "t5", "gpt": "gpt_neo"}


@pytest.fixture(scope="module", params=["t0", "gpt"])
def place(request, tmp_path_factory):
    """A folder as a user has it: COPA's files where they are looked for, templates, and two untrained models."""
    folder = tmp_path_factory.mktemp(request.param)
    write_copa(folder / "datas" / "superglue")
    write_templates(folder / "templates")
    write_language_model(folder / "large", MODELS[request.param], width=32)
    write_language_model(folder / "small", MODELS[request.param], width=16, padding=7)
    return request.param, folder


@pytest.fixture
def typed(place, monkeypatch, capsys):
    """Types a published command line: its status, and what it printed."""
    kind, folder = place
    monkeypatch.chdir(folder)

    def typed(entry, *argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{FOLDERS[kind]}/{entry.__name__}.py", *map(str, argv)])
        status = entry(kind)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return typed


COPA = ["--dataset_name", "super_glue", "--dataset_config_name", "copa", "--template_name", "plain"]
COPA += ["--output_dir", "./debug", "--parallelize", "--templates_dir", "templates"]


def test_the_published_commands_teach_and_learn(typed, place, caplog):
    folder = place[1]
    say_not_spread.cache_clear()
    with caplog.at_level("INFO", logger="sinkd"):
        status, _, said = typed(teacher, *COPA, "--model_name_or_path", "large", "-ep", 1)
        assert status == 0, said
        status, out, said = typed(student, *COPA, "--model_name_or_path", "small", "-ep", 1)
    assert status == 0, said
    assert "ce:1+kl:0.1+sinkhorn:1" in out
    found = "one accelerator" if torch.cuda.is_available() else "no accelerator"
    spread = f"--parallelize: this machine has {found}, so models are not spread"
    assert caplog.messages.count(spread) == 1
    assert len([message for message in caplog.messages if "both are cut to the tokenizer's" in message]) == 1
    for role in ("teacher", "student"):
        home = folder / "debug" / role
        metrics = json.loads((home / "metrics.json").read_text())
        with (home / "results.csv").open() as file:
            (row,) = csv.DictReader(file)
        names = ("dataset_name", "dataset_config_name", "template_name")
        assert [row[name] for name in names] == ["super_glue", "copa", "plain"]
        assert float(row["accuracy"]) == metrics["best"]
    settings = json.loads((folder / "debug" / "student" / "manifest.json").read_text())["settings"]
    assert settings["teacher_path"] == "debug/teacher" and settings["sinkhorn_weight"] == 0.0008
    assert settings["temperature"] == 1.0, "the published kl does not soften"
    # and what a run leaves is scored and asked as it was trained
    assert main(["evaluate", "--dataset_name", "super_glue", "--dataset_config_name", "copa", "--templates_dir",
                 "templates", "--model_path", "debug/student"]) == 0  # fmt: skip
    assert main(["predict", "--task_name", "superglue/copa", "--templates_dir", "templates", "--model_path",
                 "debug/student", "--output_dir", "submission"]) == 0  # fmt: skip
    lines = [json.loads(line) for line in (folder / "submission" / "COPA.jsonl").read_text().splitlines()]
    assert [line["idx"] for line in lines] == list(range(12)) and {line["label"] for line in lines} <= {0, 1}


def test_silent_command_lines_take_the_recipe(typed, place):
    kind, _ = place
    status, out, _ = typed(student, "-d", "super_glue", "-s", "copa", "-m", "small", "-o", "debug", "--dry_run")
    shown = dict(line.split(": ", 1) for line in out.splitlines())
    recipe = yaml.safe_load(recipes.find(f"{kind}/copa-student").read_text())
    assert status == 0
    for name in ("num_train_epochs", "learning_rate", "gradient_accumulation_steps", "seed", "weight_decay"):
        assert float(shown[name]) == recipe[name]
    assert (shown["student_path"], shown["teacher_path"]) == ("small", "debug/teacher")


def test_shots_are_drawn_and_debug_means_a_few_rows(typed, place):
    _, folder = place
    status, _, said = typed(teacher, *COPA, "-m", "large", "-ep", 1, "-ns", 5, "-db", "--exp_name", "x", "--overwrite")
    assert status == 0, said
    manifest = json.loads((folder / "debug" / "teacher" / "manifest.json").read_text())["settings"]
    assert (manifest["num_shots"], manifest["max_train_rows"], manifest["max_dev_rows"]) == (5, 100, 100)
    state = max((folder / "debug" / "teacher").glob("checkpoint-*/trainer_state.json"))
    assert json.loads(state.read_text())["global_step"] == 2  # 5 rows, by 4


@pytest.mark.parametrize(("line", "wanted"), [
    ([], "--dataset_name is missing"),
    (["-d", "super_glue", "-s", "copa"], "--output_dir is missing"),
    (["-d", "super_glue", "-s", "copa", "-o", "debug2"], "--model_path is missing"),
    (["-d", "super_glue", "-s", "cops", "-o", "debug2"], "superglue/copa"),
    (["-d", "super_glue", "-s", "copa", "-o", "debug2", "-m", "large", "-t", "nonesuch"], 'no template "nonesuch"'),
])  # fmt: skip
def test_what_is_missing_or_unknown_is_one_sentence(typed, line, wanted):
    status, _, said = typed(teacher, *line, "--templates_dir", "templates")
    assert status == 2 and wanted in said and said.count("\n") == 1


def test_every_published_flag_has_its_meaning():
    words = translated(["-lr", "1e-3", "-ms", "7", "-ws=3", "-db", "-m", "M", "-st"], "student")
    assert words == ["--learning_rate", "1e-3", "--max_steps", "7", "--warmup_steps=3", "--max_train_rows", "100",
                     "--max_dev_rows", "100", "--student_path", "M"]  # fmt: skip
    assert translated(["--model_name_or_path", "M"], "teacher") == ["--model_path", "M"]
    published = "-d -s -t -o -m -pa -eb -tb -ns -lr -ep -ms -ga -ie -db -wb -sd -cf -tk -il -tl -pml -st -wd -ls -ws"
    assert set(SHORT) == set(published.split())


def test_wandb_is_asked_for_by_name(monkeypatch):
    from sinkd.training import generative_arguments
    from sinkd.training.arguments import FinetuneArguments

    monkeypatch.setattr(generative_arguments, "find_spec", lambda name: None)
    with pytest.raises(SinkdError, match="--wandb_proj needs Weights & Biases"):
        FinetuneArguments(output_dir="o", wandb_proj="p")


@pytest.mark.parametrize(
    "flags", [["--keep_layers", "1"], ["--unlabeled_file", "more.txt"], ["--student_init", "copy"]]
)
def test_flags_of_encoders_are_refused(place, monkeypatch, capsys, flags):
    monkeypatch.chdir(place[1])
    line = ["distill", "--task_name", "superglue/copa", "--teacher_path", "large", "--student_path", "small"]
    assert main([*line, "--output_dir", "o", *flags]) == 2
    assert f"{flags[0]} is for encoders" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS.values())
@pytest.mark.parametrize("script", ["distillation.py", "distillation_t.py"])
def test_the_scripts_stand_where_they_stood(folder, script):
    done = subprocess.run([sys.executable, ROOT / folder / script, "--dry_run"], capture_output=True, text=True)
    assert done.returncode == 2 and "--dataset_name is missing" in done.stderr
