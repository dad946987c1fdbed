"""In a pipe a run prints a line per evaluation; in a terminal it has a bar that disappears at the end."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sinkd.report import RunProgress, show_trials

ARGS = SimpleNamespace(seed=3, eval_strategy="epoch")


def state(step: int, epoch: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(is_world_process_zero=True, max_steps=20, global_step=step, epoch=epoch, num_train_epochs=4)


@pytest.fixture
def screen(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("sinkd.report.progress.Console", lambda **kwargs: console)
    return screen


def play(progress: RunProgress) -> None:
    progress.on_train_begin(ARGS, state(0), None)
    progress.on_step_end(ARGS, state(10), None)
    progress.on_log(ARGS, state(10), None, {"loss": 0.25})
    progress.on_evaluate(ARGS, state(10), None, {"eval_mcc": 0.5})
    progress.on_train_end(ARGS, state(20), None)


def test_a_pipe_gets_a_line_per_evaluation(capsys):
    play(RunProgress("kd", "mcc"))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "kd, seed 3: epoch 1 of 4, mcc 0.5000\n")


def test_a_pipe_gets_nothing_about_the_teacher(capsys):
    RunProgress("kd", "mcc").teacher_rows(5, 10)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_the_score(screen, capsys):
    progress = RunProgress("kd", "mcc")
    play(progress)
    shown = screen.getvalue()
    assert "kd, seed 3" in shown and "10/20" in shown and "mcc 0.500" in shown
    assert capsys.readouterr() == ("", "")


def test_the_teachers_answers_have_a_bar_until_they_are_complete(screen):
    progress = RunProgress("kd", "mcc")
    progress.teacher_rows(4, 10)
    progress.teacher_rows(5, 10)
    shown = screen.getvalue()
    assert "teacher answers" in shown
    progress.teacher_rows(10, 10)
    assert "10/10" in screen.getvalue() and "rows a second" in screen.getvalue()
    play(progress)
    assert "kd, seed 3" in screen.getvalue().removeprefix(shown)


def test_other_ranks_and_evaluations_without_the_metric_are_silent(capsys):
    progress = RunProgress("kd", "mcc")
    progress.on_evaluate(ARGS, SimpleNamespace(is_world_process_zero=False, epoch=1.0), None, {"eval_mcc": 0.5})
    progress.on_evaluate(ARGS, state(10), None, {"eval_loss": 0.5})
    assert capsys.readouterr() == ("", "")


def test_without_evaluation_a_pipe_gets_a_line_per_epoch_which_a_sweep_reads(capsys):
    RunProgress("kd", None).on_epoch_end(ARGS, state(10), None)
    line = capsys.readouterr().err
    assert line == "kd, seed 3: epoch 1 of 4\n"
    with show_trials(1) as progress:
        progress.line("trial", line.strip())
    assert capsys.readouterr().err == "trial, seed 3: epoch 1 of 4\n"


LINE = "kd, seed 0: epoch 3 of 12, mcc 0.5000"


def test_a_pipe_gets_the_evaluations_of_trials_under_their_names(capsys):
    with show_trials(2) as progress:
        progress.line("kd, more text", "sinkd: some note")
        progress.line("kd, more text", LINE)
        progress.ended("kd, more text")
    assert capsys.readouterr() == ("", "kd, more text, seed 0: epoch 3 of 12, mcc 0.5000\n")


def test_a_terminal_gets_a_bar_for_each_running_trial_and_one_for_all(screen, capsys):
    with show_trials(2) as progress:
        progress.line("cola [a]", LINE)
        progress.line("rte", LINE)
        progress.line("sst-2", "")
        progress.ended("cola [a]")
    shown = screen.getvalue()
    for part in ("cola [a], seed 0", "rte, seed 0", "sst-2", "3/12", "mcc 0.5000", "trials", "1/2"):
        assert part in shown
    assert capsys.readouterr() == ("", "")
