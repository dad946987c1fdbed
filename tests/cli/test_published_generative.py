"""The published entry points of language models work as typed: one output folder, teacher first, then the student."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sinkd import SinkdError, recipes
from sinkd.cli import published
from sinkd.cli.main import main
from sinkd.cli.published import ALIASES, translated
from sinkd.models.language_model import device_map
from sinkd.training import arguments
from small_language_models import word_tokenizer, write_copa, write_language_model, write_templates

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"t0": "T0", "gpt": "GPT-Neo"}
SCRIPTS = {"teacher": "distillation_t.py", "student": "distillation.py"}
MODELS = {"t0": "t5", "gpt": "gpt_neo"}


@pytest.fixture(scope="module", params=["t0", "gpt"])
def place(request, tmp_path_factory):
    """A user's folder: COPA's files in their default place, templates, and two untrained models."""
    folder = tmp_path_factory.mktemp(request.param)
    write_copa(folder / "datas" / "superglue")
    write_templates(folder / "templates")
    write_language_model(folder / "large", MODELS[request.param], width=32)
    write_language_model(folder / "small", MODELS[request.param], width=16, padding=7)
    return request.param, folder


@pytest.fixture
def typed(place, monkeypatch, capsys):
    """Runs a published command line and checks its status; returns its stdout and stderr."""
    kind, folder = place
    monkeypatch.chdir(folder)

    def typed(role: str, *argv: object, status: int = 0) -> tuple[str, str]:
        script = f"{FOLDERS[kind]}/{SCRIPTS[role]}"
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        ended = published.main(script)
        shown = capsys.readouterr()
        assert ended == status, shown.err
        return shown.out, shown.err

    return typed


COPA = ["--dataset_name", "super_glue", "--dataset_config_name", "copa", "--template_name", "plain"]
COPA += ["--output_dir", "./debug", "--parallelize", "--templates_dir", "templates"]
RESULTS = ["dataset_name", "dataset_config_name", "template_name", "epoch", "step", "metric", "score"]


def test_the_published_commands_teach_and_learn(typed, place, caplog):
    folder = place[1]
    device_map.cache_clear()
    with caplog.at_level("INFO", logger="sinkd"):
        typed("teacher", *COPA, "--model_name_or_path", "large", "-ep", 1)
        out, _ = typed("student", *COPA, "--model_name_or_path", "small", "-ep", 1)
    assert "ce:1+kl:0.1+sinkhorn:1" in out
    found = "one accelerator" if torch.cuda.is_available() else "no accelerator"
    spread = f"--parallelize: this machine has {found}, so models are not spread"
    assert caplog.messages.count(spread) == 1
    assert len([message for message in caplog.messages if "both are cut to the tokenizer's" in message]) == 1
    for role in ("teacher", "student"):
        home = folder / "debug" / role
        metrics = json.loads((home / "metrics.json").read_text())
        with (home / "results.csv").open() as file:
            header, row = csv.reader(file)
        assert header == RESULTS
        step = str(int(metrics["history"][0]["step"]))
        assert row == ["super_glue", "copa", "plain", "1", step, "accuracy", str(metrics["best"])]
    settings = json.loads((folder / "debug" / "student" / "manifest.json").read_text())["settings"]
    assert settings["teacher_path"] == ["debug/teacher"] and settings["sinkhorn_weight"] == 0.0008
    assert settings["temperature"] == 1.0, "the published kl does not soften"
    # and what a run leaves is scored and asked as it was trained, in the wording that only its own folder has
    assert main(["evaluate", "--dataset_name", "super_glue", "--dataset_config_name", "copa", "--model_path",
                 "debug/student"]) == 0  # fmt: skip
    assert main(["predict", "--task_name", "superglue/copa", "--model_path", "debug/student", "--output_dir",
                 "submission"]) == 0  # fmt: skip
    lines = [json.loads(line) for line in (folder / "submission" / "COPA.jsonl").read_text().splitlines()]
    assert [line["idx"] for line in lines] == list(range(12)) and {line["label"] for line in lines} <= {0, 1}


@pytest.mark.parametrize("task", [["super_glue", "-s", "copa"], ["anli", "-s", "r1"]])
@pytest.mark.parametrize("role", SCRIPTS)
def test_the_recipe_fills_in_omitted_settings(typed, place, role, task):
    out, _ = typed(role, "-d", *task, "-m", "small", "-o", "debug", "--dry_run")
    shown = dict(line.split(": ", 1) for line in out.splitlines())
    recipe = yaml.safe_load(recipes.find(f"{place[0]}/{role}").read_text())
    names = ["num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"]
    for name in [*names, "learning_rate", "weight_decay"]:
        assert name not in recipe or float(shown[name]) == recipe[name]
    assert set(names) <= recipe.keys()
    paths = {"teacher": ("model_path", "output_dir"), "student": ("student_path", "teacher_path")}[role]
    assert [shown[name] for name in paths] == ["small", "debug/teacher"]


def test_shots_are_drawn_and_debug_means_a_few_rows(typed, place):
    _, folder = place
    typed("teacher", *COPA, "-m", "large", "-ep", 1, "-ns", 5, "-db", "--exp_name", "x", "--overwrite")
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
def test_missing_or_unknown_input_is_one_sentence(typed, line, wanted):
    _, said = typed("teacher", *line, "--templates_dir", "templates", status=2)
    assert wanted in said and said.count("\n") == 1


def test_every_published_flag_has_its_meaning():
    words = translated(["-lr", "1e-3", "-ms", "7", "-ws=3", "-db", "-m", "M", "-st"], "student")
    assert words == ["--learning_rate", "1e-3", "--max_steps", "7", "--warmup_steps=3", "--max_train_rows", "100",
                     "--max_dev_rows", "100", "--student_path", "M"]  # fmt: skip
    assert translated(["--model_name_or_path", "M"], "teacher") == ["--model_path", "M"]
    short = "-d -s -t -o -m -pa -eb -tb -ns -lr -ep -ms -ga -ie -db -wb -sd -cf -tk -il -tl -pml -st -wd -ls -ws"
    assert {name for name in ALIASES if not name.startswith("--")} == set(short.split())


def test_all_published_short_flags_in_one_command_line(typed, place, monkeypatch):
    monkeypatch.setattr(arguments, "find_spec", lambda name: True)
    monkeypatch.setenv("WANDB_PROJECT", "another")  # and put back after the test
    values = {"-d": "super_glue", "-s": "copa", "-t": "plain", "-o": "debug", "-m": "small", "-eb": 3, "-tb": 2,
              "-ns": 7, "-lr": 0.003, "-ep": 2, "-ms": 9, "-ga": 5, "-wb": "project", "-sd": 11, "-cf": "large",
              "-tk": "large", "-il": 99, "-tl": 33, "-wd": 0.25, "-ls": "cosine", "-ws": 4}  # fmt: skip
    switches = ["-pa", "-ie", "-db", "-pml", "-st"]
    assert {*values, *switches} == {name for name in ALIASES if not name.startswith("--")}
    out, said = typed("student", *(part for pair in values.items() for part in pair), *switches, "--dry_run")
    assert "--use_slow_tokenizer has no effect" in said
    shown = dict(line.split(": ", 1) for line in out.splitlines())
    expected = {
        "dataset_name": "super_glue", "dataset_config_name": "copa", "template_name": "plain",
        "output_dir": "debug/student", "student_path": "small", "per_device_eval_batch_size": "3",
        "per_device_train_batch_size": "2", "num_shots": "7", "learning_rate": "0.003", "num_train_epochs": "2.0",
        "max_steps": "9", "gradient_accumulation_steps": "5", "wandb_proj": "project", "seed": "11",
        "config_name": "large", "tokenizer_name": "large", "max_length": "99", "target_max_length": "33",
        "weight_decay": "0.25", "lr_scheduler_type": "cosine", "warmup_steps": "4.0", "parallelize": "True",
        "input_eos": "True", "pad_to_max_length": "True", "max_train_rows": "100", "max_dev_rows": "100",
        "report_to": "tensorboard wandb",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected
    assert os.environ["WANDB_PROJECT"] == "project"


@pytest.fixture(scope="module")
def bare(place):
    """Two models without a tokenizer, the smaller with a config that does not fit it, and what they lack."""
    kind, folder = place
    for name, width in {"bare-large": 32, "bare-small": 16}.items():
        home = write_language_model(folder / name, MODELS[kind], width=width)
        for file in home.glob("tokenizer*"):
            file.unlink()
    (folder / "config").mkdir()
    shutil.move(folder / "bare-small" / "config.json", folder / "config" / "config.json")
    wrong = json.loads((folder / "config" / "config.json").read_text()) | {"vocab_size": 50}
    (folder / "bare-small" / "config.json").write_text(json.dumps(wrong))
    word_tokenizer().save_pretrained(folder / "words")
    other = word_tokenizer()
    other.add_tokens(["lantern"])
    other.save_pretrained(folder / "other")
    return folder


def test_tokenizer_and_config_come_from_the_named_folders(typed, bare):
    line = [*COPA, "--output_dir", "./named", "-ep", 1, "-tk", "words"]
    _, said = typed("teacher", *COPA, "-o", "./named", "-ep", 1, "-m", "bare-large", status=2)
    assert "bare-large holds no tokenizer" in said
    typed("teacher", *line, "-m", "bare-large")
    _, said = typed("student", *line, "-m", "bare-small", "--teacher_path", "bare-large", status=2)
    assert "the student's embedding 50" in said
    typed("student", *line, "-m", "bare-small", "-cf", "config", "--teacher_path", "bare-large")
    assert (bare / "named" / "student" / "tokenizer.json").is_file()
    _, said = typed("student", *COPA, "-o", "./named", "-m", "bare-small", "-cf", "config", "-tk", "other", status=2)
    assert "--tokenizer_name other is not the teacher's tokenizer: they differ in size" in said


@pytest.mark.parametrize("flags", [
    ["--sinkhorn_group", "sequence", "--sinkhorn_top_k", 5, "--teacher_cache_top_k", 6],
    ["--sinkhorn_top_k", 5, "--on_policy", 0.5],
])  # fmt: skip
def test_groups_top_entries_and_own_answers_through_the_published_command(typed, place, flags):
    folder = place[1]
    line = [*COPA, "-m", "small", "--teacher_path", "large", "-ep", 1, "--logging_steps", 1, "--overwrite"]
    parts = []
    for more in ([], flags):
        typed("student", *line, *more)
        state = max((folder / "debug" / "student").glob("checkpoint-*/trainer_state.json"))
        logs = [log for log in json.loads(state.read_text())["log_history"] if "parts/sinkhorn" in log]
        parts.append([log["parts/sinkhorn"] for log in logs])
    assert len(parts[0]) == len(parts[1]) == 6
    assert all(part > 0 for part in parts[1]) and parts[1] != parts[0]


def test_each_seed_draws_its_own_shots(typed, place):
    folder = place[1]
    line = [*COPA, "-o", "./seeds", "-m", "large", "-ep", 1, "-ns", 4]
    typed("teacher", *line, "--seeds", "3,4")
    typed("teacher", *COPA, "-o", "./alone", "-m", "large", "-ep", 1, "-ns", 4, "-sd", 4)
    alone = (folder / "alone" / "teacher" / "model.safetensors").read_bytes()
    assert (folder / "seeds" / "teacher" / "seed-4" / "model.safetensors").read_bytes() == alone


def test_the_answers_of_each_seeds_shots_are_kept(place, monkeypatch, capsys):
    monkeypatch.chdir(place[1])
    line = ["cache-teacher", "--task_name", "superglue/copa", "--teacher_path", "large", "--student_path", "small"]
    assert main([*line, "--seeds", "3,4", "--num_shots", "4", "--teacher_cache_dir", "kept"]) == 0
    assert capsys.readouterr().out.count("4 answers of large (logits)") == 2
    assert main([*line, "--seeds", "3,4", "--teacher_cache_dir", "kept"]) == 0
    assert capsys.readouterr().out.count("24 answers of large (logits)") == 1


@pytest.mark.parametrize("place", ["gpt"], indirect=True)  # T5 reads any number of tokens
def test_padding_beyond_a_models_limit_is_refused(typed, place):
    _, said = typed("teacher", *COPA, "-o", "./padded", "-m", "large", "-pml", status=2)
    assert "--pad_to_max_length pads to 1024 tokens" in said
    assert "do not fit the model, which reads 256; give a smaller --max_length" in said


def test_wandb_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(SinkdError, match="--wandb_proj needs Weights & Biases"):
        arguments.FinetuneArguments(output_dir="o", wandb_proj="p")


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
@pytest.mark.parametrize("script", SCRIPTS.values())
def test_the_scripts_have_their_published_paths(folder, script):
    done = subprocess.run([sys.executable, ROOT / folder / script, "--dry_run"], capture_output=True, text=True)
    assert done.returncode == 2 and "--dataset_name is missing" in done.stderr
