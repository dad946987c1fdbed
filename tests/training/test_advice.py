"""Advice before a run."""

from sinkd.cli.main import main


def test_a_run_without_text_is_told_what_text_is_worth_unless_it_is_quiet(world, taught, tmp_path, caplog):
    caplog.set_level("INFO", "sinkd")
    models = ["--teacher_path", taught, "--student_path", world.student, "--max_steps", "1"]
    text = tmp_path / "more.txt"
    text.write_text("the dog sees the cats\n" * 8)
    told = {}
    for name, more in {"plain": [], "quiet": ["--quiet"], "text": ["--unlabeled_file", text]}.items():
        caplog.clear()
        assert main(["distill", *world.flags(tmp_path / name, *models, *more)]) == 0
        told[name] = caplog.text.count("--unlabeled_file was worth")
    assert told == {"plain": 1, "quiet": 0, "text": 0}
