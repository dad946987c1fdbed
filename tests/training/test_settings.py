"""The source of a setting, flag or file, does not change which defaults apply."""

from pathlib import Path

import pytest
import yaml

from sinkd import DistillationArguments, SinkdError, recipes
from sinkd.sweep.sweep import read_sweep
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.manifest import describe
from sinkd.training.settings import DATA, READING, named_task, resolve_settings

KINDS = {"teacher": FinetuneArguments, "student": DistillationArguments}
PUBLISHED = {
    "teacher": {"learning_rate": 1e-4, "num_train_epochs": 30, "seed": 42, "weight_decay": 0.01},
    "student": {"distill_loss": "ce:1+kl:0.1+sinkhorn:1", "learning_rate": 1e-4, "sinkhorn_weight": 0.0008,
                "num_train_epochs": 10, "temperature": 1.0, "seed": 42, "weight_decay": 0.01},
}  # fmt: skip
# Every way to name COPA: the command line, and the content of the --config file
NAMED = {
    "flag": (["--task_name", "superglue/copa"], {}),
    "flag with =": (["--task_name=superglue/copa"], {}),
    "hyphens": (["--task-name", "superglue/copa"], {}),
    "without the collection": (["--task_name", "copa"], {}),
    "config": ([], {"task_name": "superglue/copa"}),
    "dataset": (["--dataset_name", "super_glue", "--dataset_config_name", "copa"], {}),
    "dataset with =": (["--dataset_name=super_glue", "--dataset_config_name=copa"], {}),
    "dataset in config": ([], {"dataset_name": "super_glue", "dataset_config_name": "copa"}),
    "config for one half": (["--dataset_config_name", "copa"], {"dataset_name": "super_glue"}),
    "recipe": (["--task_name", "superglue/copa"], {"config": "t0"}),
}


def settings(args) -> dict:
    """All settings but those that name the task, the file or the folder."""
    names = {"task_name", "dataset_name", "dataset_config_name", "config", "output_dir"}
    return {name: value for name, value in args.to_dict().items() if name not in names}


@pytest.mark.parametrize("role", KINDS)
@pytest.mark.parametrize("way", NAMED)
def test_a_language_models_task_has_the_same_defaults_under_every_name(way, role, tmp_path):
    argv, content = NAMED[way]
    if content:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        path = recipes.find(f"t0/{role}") if "config" in content else tmp_path / "own.yaml"
        argv = [*argv, "--config", str(path)]
    args = resolve_settings(KINDS[role], argv, "sinkd")
    assert {name: getattr(args, name) for name in PUBLISHED[role]} == PUBLISHED[role]
    assert settings(args) == settings(resolve_settings(KINDS[role], NAMED["flag"][0], "sinkd"))


@pytest.mark.parametrize("task", ["superglue/copa", "cola"])
def test_a_sweeps_trial_has_the_settings_of_its_command(task, tmp_path):
    content = {"tasks": [task], "objectives": ["kd"], "seeds": [3], "flags": {"learning_rate": "2e-4"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    (trial,) = read_sweep(tmp_path / "sweep.yaml", tmp_path / "O").trials
    typed = ["--task_name", task, "--distill_loss", "kd", "--learning_rate", "2e-4", "--seed", "3"]
    args = resolve_settings(DistillationArguments, typed, "sinkd distill")
    assert settings(trial.settings()) == settings(args)
    assert args.num_train_epochs == (8 if task == "cola" else 10)


def test_tasks_of_glue_and_tables_keep_the_defaults_of_encoders(tmp_path):
    plain = settings(resolve_settings(DistillationArguments, [], "sinkd"))
    for task in ("cola", "rte", "glue/rte"):
        assert settings(resolve_settings(DistillationArguments, ["--task_name", task], "sinkd")) == plain


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, None),
        ({"task_name": "cola"}, "cola"),
        ({"dataset_name": "super_glue", "dataset_config_name": "copa"}, "super_glue/copa"),
        ({"dataset_name": "anli", "dataset_config_name": "r1"}, "anli/r1"),
        ({"dataset_name": "boolq"}, "boolq"),
        ({"dataset_name": "rte"}, "superglue/rte"),  # bare, --task_name rte is GLUE's
    ],
)
def test_the_task_is_named_by_one_flag_or_by_two(flags, name):
    assert named_task(flags) == name


def test_two_names_are_two_tasks(tmp_path):
    (tmp_path / "own.yaml").write_text("task_name: cola")
    flags = ["--config", str(tmp_path / "own.yaml"), "--dataset_name", "super_glue"]
    with pytest.raises(SinkdError, match="--task_name cola and --dataset_name super_glue name two tasks; give one"):
        resolve_settings(FinetuneArguments, flags, "sinkd")


# The run that trained a model


@pytest.fixture
def model(tmp_path) -> Path:
    """The folder of a run, as far as its settings go."""
    flags = ["--task_name", "cola", "--max_seq_length", "6", "--data_dir", "D"]
    describe(resolve_settings(FinetuneArguments, flags, "sinkd"), inputs={}).write(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("place", ["flag", "flag with =", "config"])
def test_lengths_and_data_come_from_the_models_run_wherever_the_model_is_named(model, place, tmp_path):
    (tmp_path / "own.yaml").write_text(f"model_path: {model}")
    argv = {
        "flag": ["--model_path", str(model)],
        "flag with =": [f"--model_path={model}"],
        "config": ["--config", str(tmp_path / "own.yaml")],
    }[place]

    def read(*more: str, trained=(*READING, *DATA)) -> tuple:
        args = resolve_settings(FinetuneArguments, [*argv, *more], "sinkd", trained=trained)
        return args.max_seq_length, args.task_name, args.data_dir

    assert read() == (6, "cola", "D")
    assert read("--max_seq_length", "9", "--data_dir", "E") == (9, "cola", "E")
    assert read("--task_name", "rte") == (6, "rte", "datas/glue"), "the run's folder goes with the run's task"
    assert read(trained=READING) == (6, None, "datas/glue")
    assert read(trained=()) == (128, None, "datas/glue")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_comes_from_the_models_run_where_the_device_has_it(native, tmp_path, monkeypatch):
    flags = ["--task_name", "cola", "--bf16"]
    describe(resolve_settings(FinetuneArguments, flags, "sinkd"), inputs={}).write(tmp_path)
    monkeypatch.setattr("sinkd.training.gpu.multiplies_bfloat16", lambda: native)
    read = ["--model_path", str(tmp_path), "--use_cpu"]
    assert resolve_settings(FinetuneArguments, read, "sinkd", trained=READING).bf16 == native
    assert resolve_settings(FinetuneArguments, [*read, "--bf16"], "sinkd", trained=READING).bf16


def test_published_settings_are_float32_on_a_gpu(monkeypatch):
    def choose(args):  # a GPU's default
        args.bf16, args.dataloader_num_workers = True if args.bf16 is None else args.bf16, 0

    monkeypatch.setattr("sinkd.training.arguments.choose_for_gpu", choose)
    argv = ["--task_name", "cola"]

    def read(*more: str, **how) -> bool:
        return resolve_settings(FinetuneArguments, [*argv, *more], "sinkd", **how).bf16

    assert read() and not read("--protocol", "published")
    assert not read(recipe=lambda task: f"{task}-teacher")
    assert read("--protocol", "published", "--bf16")
