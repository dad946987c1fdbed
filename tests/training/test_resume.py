"""A run that is killed at any point, also while saving, resumes to bit-equal weights."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

VICTIM = Path(__file__).with_name("victim.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"
# 160 rows in batches of 16: ten steps an epoch. Dropout is on, the curvature learns, batches are grouped by length.
OBJECTIVE = ["--distill_loss", "kd+sinkhorn", "--sinkhorn_weight", "1", "--sinkhorn_reduction", "mean"]
OBJECTIVE += ["--learnable_curvature", "--num_train_epochs", "3", "--save_steps", "4", "--logging_steps", "5"]


def run(*argv, victim: tuple[str, int] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(VICTIM), *map(str, victim)] if victim else [sys.executable, "-m", "sinkd"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([*command, *map(str, argv)], env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def command(world, taught):
    def flags(output: Path) -> list[str]:
        paths = ["--teacher_path", str(taught), "--student_path", str(world.student)]
        return ["distill", *paths, *world.flags(output, *OBJECTIVE)]

    return flags


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(*command(folder))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    newest = "checkpoint-30"
    for name in ("model.safetensors", "objective.safetensors"):
        assert (folder / newest / name).read_bytes() == (undisturbed / newest / name).read_bytes(), name
    scores, expected = (json.loads((f / "metrics.json").read_text()) for f in (folder, undisturbed))
    assert (scores["best"], scores["final"]) == (expected["best"], expected["final"])
    assert [entry["step"] for entry in scores["history"]] == [10, 20, 30]


@pytest.mark.parametrize("moment", [("step", 13), ("step", 20), ("save", 5)], ids=["second epoch", "epoch end", "save"])
@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(command, undisturbed, tmp_path, moment):
    folder = tmp_path / "run"
    killed = run(*command(folder), victim=moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "metrics.json").exists()
    resumed = run(*command(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(folder, undisturbed)


@pytest.mark.slow
def test_a_terminated_run_saves_and_resumes_to_the_same_weights(command, undisturbed, tmp_path):
    folder = tmp_path / "run"
    stopped = run(*command(folder), victim=("terminate", 13))
    assert stopped.returncode == 143
    assert "step 14" in stopped.stderr
    assert (folder / "checkpoint-14").is_dir()
    assert run(*command(folder)).returncode == 0
    assert_same_end(folder, undisturbed)


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint_complete(command, undisturbed, tmp_path):
    folder = tmp_path / "run"
    stopped = run(*command(folder), victim=("full", 3))
    assert stopped.returncode == 2, stopped.stderr
    assert "checkpoint-10 could not be written" in stopped.stderr
    assert stopped.stderr.count("Traceback") == 0
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-4", "checkpoint-8"]
    assert run(*command(folder)).returncode == 0
    assert_same_end(folder, undisturbed)


@pytest.mark.slow
def test_the_curvature_was_learned_and_is_in_the_checkpoint_not_in_the_model(undisturbed):
    from safetensors.torch import load_file

    learned = load_file(undisturbed / "checkpoint-30" / "objective.safetensors")
    assert any(abs(float(value)) > 1e-6 for value in learned.values())
    assert not any("curvature" in name for name in load_file(undisturbed / "model.safetensors"))
