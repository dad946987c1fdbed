"""A user's own table: three formats, classes or scores, one or two texts."""

import json

import numpy as np
import pytest

from sinkd.errors import SinkdError
from sinkd.tasks import read_unlabeled, table_task

ROWS = [("Good, really", 'I said "yes"', "10"), ("Bad", "No\ttab", "9"), ("So so", "Perhaps", "10")]


def write(path, rows, columns=("title", "body", "stars")):
    if path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    else:
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_each_format_gives_the_same_rows(tmp_path, suffix):
    rows = [(title, body.replace("\t", " "), stars) for title, body, stars in ROWS]
    train, dev = write(tmp_path / f"train{suffix}", rows), write(tmp_path / f"dev{suffix}", rows[:1])
    test = write(tmp_path / f"test{suffix}", [row[:2] for row in rows], ("title", "body"))
    task = table_task(train, dev, test, text_columns=["title", "body"], label_column="stars")
    assert (task.name, task.labels) == (f"table/{tmp_path.name}", ("9", "10"))
    read = task.read("train")
    assert read["text"] == [row[0] for row in rows]
    assert read["text_pair"] == [row[1] for row in rows]
    assert read["label"] == [1, 0, 1]
    assert len(task.read("dev")) == 1
    assert task.read("test").column_names == ["text", "text_pair", "index"]
    assert read_unlabeled(test, task).column_names == ["text", "text_pair"]
    path = task.write_submission("test", np.eye(2)[[0, 1, 1]], tmp_path)
    assert path.read_text() == "index\tprediction\n0\t9\n1\t10\n2\t10\n"


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        (["10", "9", "10"], "auto", ("9", "10")),
        (["b", "a", "10"], "auto", ("10", "a", "b")),
        ([2, 1, 2], "auto", ("1", "2")),
        ([True, False], "auto", ("false", "true")),
        (["-1", "1", "0"], "auto", ("-1", "0", "1")),
        (["1.5", "2", "3"], "auto", ()),
        (["1.5", "2", "3"], "classification", ("1.5", "2", "3")),
        (["1.5", "many"], "auto", ("1.5", "many")),
        (["1.0", "2.0"], "auto", ("1.0", "2.0")),
        (["1", "2"], "regression", ()),
    ],
)
def test_the_training_labels_decide_classes_or_scores(tmp_path, labels, kind, expected):
    path = write(tmp_path / "reviews.jsonl", [("Text", label) for label in labels], ("text", "y"))
    task = table_task(path, path, text_columns=["text"], label_column="y", kind=kind)
    assert task.labels == expected
    assert task.name == "table/reviews"
    assert task.metric == ("accuracy" if expected else "spearman")
    read = task.read("train")["label"]
    assert read == [expected.index(str(label).lower()) if expected else float(label) for label in labels]


def test_classes_are_scored_by_accuracy_and_macro_f1_and_scores_by_correlation(tmp_path):
    path = write(tmp_path / "r.csv", [("a", "x"), ("b", "y"), ("c", "z")], ("text", "label"))
    task = table_task(path, path, text_columns=["text"], label_column="label")
    assert task.scores(np.eye(3), np.arange(3)) == {"accuracy": 1.0, "f1": 1.0}
    task = table_task(path, path, text_columns=["text"], label_column="label", kind="regression")
    assert task.scores(np.arange(3.0)[:, None], np.arange(3.0)) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    with pytest.raises(SinkdError, match=r"r\.csv, line 2: found score 'x', expected a finite number"):
        task.read("train")


