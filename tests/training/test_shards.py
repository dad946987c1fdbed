"""`sinkd cache-teacher` under torchrun: one process and three leave the same cache, and share the work."""

from pathlib import Path

import pytest

from processes import TORCHRUN, python

PROGRAM = Path(__file__).with_name("shards.py")
SHARD = 16  # of the world's 160 rows


@pytest.fixture(scope="module")
def fill(world, taught):
    """(folder, processes) -> every file of the cache by its name, and the rows that each process asked the teacher."""

    def fill(folder, processes):
        command = ["cache-teacher", "--task_name", "cola", "--data_dir", world.data, "--teacher_path", taught]
        command += ["--student_path", world.student, "--distill_loss", "kd+sinkhorn", "--teacher_cache_dir", folder]
        done = python(*TORCHRUN, processes, PROGRAM, SHARD, *command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("160 answers") == 1, "every process told of the cache"
        files = sorted(path for kind in ("*.npy", "*.json") for path in folder.rglob(kind))
        asked = [[int(row) for row in path.read_text().split()] for path in sorted(folder.glob("asked-*"))]
        return {path.relative_to(folder): path.read_bytes() for path in files}, asked

    return fill


@pytest.mark.slow
def test_the_cache_is_the_same_for_any_number_of_processes(fill, tmp_path):
    alone, _ = fill(tmp_path / "alone", 1)
    written, asked = fill(tmp_path / "three", 3)
    assert written == alone
    assert len(asked) == 3
    assert sorted(row for rows in asked for row in rows) == list(range(160)), "each row is asked once"
