"""A command's exit status (0 success, 1 failure, 2 wrong input) and its one sentence on standard error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sinkd
from sinkd.cli.main import COMMANDS, main
from sinkd.errors import SinkdError, Terminated

SOURCE = Path(__file__).resolve().parents[2] / "src"


def shell(command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["sh", "-c", command.replace("sinkd", f"{sys.executable} -m sinkd", 1)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def raising(monkeypatch):
    """A command that ends with this error."""

    def raising(error: BaseException) -> None:
        def command(argv):
            raise error

        monkeypatch.setattr("sinkd.cli.finetune.main", command)

    return raising


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_the_commands(argv, capsys):
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert all(re.search(rf"^  {name} ", shown.out, re.M) for name in COMMANDS)
    assert shown.err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sinkd {sinkd.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr()
    assert "--traceback" in shown.out
    assert shown.err == ""


def test_an_unknown_command_names_the_nearest_or_lists_all(capsys):
    assert main(["distil"]) == main(["xyzzy"]) == 2
    near, far = capsys.readouterr().err.splitlines()
    assert near == 'sinkd: "distil" is no command of sinkd; did you mean "distill"?'
    assert far == f'sinkd: "xyzzy" is no command of sinkd; there are {", ".join(COMMANDS)}'


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (SinkdError("the sky is green; it must be blue"), 2, "sinkd: the sky is green; it must be blue"),
        (RuntimeError("boom"), 1, "sinkd: RuntimeError: boom (--traceback shows where)"),
        (PermissionError(13, "Permission denied", "models/bert"), 1,
         "sinkd: models/bert cannot be read or written: Permission denied (--traceback shows where)"),
        (OSError(28, "No space left on device"), 1,
         "sinkd: the system says: [Errno 28] No space left on device (--traceback shows where)"),
        (KeyboardInterrupt(), 130, "sinkd: interrupted; the same command goes on from what is finished"),
        (Terminated("stopped at step 3"), 143, "sinkd: stopped at step 3"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_a_status(raising, capsys, error, status, sentence):
    raising(error)
    assert main(["finetune"]) == status
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", sentence + "\n")


@pytest.mark.parametrize("error", [SinkdError("wrong"), RuntimeError("boom")])
def test_tracebacks_are_shown_on_request(raising, capsys, error):
    raising(error)
    main(["finetune", "--traceback"])
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert f"{type(error).__name__}: {error}" in shown
    assert "shows where" not in shown


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (["finetune", "--task_name", "cola", "--data_dir", "D"], ["D/CoLA"]),
        (["finetune", "--task_name", "coda", "--output_dir", "O"], ["coda", "cola"]),
        (["finetune", "--output_dir", "O"], ["--task_name is missing"]),
        (["finetune"], ["--task_name is missing"]),
        (["distill", "--distill_loss", "kd+salience", "--output_dir", "O"], ['"salience"', 'did you mean "saliency"?']),
        (["distill", "--only_mgskd", "--mgskd_heads", "0", "--output_dir", "O"], ["heads is 0"]),
        (["distill", "--sinkhorn_cost", "l3", "--distill_loss", "sinkhorn", "--output_dir", "O"], ["'l3'"]),
        (["distill", "--aplha", "1"], ["--aplha", "alpha"]),
        (["finetune", "--label_smoothing_factor", "0.1", "--output_dir", "O"], ["--label_smoothing_factor"]),
        (["finetune", "--resume_from_checkpoint", "X", "--output_dir", "O"], ["--resume_from_checkpoint", "by itself"]),
        (["evaluate"], ["--model_path is missing"]),
        (["predict"], ["--model_path is missing"]),
        (["export"], ["the model is missing"]),
        (["convert", "nowhere", "O"], ["no TensorFlow checkpoint nowhere"]),
        (["convert", "nowhere"], ["output"]),
        (["download", "gleu"], ["gleu", "glue"]),
        (["demo", "--rows", "5"], ["--rows is 5", "at least 100"]),
        (
            ["finetune", "--task_name", "cola", "--encoding", "latin-1"],
            ["--task_name cola and flags of your own table"],
        ),
        (["sweep"], ["--config is missing"]),
        (["sweep", "--config", "S.yaml"], ["S.yaml", "does not exist"]),
        (["estimate"], ["--student is missing"]),
        (["estimate", "--student", "7b"], ["--student is 7b", "11b", "or give a folder"]),
        (["estimate", "--student", "3b", "--teacher", "110m"], ["encoder-decoder", "both be encoders, or neither"]),
        (["estimate", "--student", "3b", "--sharding", "fsdp2"], ["--sharding fsdp2", "--devices above 1"]),
        (["estimate", "--student", "3b", "--batch_size", "0"], ["--batch_size is 0"]),
        (["estimate", "--student", "./none"], ["--student names ./none"]),
        (["demo", "--trian_rows", "5"], ["--trian_rows"]),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing_behind(argv, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sinkd: ") and shown.err.count("\n") == 1
    for fragment in fragments:
        assert fragment in shown.err
    assert not list(tmp_path.iterdir())


def test_missing_models_are_named_by_their_flag(world, tmp_path, capsys):
    for argv, flag in (
        (["finetune"], "--model_path"),
        (["distill", "--teacher_path", world.teacher], "--student_path"),
        (["distill", "--student_path", world.student], "--teacher_path"),
    ):
        assert main([*map(str, argv), *world.flags(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.startswith(f"sinkd: {flag} is missing")


def test_an_untrained_teacher_is_refused(world, tmp_path, capsys):
    paths = ["--teacher_path", world.teacher, "--student_path", world.student]
    assert main(["distill", *world.flags(tmp_path / "out", *paths)]) == 2
    assert "no classifier on top; fine-tune it on glue/cola first (sinkd finetune)" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["distill", "--task_name", "cola", "--alpha", "0.3", "--per_gpu_batch_size", "7", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = {"alpha: 0.3", "per_device_train_batch_size: 7", "output_dir: experiments/exp_distill_cola/student"}
    assert wanted <= set(lines)
    assert lines[0] == "objective: ce:0.7+kd:0.3"
    assert lines[1:] == sorted(lines[1:])
    assert main(["distill", "--task_name", "cola", "--distill_loss", "kd+salience", "--dry_run"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_as_a_program_it_returns_its_status_and_nothing_else_on_standard_error():
    wrong = shell("sinkd finetune --aplha 1 --output_dir O")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == 'sinkd: sinkd finetune has no flag "--aplha"; see --help\n'


@pytest.mark.slow
def test_a_closed_pipe_is_not_a_failure():
    closed = shell("sinkd distill --dry_run --task_name cola | head -1")
    assert closed.stdout.count("\n") == 1
    assert closed.stderr == ""