def test_a_label_that_training_never_saw_is_named_with_its_line(tmp_path):
    train = write(tmp_path / "train.csv", [("a", "x"), ("b", "y")], ("text", "label"))
    dev = write(tmp_path / "dev.csv", [("a", "x"), ("b", "w")], ("text", "label"))
    task = table_task(train, dev, text_columns=["text"], label_column="label")
    with pytest.raises(SinkdError, match=r"dev\.csv, line 3: found label 'w', expected one of x, y"):
        task.read("dev")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 3, "label": "x"}, "found other than text in column 'text', expected text"),
        ({"text": " ", "label": "x"}, "found an empty sentence in column 'text', expected text"),
        ({"label": "x"}, "found no column 'text', expected text"),
        ({"text": "c"}, "found no 'label' in"),
        ({"text": "c", "label": None}, "found no 'label' in"),
    ],
)
def test_a_bad_object_is_reported_with_its_line_or_skipped(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, row]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SinkdError) as error:
        table_task(path, path, text_columns=["text"], label_column="label").read("train")
    assert str(error.value).startswith(f"{path}, line 3: {message}")
    task = table_task(path, path, text_columns=["text"], label_column="label", bad_rows="skip")
    assert (len(task.read("train")), task.skipped["train"]) == (2, 1)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_labels_may_be_in_the_dev_file_alone(tmp_path, suffix):
    train = write(tmp_path / f"train{suffix}", [("a", "1"), ("b", "2")], ("text", "place"))
    dev = write(tmp_path / f"dev{suffix}", [("a", "x"), ("b", "y")], ("text", "label"))
    task = table_task(train, dev, text_columns=["text"], label_column="label")
    assert (task.labels, task.labelled) == (("x", "y"), False)
    assert task.read("train").column_names == ["text", "index"]
    assert task.read("dev")["label"] == [0, 1]
    (alone, none) = (table_task(dev_file=dev, text_columns=["text"], label_column="label"), tmp_path / "none.csv")
    assert (alone.labels, alone.splits) == (("x", "y"), ("dev",))
    assert table_task(dev, none, text_columns=["text"], label_column="label").labelled


def test_named_labels_have_their_order_and_another_label_is_a_bad_row(tmp_path):
    path = write(tmp_path / "r.csv", [("a", "x"), ("b", "y")], ("text", "label"))
    task = table_task(path, text_columns=["text"], label_column="label", labels=["y", "x", "z"])
    assert (task.labels, task.labelled, task.dev_splits) == (("y", "x", "z"), True, ())
    assert task.read("train")["label"] == [1, 0]
    with pytest.raises(SinkdError, match=r"r\.csv, line 2: found label 'x', expected one of y, z"):
        table_task(path, text_columns=["text"], label_column="label", labels=["y", "z"]).read("train")
    text = table_task(path, text_columns=["text"], labels=["x", "y"])
    assert not text.labelled and text.read("train").column_names == ["text", "index"]
    assert table_task(path, text_columns=["text"], kind="regression").regression


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": ["x"]}, "found the labels 'x', expected two or more different ones"),
        ({"labels": ["x", "x"]}, "found the labels 'x', 'x', expected two or more different ones"),
        ({"labels": ["x", ""]}, "found the labels 'x', '', expected two or more different ones"),
        ({"labels": ["x", "y"], "kind": "regression"}, "found the labels x, y and kind regression"),
        ({}, "no file has labels; name them, as in --labels negative,positive, or --table_kind regression"),
        ({"dev_file": "dev.csv", "labels": ["x", "y"]}, "nothing can be evaluated on dev.csv without labels"),
    ],
)
def test_labels_that_are_wrong_or_unknown_are_refused(tmp_path, given, message):
    path = write(tmp_path / "r.csv", [("a",), ("b",)], ("text",))
    with pytest.raises(SinkdError, match=message):
        table_task(path, text_columns=["text"], **given)


def test_wrong_arguments_are_refused(tmp_path):
    path = write(tmp_path / "r.csv", [("a", "x"), ("b", "x")], ("text", "label"))
    with pytest.raises(SinkdError, match="found kind 'ranking', expected one of auto, classification, regression"):
        table_task(path, path, text_columns=["text"], label_column="label", kind="ranking")
    with pytest.raises(SinkdError, match="found 3 text columns"):
        table_task(path, path, text_columns=["a", "b", "c"], label_column="label")
    with pytest.raises(SinkdError, match=r"no train file: looked for .*none\.csv"):
        table_task(tmp_path / "none.csv", path, text_columns=["text"], label_column="label")
    with pytest.raises(SinkdError, match="line 1: found the header 'text, label', expected columns 'text' and 'stars'"):
        table_task(path, path, text_columns=["text"], label_column="stars")
    with pytest.raises(SinkdError, match="found 1 different label in column 'label'"):
        table_task(path, path, text_columns=["text"], label_column="label")
    task = table_task(path, tmp_path / "none.csv", text_columns=["text"], label_column="label", kind="regression")
    with pytest.raises(SinkdError, match="no dev file for table/r: looked for"):
        task.read("dev")
