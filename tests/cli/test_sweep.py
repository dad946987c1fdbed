"""Crashed trials are recorded while others go on, and a second start runs the missing ones, locally and on Ray."""

import csv
import os
import signal
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
    """Starts a sweep over an objective that works and one that fails, as a user does."""
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


def find(word: str, process: subprocess.Popen) -> psutil.Process | None:
    """The first process with this word in its command line, once there is one, while a sweep lasts."""
    while process.poll() is None:
        for found in psutil.process_iter(["cmdline"]):
            if any(word in part for part in found.info["cmdline"] or []):
                return found
        time.sleep(0.02)
    return None


@pytest.mark.slow
def test_crashed_trials_are_recorded_and_the_same_command_runs_only_missing_ones(sweep, tmp_path):
    first = sweep("--seeds", "0")
    out, err = first.communicate(timeout=200)
    assert first.returncode == 1, err
    assert out.startswith("2 trials, 0 finished earlier, 2 to run; in O\n")
    assert "cola kd seed 0, seed 0: epoch 1 of 1, mcc " in err
    assert err.splitlines()[-1] == ("sinkd: 1 of 2 trials crashed (logs in O/logs); the same command runs them again")
    found = rows(tmp_path)
    assert (found["kd", "0"]["status"], found["kd", "0"]["metric"]) == ("finished", "mcc")
    assert found["mad", "0"]["status"] == "crashed"
    assert found["mad", "0"]["reason"].startswith("student logits: 16 of 16 rows hold NaN")
    assert "Traceback" in (tmp_path / "O" / "logs" / "cola-mad-seed-0.log").read_text()
    # The trial is a run like any other.
    trial = tmp_path / "O" / "cola" / "kd" / "seed-0"
    trained = (trial / "model.safetensors").stat().st_mtime_ns

    # One more seed: finished trials stay, and a process that is killed is reported.
    second = sweep("--seeds", "0,1")
    find("O/cola/kd/seed-1", second).kill()
    out, err = second.communicate(timeout=200)
    assert second.returncode == 1, err
    assert out.startswith("4 trials, 1 finished earlier, 3 to run; in O\n")
    assert (trial / "model.safetensors").stat().st_mtime_ns == trained
    found = rows(tmp_path)
    assert list(found) == [("kd", "0"), ("kd", "1"), ("mad", "0"), ("mad", "1")]
    assert found["kd", "0"]["status"] == "finished"
    reasons = [row["reason"] for row in found.values() if row["status"] == "crashed"]
    assert sum("killed by SIGKILL" in reason for reason in reasons) == 1
    assert all("killed by SIGKILL" in reason or reason.startswith("student logits: ") for reason in reasons)
    assert [line.split()[:2] for line in out.splitlines()[-3:-1]] == [["cola", "kd"], ["cola", "mad"]]


@pytest.mark.slow
def test_on_a_ray_cluster_it_is_the_same(sweep, cluster, tmp_path):
    first = sweep("--seeds", "0,1", "--address", cluster)
    find("ray::_run_trial", first).kill()
    _, err = first.communicate(timeout=200)
    assert first.returncode == 1, err
    reasons = [row["reason"] for row in rows(tmp_path).values()]
    assert sum(reason.startswith("WorkerCrashedError: ") for reason in reasons) == 1
    assert any(reason.startswith("student logits: 16 of 16 rows hold NaN") for reason in reasons)
    assert "" in reasons
    # Ctrl-C leaves no trial behind.
    second = sweep("--seeds", "2", "--address", cluster)
    assert find("O/cola/kd/seed-2", second)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode == 130
    until = time.monotonic() + 20
    while left := [p for p in psutil.process_iter(["cmdline"]) if "O/cola/kd/seed-2" in (p.info["cmdline"] or [])]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.fixture
def cluster(monkeypatch):
    """The address of a Ray cluster on this machine that lasts for a test; sweeps have its token too."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    code = "import ray; ray.init('local', num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20);"
    code += "print(ray.get_runtime_context().gcs_address, flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield process.stdout.readline().strip()
        process.communicate("\n", timeout=60)


@pytest.mark.slow
def test_an_unreachable_address_is_reported_immediately(world, taught, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"teacher_path": str(taught), "student_path": str(world.student), "data_dir": str(world.data)}
    content = {"tasks": ["cola"], "objectives": ["kd"], "seeds": [0], "flags": flags}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    started = time.monotonic()
    assert main(["sweep", "--config", "sweep.yaml", "--address", "127.0.0.1:1"]) == 2
    assert "Connection refused; is a cluster running there (ray start --head)" in capsys.readouterr().err
    assert time.monotonic() - started < 30
