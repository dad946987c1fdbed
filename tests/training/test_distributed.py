"""Two processes train one model: what torchrun starts finds itself, and resumes to the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def launch(*argv) -> subprocess.CompletedProcess:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [*torchrun, "-m", "sinkd", *map(str, argv)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_distributed_run_resumes_in_a_later_epoch_to_the_same_weights(world, taught, tmp_path):
    paths = ["--teacher_path", taught, "--student_path", world.student]
    more = ["--distill_loss", "kd+sinkhorn", "--learnable_curvature", "--num_train_epochs", "2", "--save_steps", "7"]
    whole, cut = (["distill", *paths, *world.flags(tmp_path / name, *more)] for name in ("whole", "cut"))
    done = launch(*whole)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("glue/cola") == 1, "every process printed the table"
    assert (tmp_path / "whole" / "checkpoint-10" / "rng_state_1.pth").is_file(), "two processes that trained alone"
    assert launch(*cut).returncode == 0
    # Back to step 7, in the middle of the second epoch, as a kill would leave it.
    for name in ("checkpoint-10", "metrics.json", "model.safetensors"):
        path = tmp_path / "cut" / name
        subprocess.run(["rm", "-r", str(path)], check=True)
    resumed = launch(*cut)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("checkpoint-10/model.safetensors", "checkpoint-10/objective.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
