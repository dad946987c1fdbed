"""A user's own table: four formats, classes or scores, one or two texts."""

import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinkd.errors import SinkdError
from sinkd.tasks import read_unlabeled, table_task

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["-", "N/A", "1.5", "x", 2]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=3,
)
ROWS = [("Good, really", 'I said "yes"', "10"), ("Bad", "No\ttab", "9"), ("So so", "Perhaps", "10")]


def write(path, rows, columns=("title", "body", "stars")):
    if path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    else:
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
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
        (["a", "b", "7", "2.5", "a"], "auto", ("2.5", "7", "a", "b")),
        (["+", "-", "-"], "auto", ("+", "-")),
        (["10.0", "9.0"], "auto", ("9.0", "10.0")),
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
    with pytest.raises(
        SinkdError, match=r"r\.csv, line 2: found score 'x' in column 'label', expected a finite number"
    ):
        task.read("train")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("labels", "odd", "expected"),
    [
        *((["1.5", "2", "3.25", "4"], odd, ()) for odd in ("N/A", "-", "nan", "inf", "?", "#N/A", "four", "1,5")),
        *((["1", "2", "1", "2"], odd, ("1", "2")) for odd in ("NaN", "?", "-inf", "two")),
        *(
            (["yes", "no", "no", "yes"], odd, ("no", "yes"))
            for odd in ("", "NA", "None", "null", "<NA>", "-", "?", "[0 1]", "{}")
        ),
    ],
)
def test_one_odd_cell_is_a_bad_row_and_does_not_decide_for_the_file(tmp_path, suffix, labels, odd, expected):
    rows = [("Text", label) for label in [*labels[:3], odd, labels[3]]]
    path = write(tmp_path / f"rows{suffix}", rows, ("text", "y"))
    place = {".jsonl": "line 4", ".parquet": "row 4"}.get(suffix, "line 5")
    with pytest.raises(SinkdError, match=rf"rows{suffix}, {place}: found .*{re.escape(repr(odd))}.* in column 'y'"):
        table_task(path, text_columns=["text"], label_column="y").read("train")
    task = table_task(path, text_columns=["text"], label_column="y", bad_rows="skip")
    assert (task.labels, len(task.read("train")), task.skipped["train"]) == (expected, 4, 1)
    if expected and odd:
        task = table_task(path, text_columns=["text"], label_column="y", labels=[*expected, odd])
        assert task.read("train")["label"][3] == 2


@pytest.mark.parametrize("other", ["YES", "ye\u200bs", "\uff59es", "y es"])
def test_classes_that_look_alike_are_named_in_the_log(tmp_path, caplog, other):
    path = write(tmp_path / "r.csv", [("a", "yes"), ("b", "no"), ("c", other)], ("text", "y"))
    assert len(table_task(path, text_columns=["text"], label_column="y").labels) == 3
    assert ("look alike; were they meant to be one?" in caplog.text) == (other != "y es")


def test_whole_numbers_are_the_same_labels_with_and_without_point(tmp_path):
    """pandas writes 1.0 for 1 in a column in which a number is missing."""
    train = write(tmp_path / "train.csv", [("a", "1.0"), ("b", "2.0"), ("c", "10.0")], ("text", "y"))
    dev = write(tmp_path / "dev.csv", [("a", "2"), ("b", "1.0"), ("c", "2.0"), ("d", "10")], ("text", "y"))
    for told, other, labels in ((train, dev, ("1.0", "2.0", "10.0")), (dev, train, ("1.0", "2", "10"))):
        task = table_task(told, other, text_columns=["text"], label_column="y")
        assert (task.labels, task.read("train")["label"][:2]) == (labels, [0, 1] if told == train else [1, 0])
        assert task.read("dev")["label"][:2] == ([1, 0] if told == train else [0, 1])


