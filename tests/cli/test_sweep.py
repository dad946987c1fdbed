"""A sweep on a real Ray: trials that crash are recorded, the rest go on, and a second start runs what is lacking."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from sinkd.cli.main import main

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def sweep(world, taught, tmp_path):
    """Starts a sweep over an objective that works and one that cannot, as a user does."""
    flags = {"teacher_path": str(taught), "student_path": str(world.student), "data_dir": str(world.data)}
    flags |= {"num_train_epochs": 1, "batch_size": 16, "report_to": "none"}
    content = {"tasks": ["cola"], "objectives": {"kd": None, "mad": {"distill_loss": "kd", "learning_rate": 1e30}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**content, "flags": flags}, sort_keys=False))

    def start(*more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "sinkd", "sweep", "--config", "sweep.yaml", "--output_dir", "O", *more]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "O" / "sweep.csv").open(newline="") as file:
        return {(row["objective"], row["seed"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_crashed_trials_are_recorded_and_the_same_command_runs_only_what_is_lacking(sweep, tmp_path):
    first = sweep("--seeds", "0")
    out, err = first.communicate(timeout=200)
    assert first.returncode == 1, err
    assert out.startswith("2 trials, 0 finished earlier, 2 to run; in O\n")
    assert err.splitlines()[-1] == ("sinkd: 1 of 2 trials crashed (logs in O/logs); the same command runs them again")
    found = rows(tmp_path)
    assert (found["kd", "0"]["status"], found["kd", "0"]["metric"]) == ("finished", "mcc")
    assert found["mad", "0"]["status"] == "crashed"
    assert found["mad", "0"]["reason"].startswith("student logits: 16 of 16 rows hold NaN")
    assert "Traceback" in (tmp_path / "O" / "logs" / "cola-mad-seed-0.log").read_text()
    # The trial is a run like any other, and its folder goes wherever a run's folder goes.
    trial = tmp_path / "O" / "cola" / "kd" / "seed-0"
    trained = (trial / "model.safetensors").stat().st_mtime_ns
    manifest = yaml.safe_load((trial / "manifest.json").read_text())
    assert manifest["argv"][:2] == ["sinkd", "distill"]

    # One seed more. What is done is found; of what runs, one process is killed, and cannot say why.
    second = sweep("--seeds", "0,1")
    running = {}
    while not running and second.poll() is None:
        time.sleep(0.02)
        for child in psutil.Process(second.pid).children(recursive=True):
            try:
                if "ray::_run_trial" in " ".join(child.cmdline()):
                    running[child.pid] = child
            except psutil.Error:
                continue
    next(iter(running.values())).kill()
    out, err = second.communicate(timeout=200)
    assert second.returncode == 1, err
    assert out.startswith("4 trials, 1 finished earlier, 3 to run; in O\n")
    assert (trial / "model.safetensors").stat().st_mtime_ns == trained
    found = rows(tmp_path)
    assert list(found) == [("kd", "0"), ("kd", "1"), ("mad", "0"), ("mad", "1")]
    assert found["kd", "0"]["status"] == "finished"
    reasons = [row["reason"] for row in found.values() if row["status"] == "crashed"]
    assert sum(reason.startswith("WorkerCrashedError: ") for reason in reasons) == 1
    assert all(reason.startswith(("WorkerCrashedError: ", "student logits: ")) for reason in reasons)
    assert [line.split()[:2] for line in out.splitlines()[-3:-1]] == [["cola", "kd"], ["cola", "mad"]]
    assert "to kd" in out.splitlines()[-4]


@pytest.mark.slow
def test_a_trial_that_no_machine_has_room_for_is_refused(world, taught, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"teacher_path": str(taught), "student_path": str(world.student), "data_dir": str(world.data)}
    content = {"tasks": ["cola"], "objectives": ["kd"], "seeds": [0], "flags": flags, "resources": {"num_cpus": 9999}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    assert main(["sweep", "--config", "sweep.yaml"]) == 2
    assert "a trial asks for 9999 CPU, which this machine does not have" in capsys.readouterr().err


@pytest.mark.slow
def test_an_address_where_nobody_listens_is_told_at_once(world, taught, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"teacher_path": str(taught), "student_path": str(world.student), "data_dir": str(world.data)}
    content = {"tasks": ["cola"], "objectives": ["kd"], "seeds": [0], "flags": flags}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    started = time.monotonic()
    assert main(["sweep", "--config", "sweep.yaml", "--address", "127.0.0.1:1"]) == 2
    assert "Connection refused; is a cluster there (ray start --head)" in capsys.readouterr().err
    assert time.monotonic() - started < 30
