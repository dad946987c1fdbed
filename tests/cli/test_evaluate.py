"""`sinkd evaluate` gives the training run's best score; `sinkd predict` writes the format of GLUE's server."""

import json
import os

import pytest

from sinkd.cli.main import main
from sinkd.tasks import load_task
from small_language_models import write_language_model


@pytest.fixture
def ask(world, tmp_path, monkeypatch):
    """Runs a command on CoLA with a model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ask(command: str, model, *more: str) -> int:
        return main([command, "--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(model), *more])

    return ask


def test_evaluate_gives_the_training_runs_best_and_writes_nothing(ask, taught, tmp_path, capsys):
    assert ask("evaluate", taught) == 0
    _title, names, values = capsys.readouterr().out.splitlines()
    best = json.loads((taught / "metrics.json").read_text())
    assert names.split() == ["mcc", "accuracy", "rows/s", "seconds"]
    assert values.split()[:2] == [f"{best['best']:.4f}", f"{best['scores']['accuracy']:.4f}"]
    assert not os.listdir(tmp_path)


def test_evaluate_scores_a_language_model_that_is_asked_in_words_raw_and_balanced(ask, tmp_path, capsys):
    model = write_language_model(tmp_path / "lm", "gpt2")
    words = ["--prompt", "{{sentence}} is", "--answers", "the man ||| because"]
    assert ask("evaluate", model, *words, "--class_prior", "uniform") == 0
    _title, names, raw, balanced = capsys.readouterr().out.splitlines()
    assert names.split() == ["answers", "mcc", "accuracy", "rows/s", "seconds"]
    assert raw.split()[0] == "raw" and balanced.split()[0] == "balanced"
    assert ask("evaluate", model, *words) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == raw.split()[1:3]
    assert raw.split()[1:3] != balanced.split()[1:3]


def test_evaluate_refuses_a_model_without_a_classifier(ask, world, capsys):
    assert ask("evaluate", world.student) == 2
    assert "no classifier on top" in capsys.readouterr().err


def test_predict_writes_a_line_for_each_row_of_the_test_set(ask, world, taught, tmp_path, capsys):
    assert ask("predict", taught, "--output_dir", "answers") == 0
    assert capsys.readouterr().out == "wrote answers/CoLA.tsv\n"
    header, *lines = (tmp_path / "answers" / "CoLA.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == list(load_task("cola", world.data).read("test")["index"])
    assert {line.split("\t")[1] for line in lines} <= {"0", "1"}
    assert os.listdir(tmp_path) == ["answers"]


def test_predict_writes_into_the_models_folder_by_default(ask, taught, tmp_path, capsys):
    os.symlink(taught, tmp_path / "model")
    assert ask("predict", "./model") == 0
    assert capsys.readouterr().out == "wrote model/CoLA.tsv\n"
    (taught / "CoLA.tsv").unlink()


def test_a_task_that_cannot_be_scored_or_predicted_says_so(ask, taught, tmp_path, capsys):
    (tmp_path / "AX").mkdir()
    (tmp_path / "AX" / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert ask("evaluate", taught, "--task_name", "ax", "--data_dir", ".") == 2
    assert "glue/ax has no dev set; sinkd predict writes its answers" in capsys.readouterr().err
    (tmp_path / "t.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    flags = ["--train_file", "t.tsv", "--dev_file", "t.tsv", "--text_columns", "text", "--label_column", "label"]
    assert main(["predict", *flags, "--model_path", str(taught)]) == 2
    assert "has no test file; give one by --test_file" in capsys.readouterr().err
