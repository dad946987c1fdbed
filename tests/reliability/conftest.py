"""A run that faults happen to, and what sinkd says then."""

import pytest

# 160 rows in batches of 16: ten steps an epoch. Dropout is on, the curvature learns, batches are grouped by length.
OBJECTIVE = ["--distill_loss", "kd+sinkhorn", "--sinkhorn_weight", "1", "--sinkhorn_reduction", "mean"]
OBJECTIVE += ["--learnable_curvature", "--num_train_epochs", "3", "--save_steps", "4", "--logging_steps", "5"]


@pytest.fixture(scope="module")
def command(world, taught):
    """(folder, further flags) -> the command line of a run."""
    paths = ["--teacher_path", str(taught), "--student_path", str(world.student)]
    return lambda output="run", *more: ["distill", *paths, *world.flags(output, *OBJECTIVE, *more)]


@pytest.fixture
def said(capfd):
    """Returns the last line of sinkd on stderr."""

    def said() -> str:
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return [line for line in error.splitlines() if line.startswith("sinkd: ")][-1].removeprefix("sinkd: ")

    return said
