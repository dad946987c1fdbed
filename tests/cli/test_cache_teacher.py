"""A run that reads cached answers does not load the teacher."""

import pytest

from sinkd.cli.main import main


@pytest.fixture
def flags(world, taught, tmp_path):
    return [
        *("--task_name", "cola", "--data_dir", str(world.data), "--teacher_path", str(taught)),
        *("--student_path", str(world.student), "--teacher_cache_dir", str(tmp_path / "cache")),
    ]


def test_training_reads_the_answers_without_the_teacher(flags, tmp_path, monkeypatch, capsys):
    assert main(["cache-teacher", *flags, "--distill_loss", "kd+sinkhorn"]) == 0
    assert "160 answers" in capsys.readouterr().out
    monkeypatch.setattr("sinkd.training.teacher.Teacher.model", property(lambda teacher: pytest.fail("loaded")))
    train = ["distill", *flags, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "out")]
    assert main([*train, "--distill_loss", "kd+sinkhorn"]) == 0
    assert main([*train, "--overwrite", "--distill_loss", "kl"]) == 0, "another objective, the same logits"


def test_a_run_that_finds_no_answers_asks_the_teacher_itself(flags, tmp_path):
    assert main(["distill", *flags, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "cache").glob("*/logits.float32/00000/index.json"))


def test_labels_alone_need_nothing_that_can_be_kept(flags, capsys):
    assert main(["cache-teacher", *flags, "--distill_loss", "ce"]) == 2
    assert "needs nothing of a teacher that can be kept" in capsys.readouterr().err


def test_a_teacher_of_another_task_is_refused_before_anything_is_written(flags, world, tmp_path, capsys):
    flags[flags.index("--teacher_path") + 1] = str(world.student)
    assert main(["distill", *flags, "--output_dir", str(tmp_path / "out")]) == 2
    assert "has no classifier on top" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
