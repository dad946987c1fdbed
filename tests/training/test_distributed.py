"""Two processes train one model, survive faults, and end with the same weights."""

import shutil

import pytest

from processes import launch
from sinkd.training.checkpoint import last_checkpoint


@pytest.fixture(scope="module")
def command(world, taught):
    def command(folder):
        paths = ["--teacher_path", taught, "--student_path", world.student]
        more = ["--distill_loss", "kd+sinkhorn", "--learnable_curvature", "--num_train_epochs", 2, "--save_steps", 7]
        return ["distill", *paths, *world.flags(folder, *more)]

    return command


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = launch(*command(folder), processes=2)
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
    shutil.rmtree(cut / "checkpoint-10")
    for name in ("metrics.json", "model.safetensors"):
        (cut / name).unlink()
    resumed = launch(*command(cut), processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(cut, whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_epoch_is_replaced(command, whole, tmp_path):
    done = launch(*command(tmp_path / "run"), processes=2, restarts=1, victim=("worker", 9))
    assert done.returncode == 0, done.stderr
    assert "SIGKILL" in done.stderr or "-9" in done.stderr, "nobody was killed"
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.slow
def test_all_processes_stop_at_the_step_at_which_one_is_told_to(command, tmp_path):
    stopped = launch(*command(tmp_path / "run"), processes=2, victim=("one", 2))
    assert stopped.returncode != 0 and "stopped at step 3" in stopped.stderr
    assert (tmp_path / "run" / "checkpoint-3" / "rng_state_0.pth").is_file()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3"
