"""A TSV that a quoting writer made is read so; one whose quotes are text is not."""

import csv
import logging

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkd.tasks import read_unlabeled, table_task
from sinkd.tasks.quoting import CELL, is_quoted

SAID = ['he said "hi" and ran', "two\nlines", "a\ttab", '"all of it"', "plain", "a, comma"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quoting")


def task(path, **more):
    return table_task(path, text_columns=["text"], label_column="label", **more)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("order", [["text", "label"], ["label", "text"]])
def test_pandas_tables_come_back_and_the_log_says_how_they_were_read(tmp_path, caplog, quoting, order):
    path = tmp_path / "train.tsv"
    pd.DataFrame({"text": SAID, "label": [0, 1] * 3})[order].to_csv(path, sep="\t", index=False, quoting=quoting)
    with caplog.at_level(logging.INFO, "sinkd"):
        found = task(path)
    assert "fields are in quotes, which are taken off (--quoting none keeps them)" in caplog.text
    assert found.read("train")["text"] == SAID
    assert read_unlabeled(path, found)["text"] == SAID


cell = st.text(st.sampled_from('ab"\t\n ,\xe9'), min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(cell, st.sampled_from(["0", "1"])), min_size=1, max_size=12))
def test_what_a_quoting_writer_needs_quotes_for_is_found(folder, rows):
    path = folder / "rows.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("text", "label"), *rows])
    proof = [text for text, _ in rows if set('\t\n"') & set(text) and not {"\t", "\n"} <= set(text)]
    assert is_quoted(path, "utf-8") == bool(proof)
    path.unlink()


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(st.text(st.sampled_from('ab" '), min_size=1, max_size=8), st.sampled_from("01"))))
def test_a_file_of_plain_texts_is_quoted_only_if_a_text_looks_so_by_itself(folder, rows):
    path = folder / "plain.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in [("text", "label"), *rows]))
    looks = any(CELL.fullmatch(text) and '""' in text[1:-1] for text, _ in rows)
    assert looks or not is_quoted(path, "utf-8")
    path.unlink()


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (['"Good morning," she said.', 'He said "no".', '"Good."'], False),
        (['"The first half', 'and the second half"', "neither"], False),
        (['"Good."', '"Bad."', "plain"], True),  # quoted without need: a person wrote it
        (['5" disks', "6' long", "plain"], False),
    ],
)
def test_quotes_that_are_text_stay(tmp_path, caplog, text, warned):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{said}\t{number % 2}\n" for number, said in enumerate(text)))
    found = task(path)
    assert found.read("train")["text"] == text
    assert ("2 fields are in quotes, which are kept as text (--quoting minimal takes" in caplog.text) == warned


def test_one_stray_quote_does_not_decide_for_a_file(tmp_path):
    path = tmp_path / "train.tsv"
    rows = [f'"he said ""{number}"""\t{number % 2}' for number in range(20)]
    path.write_text("\n".join(["text\tlabel", *rows, '5" disks\t1']) + "\n")
    assert task(path).read("train")["text"] == [*(f'he said "{number}"' for number in range(20)), '5" disks']


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_a_delimiter_of_another_format_is_found_in_the_header_or_in_all_lines(tmp_path, mark, suffix, header):
    path = tmp_path / f"train.{suffix}"
    text = "a film" if mark == "\t" else f"a film{mark} or two"
    path.write_text("\n".join([f"text{mark}label"] * header + [f'"{text}"{mark}0', f"more{mark}1"]))
    names = [] if header else ["text", "label"]
    found = task(path, column_names=names, quoting="minimal" if mark == "\t" else "auto").read("train")
    assert found["text"] == [text, "more"]


@pytest.mark.parametrize(
    ("suffix", "quoting", "expected"),
    [("tsv", "none", '"a ""b"""'), ("csv", "none", '"a ""b"""'), ("tsv", "minimal", 'a "b"'), ("csv", "auto", 'a "b"')],
)
def test_quoting_can_be_named(tmp_path, suffix, quoting, expected):
    path = tmp_path / f"train.{suffix}"
    path.write_text('text|label\n"a ""b"""|1\nc|0\n'.replace("|", "," if suffix == "csv" else "\t"))
    assert task(path, quoting=quoting).read("train")["text"][:] == [expected, "c"]
