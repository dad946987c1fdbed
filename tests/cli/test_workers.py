"""Students side by side come out as one after another; what stops one stops all, in one sentence."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sinkd.cli.main import main
from sinkd.cli.workers import distill_all
from sinkd.errors import SinkdError, Terminated

pytestmark = pytest.mark.slow


@pytest.fixture
def flags(world, taught, tmp_path):
    """The flags of a student that is called so."""

    def flags(name: str, *more: object) -> list[str]:
        paths = ["--teacher_path", taught, "--student_path", world.student]
        return world.flags(tmp_path / name, *paths, *more)

    return flags


def when(there: Path, pattern: str, act) -> threading.Thread:
    """A thread that acts once a file of that pattern is there, or after a minute."""

    def watch() -> None:
        until = time.monotonic() + 60
        while not list(there.glob(pattern)) and time.monotonic() < until:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_side_by_side_is_as_one_after_another(flags, tmp_path):
    objectives = {"labels": "ce", "kd": "kd", "matching": "kd+sinkhorn_hidden"}
    jobs = {name: flags(name, "--distill_loss", loss, "--seeds", "0,1") for name, loss in objectives.items()}
    learned = distill_all(jobs, "sinkd demo")
    assert list(learned) == list(objectives)
    for name, loss in objectives.items():
        assert main(["distill", *flags(f"{name}-alone", "--distill_loss", loss, "--seed", "1")]) == 0
        weights = "model.safetensors"
        alone = (tmp_path / f"{name}-alone" / weights).read_bytes()
        assert (Path(learned[name].outcomes[1].folder) / weights).read_bytes() == alone
    assert not multiprocessing.active_children()


def test_a_wrong_job_stops_all(flags):
    jobs = {"long": flags("long", "--num_train_epochs", "10000"), "wrong": flags("wrong", "--student_path", "nowhere")}
    with pytest.raises(SinkdError, match="nowhere"):
        distill_all(jobs, "sinkd demo")
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_told_of(flags, tmp_path):
    def kill() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = when(tmp_path, "long/checkpoint-*/trainer_state.json", kill)
    with pytest.raises(SinkdError, match="the process of long ended with status -9"):
        distill_all({"long": flags("long", "--num_train_epochs", "10000")}, "sinkd demo")
    killer.join()


def test_sigterm_leaves_checkpoints_and_nobody(flags, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        if signal.getsignal(signal.SIGTERM) != before:  # it would end the tests
            os.kill(os.getpid(), signal.SIGTERM)

    ender = when(tmp_path, "long/checkpoint-*/trainer_state.json", end)
    with pytest.raises(Terminated, match="the same command goes on"):
        # four rows in an update: the epoch's last step, which is saved anyway, is rarely the next
        distill_all({"long": flags("long", "--num_train_epochs", "10000", "--per_gpu_batch_size", "4")}, "sinkd demo")
    ender.join()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) == before
    steps = [int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "long").glob("checkpoint-*")]
    assert any(step % 40 for step in steps), "no checkpoint within an epoch"
