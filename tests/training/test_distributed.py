"""Two processes train one model, survive faults, and end with the same weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
VICTIM = Path(__file__).with_name("victim.py")


def launch(*argv, restarts: int = 0, victim: tuple[str, int] | None = None) -> subprocess.CompletedProcess:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(VICTIM), *map(str, victim)] if victim else ["-m", "sinkd"]
    command = [*torchrun, "--max_restarts", str(restarts), *program, *map(str, argv)]
    # torch 2.13 hands a restarted worker the store of the attempt before it, with addresses of the dead.
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def command(world, taught):
    def command(folder):
        paths = ["--teacher_path", taught, "--student_path", world.student]
        more = [
            "--distill_loss",
            "kd+sinkhorn",
            "--learnable_curvature",
            "--num_train_epochs",
            "2",
            "--save_steps",
            "7",
        ]
        return ["distill", *paths, *world.flags(folder, *more)]

    return command


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = launch(*command(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("glue/cola") == 1, "every process printed the table"
    assert (folder / "checkpoint-10" / "rng_state_1.pth").is_file(), "two processes that trained alone"
    return folder


def assert_same_end(folder, whole):
    for name in ("checkpoint-10/model.safetensors", "checkpoint-10/objective.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_distributed_run_resumes_in_a_later_epoch_to_the_same_weights(command, whole, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    # Back to step 7, in the middle of the second epoch, as a kill would leave it.
    for name in ("checkpoint-10", "metrics.json", "model.safetensors"):
        subprocess.run(["rm", "-r", str(cut / name)], check=True)
    resumed = launch(*command(cut))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(cut, whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_epoch_is_replaced(command, whole, tmp_path):
    done = launch(*command(tmp_path / "run"), restarts=1, victim=("worker", 9))
    assert done.returncode == 0, done.stderr
    assert "SIGKILL" in done.stderr or "-9" in done.stderr, "nobody was killed"
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.slow
def test_nan_on_one_process_stops_all_with_one_message(command, tmp_path):
    done = launch(*command(tmp_path / "run"), "--quiet", victim=("nan", 3))
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("sinkd: ")]
    assert len(messages) == 1, done.stderr
    assert "not finite in 16 rows of the student and 0 of the teacher" in messages[0]
