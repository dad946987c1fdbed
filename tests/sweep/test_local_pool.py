"""Parallel trials give the results of their commands; stopping the pool stops all trials, with checkpoints."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sinkd.cli.main import main
from sinkd.errors import SinkdError, Terminated
from sinkd.sweep.local_pool import _rooms, cores, run_local
from sinkd.sweep.trial import Trial, follow


@pytest.fixture
def trial(world, taught, tmp_path):
    """Makes the trial of a student."""

    def trial(name: str, *more: object) -> Trial:
        paths = ["--teacher_path", taught, "--student_path", world.student]
        folder = tmp_path / name
        return Trial(name, "distill", tuple(map(str, world.flags(folder, *paths, *more))), folder)

    return trial


def run(trials: list[Trial], logs: Path) -> dict[str, str]:
    """How each trial ended, by name; raises SinkdError for the first that fails with a sentence of sinkd."""
    reasons: dict[str, str] = {}

    def ended(trial: Trial, reason: str) -> None:
        if "nowhere" in reason:
            raise SinkdError(reason)
        reasons[trial.name] = reason

    run_local(trials, {}, logs, ended, lambda trial, line: None)
    return reasons


def when(folder: Path, pattern: str, act) -> threading.Thread:
    """A thread that acts once a file matches the pattern, or after a minute."""

    def watch() -> None:
        until = time.monotonic() + 60
        while not list(folder.glob(pattern)) and time.monotonic() < until:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def trials_alive() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "sinkd" in child.cmdline()]


class Program(Trial):
    """A trial that runs its first argument as a Python program."""

    def start(self, environment=None, own_session=True):
        return start(self.argv[0])


@pytest.mark.timeout(60)
def test_an_error_ends_the_pool_while_more_trials_wait_than_it_has_room_for(tmp_path):
    programs = ["print('sinkd: nowhere'); raise SystemExit(2)", *["import time; time.sleep(600)"] * (3 * cores())]
    trials = [Program(str(n), "distill", (code,), tmp_path / str(n)) for n, code in enumerate(programs)]
    with pytest.raises(SinkdError, match="nowhere"):
        run(trials, tmp_path / "logs")
    assert not [child for child in psutil.Process().children() if "time.sleep(600)" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_side_by_side_is_as_one_after_another(trial, tmp_path):
    objectives = {"labels": "ce", "kd": "kd", "matching": "kd+sinkhorn_hidden"}
    trials = [trial(name, "--distill_loss", loss, "--seeds", "0,1") for name, loss in objectives.items()]
    assert run(trials, tmp_path / "logs") == dict.fromkeys(objectives, "")
    assert "seed " in trials[0].log(tmp_path / "logs").read_text()
    for name, loss in objectives.items():
        alone = trial(f"{name}-alone", "--distill_loss", loss, "--seed", "1")
        assert main(["distill", *alone.argv]) == 0
        weights = [tmp_path / place / "model.safetensors" for place in (f"{name}/seed-1", f"{name}-alone")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_an_error_stops_all(trial, tmp_path):
    trials = [trial("long", "--num_train_epochs", "10000"), trial("wrong", "--student_path", "nowhere")]
    with pytest.raises(SinkdError, match="nowhere"):
        run(trials, tmp_path / "logs")
    assert not trials_alive()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_stopping_the_pool_leaves_checkpoints_and_no_process(trial, tmp_path, number, error):
    before = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        if signal.getsignal(signal.SIGTERM) != before:  # otherwise it would end the tests
            os.kill(os.getpid(), number)

    ender = when(tmp_path, "long/checkpoint-*/trainer_state.json", end)
    with pytest.raises(error):
        # four rows in an update: the next step is rarely the epoch's last, which is saved anyway
        run([trial("long", "--num_train_epochs", "10000", "--per_gpu_batch_size", "4")], tmp_path / "logs")
    ender.join()
    assert not trials_alive()
    assert signal.getsignal(signal.SIGTERM) == before
    steps = [int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "long").glob("checkpoint-*")]
    assert any(step % 40 for step in steps), "no checkpoint within an epoch"


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('sinkd: a note')", ""),
        ("print('sinkd: a note'); print('sinkd: it rained'); print('x'); raise SystemExit(2)", "it rained"),
        ("raise SystemExit(3)", "its process ended with status 3"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "its process was killed by SIGKILL; was there too little memory?",
        ),
    ],
)
def test_how_a_trial_ended_is_one_sentence(code, reason, tmp_path):
    lines: list[str] = []
    assert follow(start(code), tmp_path / "logs" / "trial.log", lines.append) == reason
    assert (tmp_path / "logs" / "trial.log").read_text().splitlines() == lines


def test_as_many_trials_run_as_the_machine_has_room_for(monkeypatch):
    monkeypatch.setattr("sinkd.sweep.local_pool.cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert _rooms({}) == 8 * [{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}]
    assert [room["OMP_NUM_THREADS"] for room in _rooms({"num_cpus": 3})] == ["3", "3"]
    assert [room["CUDA_VISIBLE_DEVICES"] for room in _rooms({"num_cpus": 1, "num_gpus": 0.5})] == ["2", "5", "2", "5"]
    assert len(_rooms({"num_cpus": 0.5})) == 16
    assert len(_rooms({"num_cpus": 0, "num_gpus": 1})) == 2


def test_a_trial_that_this_machine_has_no_room_for_is_refused():
    with pytest.raises(SinkdError, match="a trial asks for 9999 CPU, which this machine does not have"):
        _rooms({"num_cpus": 9999})
    assert len(_rooms({})) == cores()
