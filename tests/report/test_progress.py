"""In a pipe a run prints a line per evaluation and minute; in a terminal one live line that disappears at the end."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from sinkd.report import RunProgress, show_trials
from sinkd.training.training_log import Meter

ARGS = SimpleNamespace(seed=3, eval_strategy="epoch")


def state(step: int, epoch: float = 1.0) -> SimpleNamespace:
    where = {"max_steps": 20, "global_step": step, "epoch": epoch, "num_train_epochs": 4}
    return SimpleNamespace(is_world_process_zero=True, best_metric=None, **where)


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list."""
    clock = [0.0]
    monkeypatch.setattr("sinkd.report.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


@pytest.fixture
def screen(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr("sinkd.report.progress.Console", lambda **kwargs: console)
    return screen


def play(progress: RunProgress, clock: list[float]) -> None:
    """Training to step 15 of 20 in 90 seconds, with evaluations of 0.5 and 0.4."""
    progress.meter = Meter()
    progress.on_train_begin(ARGS, state(0), None)
    for step in range(1, 16):
        clock[0] += 6
        progress.meter.add(torch.tensor(0.25), {"ce": torch.tensor(0.5), "kd": torch.tensor(0.125)})
        progress.on_step_end(ARGS, state(step), None)
        if step in (5, 10):
            progress.on_evaluate(ARGS, state(step, step / 5), None, {"eval_mcc": 0.6 - step / 50})


def test_a_pipe_gets_a_line_per_evaluation_and_one_a_minute(clock, capsys):
    play(RunProgress("kd", "mcc"), clock)
    shown = capsys.readouterr()
    loss, scores = "loss 0.25 (ce 0.5, kd 0.125)", "mcc 0.5000, best 0.5000"
    first, minute, second = shown.err.splitlines()
    assert (first, second) == ("kd, seed 3: epoch 1 of 4, mcc 0.5000", "kd, seed 3: epoch 2 of 4, mcc 0.4000")
    assert minute == f"kd, seed 3: step 10 of 20, {loss}, {scores}, 0 rows/s, 0:01:00 left"
    assert shown.out == ""


def test_a_terminal_gets_a_live_line_that_disappears(clock, screen, capsys):
    progress = RunProgress("kd", "mcc")
    play(progress, clock)
    progress.on_step_end(ARGS, state(15), None)
    progress.on_train_end(ARGS, state(20), None)
    shown = screen.getvalue()
    for part in ("kd, seed 3", "15/20", "loss 0.25 (ce 0.5, kd 0.125), mcc 0.4000, best 0.5000, 0 rows/s"):
        assert part in shown
    assert capsys.readouterr() == ("", "")


def test_the_teachers_answers_have_a_line_until_they_are_complete(clock, screen):
    progress = RunProgress("kd", "mcc")
    for done in (4, 5, 10):
        progress.teacher_rows(done, 10)
        clock[0] += 2
    assert "teacher's answers" in screen.getvalue() and "10/10" in screen.getvalue()
    assert "1.5 rows/s" in screen.getvalue()  # 6 in 4 seconds
    shown = screen.getvalue()
    play(progress, clock)
    assert "kd, seed 3" in screen.getvalue().removeprefix(shown)


def test_in_a_pipe_the_teachers_answers_have_a_line_a_minute(clock, capsys):
    progress = RunProgress("kd", "mcc")
    for done in range(0, 1000, 10):
        progress.teacher_rows(done, 1000)
        clock[0] += 1
    assert capsys.readouterr().err == "teacher's answers: row 600 of 1,000, 10.0 rows/s, 0:00:40 left\n"


def test_the_next_teacher_has_a_line_of_its_own(clock, capsys):
    progress = RunProgress("kd", "mcc")
    for done, rows in ((800, 1000), (100, 1000), (100, 1000), (200, 1000), (10, 64)):
        progress.teacher_rows(done, rows)
        clock[0] += 100
    first, second = capsys.readouterr().err.splitlines()
    assert first == "teacher's answers: row 100 of 1,000, 0.0 rows/s"
    assert second == "teacher's answers: row 200 of 1,000, 0.5 rows/s, 0:26:40 left"


def test_other_ranks_and_evaluations_without_the_metric_are_silent(capsys):
    progress = RunProgress("kd", "mcc")
    other = state(0)
    other.is_world_process_zero = False
    progress.on_train_begin(ARGS, other, None)
    progress.on_evaluate(ARGS, other, None, {"eval_mcc": 0.5})
    progress.on_step_end(ARGS, other, None)
    progress.on_train_begin(ARGS, state(0), None)
    progress.on_evaluate(ARGS, state(10), None, {"eval_loss": 0.5})
    assert capsys.readouterr() == ("", "")


def test_without_evaluation_a_pipe_gets_a_line_per_epoch_which_a_sweep_reads(capsys):
    progress = RunProgress("kd", None)
    progress.on_train_begin(ARGS, state(0), None)
    progress.on_epoch_end(ARGS, state(10), None)
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
