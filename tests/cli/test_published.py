"""The published entry points work as typed, and the recipe fills in omitted settings."""

import json
import re
import sys
from pathlib import Path

import pytest

from sinkd import DistillationArguments
from sinkd.cli.published import main
from sinkd.tasks import load_task
from sinkd.training.manifest import read_manifest
from sinkd.training.settings import resolve_settings

TEACHER, STUDENT = "main_glue.py", "main_glue_distill.py"


@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    """Runs a command line in an empty folder and checks its status; returns its stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def typed(script: str, *argv: object, status: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        ended = main(script)
        shown = capsys.readouterr()
        assert ended == status, shown.err
        return shown.out, shown.err

    return typed


def short(world, *more) -> list[object]:
    return ["--task_name", "cola", "--data_dir", world.data, "--num_train_epochs", 1, *more]


@pytest.mark.parametrize(
    ("script", "flags", "wanted"),
    [
        (STUDENT, "--task_name cola", "distill_loss=kd+sinkhorn alpha=0.9 beta=0.8 temperature=1.0 "
         "per_device_train_batch_size=16 num_train_epochs=20.0 output_dir=experiments/exp_distill_cola/student"),
        (TEACHER, "--task_name=qqp", "seed=32 learning_rate=3e-06 num_train_epochs=5.0 "
         "output_dir=experiments/exp_distill_qqp/teacher"),
        # wherever the task is named
        (STUDENT, "--config own.yaml", "alpha=0.9 num_train_epochs=20.0 beta=0.5 "
         "output_dir=experiments/exp_distill_cola/student"),
        # a task without a recipe has the published parser's defaults
        (STUDENT, "--task_name wnli", "alpha=0.8 distill_loss=kd"),
        # the command line overrides the recipe, also for one of two batch sizes
        (STUDENT, "--task_name cola --alpha 0.5 --per_device_train_batch_size 4 --exp_name mine", "alpha=0.5 "
         "per_device_train_batch_size=4 per_device_eval_batch_size=16 output_dir=experiments/exp_distill_cola/mine"),
    ],
)  # fmt: skip
def test_the_recipe_fills_in_omitted_settings(typed, tmp_path, script, flags, wanted):
    (tmp_path / "own.yaml").write_text("task_name: cola\nbeta: 0.5")
    shown, _ = typed(script, "--do_train", *flags.split(), "--dry_run")
    assert {f"{name.replace('=', ': ', 1)}" for name in wanted.split()} <= set(shown.splitlines())


def test_other_commands_take_a_recipe_only_by_name():
    assert resolve_settings(DistillationArguments, ["--task_name", "cola"], "sinkd distill").alpha == 0.8


@pytest.mark.parametrize("script", [TEACHER, STUDENT])
def test_wrong_command_lines_are_one_sentence(typed, script, tmp_path):
    for argv, fragment in (
        (["--do_train"], "--task_name is missing"),
        (["--do_train", "--task_name", "coda"], "coda"),
        (["--task_name", "cola"], "nothing to do: give --do_train, --do_eval or --do_test"),
        (["--do_eval", "--task_name", "cola"], "holds no finished run; run the same command with --do_train first"),
        (["--do_train", "--task_name", "cola", "--aplha", "1"], "--aplha"),
    ):
        out, err = typed(script, *argv, status=2)
        assert not out and err.startswith("sinkd: ") and err.count("\n") == 1 and fragment in err
    assert not list(tmp_path.iterdir())


def test_the_published_walk_through(typed, world, tmp_path):
    """Teacher, student, evaluation and predictions, each as the published README types it."""
    typed(
        TEACHER, "--do_train", "--do_eval", "--do_lower_case", "--model_path", world.teacher,
        *short(world, "--per_gpu_batch_size", 16, "--learning_rate", "1e-3"),
    )  # fmt: skip
    teacher = Path("experiments", "exp_distill_cola", "teacher")
    assert read_manifest(teacher).settings["do_lower_case"] is True

    command = ["--teacher_path", teacher, "--student_path", world.student, "--distill_loss", "kd+sinkhorn"]
    command += ["--alpha", "0.9", "--beta", "0.8", "--temperature", "1.0", *short(world, "--per_gpu_batch_size", 16)]
    out, _ = typed(STUDENT, "--do_train", "--do_eval", "--do_test", *command)
    student = Path("experiments", "exp_distill_cola", "student")
    assert "ce:0.1+kd:0.9+sinkhorn:0.8" in out
    assert {"config.json", "model.safetensors", "metrics.json", "CoLA.tsv"} <= {p.name for p in student.iterdir()}
    assert out.endswith(f"wrote {student / 'CoLA.tsv'}\n")

    out, _ = typed(STUDENT, "--do_eval", *command)
    best = json.loads((student / "metrics.json").read_text())["best"]
    assert out.splitlines()[2].split()[0] == f"{best:.4f}"

    out, _ = typed(STUDENT, "--do_test", "--test_output_dir", "answers", *command)
    assert out == "wrote answers/CoLA.tsv\n"
    assert Path("answers/CoLA.tsv").read_text() == (student / "CoLA.tsv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", "experiments"]


def test_several_seeds_are_trained_evaluated_and_predicted_each(typed, world):
    command = ["--model_path", world.student, "--seeds", "0,1", "--exp_name", "two"]
    command += short(world, "--per_gpu_batch_size", 32, "--learning_rate", "1e-3")
    typed(TEACHER, "--do_train", *command)
    out, _ = typed(TEACHER, "--do_eval", "--do_test", "--test_output_dir", "answers", *command)
    assert [int(seed) for seed in re.findall(r"two/seed-(\d) on glue/cola", out)] == [0, 1]
    rows = len(load_task("cola", world.data).read("test"))
    for seed in (0, 1):
        assert Path(f"answers/seed-{seed}/CoLA.tsv").read_text().count("\n") == rows + 1


def test_the_published_folder_layout_is_found(typed, world, taught, tmp_path):
    best = tmp_path / "published" / "checkpoints" / "best_checkpoint"
    best.parent.mkdir(parents=True)
    best.symlink_to(taught, target_is_directory=True)
    command = ["--teacher_path", tmp_path / "published", "--student_path", world.student, *short(world)]
    typed(STUDENT, "--do_train", *command)


@pytest.mark.parametrize("flags", [["--student_init", "copy", "--keep_layers", "1"], ["--keep_layers", "1"]])
def test_a_student_can_be_made_of_the_teachers_layers(typed, world, taught, flags):
    command = ["--teacher_path", taught, "--student_path", taught, *flags, *short(world)]
    typed(STUDENT, "--do_train", *command)
    config = json.loads(Path("experiments/exp_distill_cola/student/config.json").read_text())
    assert config["num_hidden_layers"] == 1


def test_copied_layers_need_the_teachers_width(typed, world, taught):
    command = ["--teacher_path", taught, "--student_path", world.student, "--student_init", "copy", *short(world)]
    _, err = typed(STUDENT, "--do_train", *command, status=2)
    assert "does not fit the student's: --student_init copy needs equal width" in err