def test_categories_and_decimals_of_parquet_are_labels(tmp_path):
    kinds = {"c": pa.array(["x", "y", "x"]).dictionary_encode(), "d": pa.array([Decimal("1.5"), Decimal(2), None])}
    pq.write_table(pa.table({"text": ["a", "b", "c"], **kinds}), tmp_path / "r.parquet")
    read = {"text_columns": ["text"], "bad_rows": "skip"}
    assert table_task(tmp_path / "r.parquet", label_column="c", **read).labels == ("x", "y")
    assert table_task(tmp_path / "r.parquet", label_column="d", **read).read("train")["label"][:] == [1.5, 2.0]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_missing_numbers_are_bad_rows_in_json_and_parquet(tmp_path, value):
    for suffix, label in ((".jsonl", 1), (".parquet", 1.0)):
        path = write(tmp_path / f"rows{suffix}", [("a", label), ("b", value), ("c", label * 2)], ("text", "y"))
        with pytest.raises(SinkdError, match=r"(line|row) 2: found .*'y'"):
            table_task(path, text_columns=["text"], label_column="y")
        task = table_task(path, text_columns=["text"], label_column="y", bad_rows="skip")
        assert task.labels == (str(label), str(label * 2))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(JSON, max_size=8), kind=st.sampled_from(["auto", "classification", "regression"]))
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_any_labels_at_all_make_a_task_or_one_error_that_names_the_file(tmp_path, labels, kind, bad_rows):
    path = tmp_path / f"any-{bad_rows}.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "y": label}) + "\n" for label in labels))
    try:
        task = table_task(path, path, path, text_columns=["text"], label_column="y", kind=kind, bad_rows=bad_rows)
        rows = task.read("train")
        answers = np.zeros((len(labels), task.num_labels))
        lines = task.write_submission("test", answers, tmp_path).read_text().split("\n")
    except SinkdError as error:
        assert str(path) in str(error)
    else:
        assert 0 < len(rows) <= len(labels) and len(lines) == len(labels) + 2
        assert all(map(np.isfinite, rows["label"]))


def test_files_without_header_are_read_by_column_names(tmp_path):
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("x,7,one\ny,8,two\n")
    dev.write_text("label,text\nx,one\n")
    names = {"text_columns": ["text"], "label_column": "label", "column_names": ["label", "id", "text"]}
    task = table_task(train, dev, **names)
    assert (task.read("train")["text"][:], task.read("dev")["text"][:]) == (["one", "two"], ["one"])
    assert read_unlabeled(train, task)["text"] == ["one", "two"]
    with pytest.raises(SinkdError, match=r"found column names label, text, text, expected different ones"):
        table_task(train, **{**names, "column_names": ["label", "text", "text"]})


def test_scores_are_written_with_the_digits_they_need(tmp_path):
    path = write(tmp_path / "r.csv", [("a", "1e-7"), ("b", "2e-7"), ("c", "-3.5")], ("text", "label"))
    task = table_task(path, path, path, text_columns=["text"], label_column="label")
    written = task.write_submission("test", np.float32([[1e-7], [2e-7], [-3.5]]), tmp_path).read_text()
    assert written == "index\tprediction\n0\t1e-07\n1\t2e-07\n2\t-3.5\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": "x\ud83d"}, "found label 'x\\ud83d' in column 'label', expected it on one line"),
        ({"text": "a", "label": "x\ty"}, "found label 'x\\ty' in column 'label', expected it on one line"),
        ({"text": "a", "label": "x", "index": "1\n2"}, "found '1\\n2' in column 'index', expected text on one line"),
        ({"label": "x"}, "found no column 'text', expected text"),
        ({"text": None, "label": "x"}, "found null in column 'text', expected text"),
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


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
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
    with pytest.raises(SinkdError, match=r"r\.csv, line 2: found label 'x' in column 'label', expected one of y, z"):
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
    task = table_task(path, tmp_path / "none.csv", text_columns=["text"], label_column="label", kind="regression")
    with pytest.raises(SinkdError, match="no dev file for table/r: looked for"):
        task.read("dev")
