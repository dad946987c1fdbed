"""A run in a pipe tells a line an evaluation; in a terminal it is one bar that goes when it is done."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sinkd.report import RunProgress

ARGS = SimpleNamespace(seed=3, eval_strategy="epoch")


def state(step: int, epoch: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(is_world_process_zero=True, max_steps=20, global_step=step, epoch=epoch)


@pytest.fixture
def screen(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("sinkd.report.bar.Console", lambda **kwargs: console)
    return screen


def play(progress: RunProgress) -> None:
    progress.on_train_begin(ARGS, state(0), None)
    progress.on_step_end(ARGS, state(10), None)
    progress.on_log(ARGS, state(10), None, {"loss": 0.25})
    progress.on_evaluate(ARGS, state(10), None, {"eval_mcc": 0.5})
    progress.on_train_end(ARGS, state(20), None)


def test_a_pipe_gets_a_line_an_evaluation(capsys):
    play(RunProgress("kd", "mcc"))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "kd, seed 3: epoch 1, mcc 0.5000\n")


def test_a_pipe_is_told_of_the_teacher_by_nothing(capsys):
    RunProgress("kd", "mcc").teacher_rows(5, 10)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_the_score(screen, capsys):
    progress = RunProgress("kd", "mcc")
    play(progress)
    shown = screen.getvalue()
    assert "kd, seed 3" in shown and "10/20" in shown and "mcc 0.500" in shown
    assert not progress.bar.shown
    assert capsys.readouterr() == ("", "")


def test_the_teachers_answers_have_a_bar_until_they_are_all_there(screen):
    progress = RunProgress("kd", "mcc")
    progress.teacher_rows(5, 10)
    assert progress.bar.shown
    progress.teacher_rows(10, 10)
    assert not progress.bar.shown
    assert "teacher answers" in screen.getvalue()


def test_other_ranks_and_evaluations_without_the_metric_are_silent(capsys):
    progress = RunProgress("kd", "mcc")
    progress.on_evaluate(ARGS, SimpleNamespace(is_world_process_zero=False, epoch=1.0), None, {"eval_mcc": 0.5})
    progress.on_evaluate(ARGS, state(10), None, {"eval_loss": 0.5})
    assert capsys.readouterr() == ("", "")
