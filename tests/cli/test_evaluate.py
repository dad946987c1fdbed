"""`sinkd evaluate` gives the training run's best; `sinkd predict` writes what GLUE's server takes."""

import json
import os

import pytest

from sinkd.cli.main import main
from sinkd.tasks import load_task


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_evaluate_gives_the_training_runs_best_and_writes_nothing(world, taught, elsewhere, capsys):
    flags = ["--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(taught)]
    assert main(["evaluate", *flags]) == 0
    _title, names, values = capsys.readouterr().out.splitlines()
    best = json.loads((taught / "metrics.json").read_text())
    assert names.split() == ["mcc", "accuracy", "rows/s", "seconds"]
    assert values.split()[:2] == [f"{best['best']:.4f}", f"{best['scores']['accuracy']:.4f}"]
    assert not os.listdir(elsewhere)


def test_evaluate_refuses_a_model_without_a_classifier(world, elsewhere, capsys):
    flags = ["--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(world.student)]
    assert main(["evaluate", *flags]) == 2
    assert "no classifier on top" in capsys.readouterr().err


def test_predict_writes_a_line_for_each_row_of_the_test_set(world, taught, elsewhere, capsys):
    flags = ["--task_name", "cola", "--data_dir", str(world.data), "--model_path", str(taught)]
    assert main(["predict", *flags, "--output_dir", "answers"]) == 0
    assert capsys.readouterr().out == "wrote answers/CoLA.tsv\n"
    header, *lines = (elsewhere / "answers" / "CoLA.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    expected = load_task("cola", world.data).read("test")["index"]
    assert [line.split("\t")[0] for line in lines] == list(expected)
    assert {line.split("\t")[1] for line in lines} <= {"0", "1"}
    assert os.listdir(elsewhere) == ["answers"]


def test_predict_writes_beside_the_model_where_no_folder_is_named(world, taught, elsewhere, capsys):
    model = elsewhere / "model"
    os.symlink(taught, model)
    assert main(["predict", "--task_name", "cola", "--data_dir", str(world.data), "--model_path", "./model"]) == 0
    assert capsys.readouterr().out == "wrote model/CoLA.tsv\n"
    (taught / "CoLA.tsv").unlink()


def test_a_task_that_cannot_be_scored_or_predicted_says_so(world, taught, elsewhere, capsys):
    diagnostic = elsewhere / "AX"
    diagnostic.mkdir()
    (diagnostic / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert main(["evaluate", "--task_name", "ax", "--data_dir", ".", "--model_path", str(taught)]) == 2
    assert "glue/ax has no dev set; sinkd predict writes its answers" in capsys.readouterr().err
    (elsewhere / "t.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    flags = ["--train_file", "t.tsv", "--dev_file", "t.tsv", "--text_columns", "text", "--label_column", "label"]
    assert main(["predict", *flags, "--model_path", str(taught)]) == 2
    assert "has no test file; give one by --test_file" in capsys.readouterr().err
