"""A full disk loses nothing: each row of docs/reliability.md about disks.

Disks are file systems of a few MB, mounted for a test and filled by another process.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from reliability.page import PageTable
from sinkd.cli.main import main
from sinkd.training import teacher_cache
from sinkd.training.trainer import TaskTrainer


@pytest.fixture(scope="module")
def page():
    return PageTable("disk")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A file system of 2 MB in the current folder, as `disk`."""
    monkeypatch.chdir(tmp_path)
    Path("disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "disk"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield Path("disk")
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def fill(disk):
    """Let another process fill a file system."""
    done = subprocess.run(["dd", "if=/dev/zero", f"of={disk}/another", "bs=4k"], capture_output=True, text=True)
    assert "No space left on device" in done.stderr


def test_the_disk_fills_while_training(command, page, disk, said, monkeypatch):
    save, saves = TaskTrainer._save_optimizer_and_scheduler, []

    def patched(self, output_dir):
        saves.append(output_dir)
        if len(saves) == 2:
            fill(disk)
        save(self, output_dir)

    with monkeypatch.context() as patch:
        patch.setattr(TaskTrainer, "_save_optimizer_and_scheduler", patched)
        assert main(command("disk/run", "--num_train_epochs", "1")) == 2
    page.see("the disk fills while a checkpoint is written", "the run goes on from the one before it", said())
    assert [path.name for path in Path("disk/run").glob("checkpoint-*")] == ["checkpoint-4"]
    Path("disk/another").unlink()
    assert main(command("disk/run", "--num_train_epochs", "1")) == 0
    assert main(command("whole", "--num_train_epochs", "1")) == 0
    ends = [Path(run, "model.safetensors").read_bytes() for run in ("disk/run", "whole")]
    assert ends[0] == ends[1]


def test_another_process_fills_the_disk_of_the_teachers_cache(command, page, disk, said, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD", 64)
    monkeypatch.setattr("sinkd.training.teacher.SHARD", 64)
    write, written = teacher_cache.Answers._write, []

    def patched(self, feature, number, rows):
        written.append(number)
        if len(written) == 2:
            fill(disk)
        write(self, feature, number, rows)

    monkeypatch.setattr(teacher_cache.Answers, "_write", patched)
    run = command("run", "--teacher_cache_dir", "disk/cache", "--max_steps", "1")
    assert main(run) == 2
    (home,) = Path("disk/cache").iterdir()
    sentence = said().replace(home.name, "...")
    page.see("another process fills the disk of the teacher's cache", "answered shards stay", sentence)
    Path("disk/another").unlink()
    assert main(run) == 0
    assert written == [0, 1, 1, 2], "the first shard was answered again"


def test_a_full_disk_for_prepared_rows(command, page, disk, said, monkeypatch):
    monkeypatch.setenv("SINKD_CACHE", "disk/rows")
    Path("disk/rows").mkdir()
    fill(disk)
    assert main(command("run", "--max_steps", "1")) == 2
    sentence = re.sub(r"/rows/\w\w", "/rows/...", said())
    page.see("the disk of prepared rows is full", "nothing was trained yet", sentence)
    Path("disk/another").unlink()
    assert main(command("run", "--max_steps", "1")) == 0


@pytest.mark.slow
def test_a_full_disk_for_an_export(taught, page, disk, said):
    fill(disk)
    with open("disk/another", "r+b") as file:  # room for a config and a tokenizer, not for the model
        file.truncate(os.path.getsize("disk/another") - 2**16)
    assert main(["export", str(taught), "--output_dir", "disk/onnx"]) == 2
    page.see("the disk fills while a model is exported", "the model stays as it was", said())
    assert not Path("disk/onnx/model.onnx").exists()
    Path("disk/another").unlink()


def test_a_read_only_folder(command, page, disk, said):
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    assert main(command("disk/run")) == 2
    page.see("the output folder is on a read-only disk", "nothing is trained", said())


DISKS = [
    "the disk fills while a checkpoint is written",
    "another process fills the disk of the teacher's cache",
    "the disk of prepared rows is full",
    "the disk fills while a model is exported",
    "the output folder is on a read-only disk",
]


def test_the_page_has_these_disks_alone(page):
    page.end(DISKS)
