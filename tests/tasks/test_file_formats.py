"""Text files as records: any text survives, and a bad row is reported without ending the stream."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkd.errors import SinkdError
from sinkd.tasks.file_formats import FileFormat, lines, records
from sinkd.tasks.text_file import known

# Everything except TSV's two separators, and the character that Windows puts before a line's end.
field = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1)
tables = st.lists(st.tuples(field, field), min_size=1, max_size=20)


ENCODINGS = ["utf-8", "latin-1", "cp1252", "utf-16", "shift_jis", "gb18030", "utf-7", "rot13", "no such"]


@pytest.fixture(scope="module")
def whole(folder):
    """A good file of each format."""
    rows = [{"a": f'said "{number}"', "b": "caf\xe9"} for number in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
    tables = {name: [mark.join(row.values()) for row in rows] for name, mark in {"tsv": "\t", "csv": ","}.items()}
    text = {"tsv": ["a\tb", *tables["tsv"]], "csv": ["a,b", *tables["csv"]], "jsonl": map(json.dumps, rows)}
    written = {name: "\n".join(lines).encode() for name, lines in text.items()}
    return {**written, "parquet": (folder / "whole.parquet").read_bytes()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def read(path, format, needed=("a", "b"), **more):
    """Read a file; a TSV without quotes unless they are asked for."""
    return records(path, FileFormat(format, **{"quoting": "none" if format == "tsv" else "auto", **more}), needed)


def good(path, format, **more):
    return [record for _, record in read(path, format, **more)]


@given(rows=tables, bom=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), final=st.booleans())
def test_tsv_preserves_every_text_for_any_bom_line_ends_and_last_newline(folder, rows, bom, end, final):
    path = folder / "rows.tsv"
    text = end.join("\t".join(row) for row in [("a", "b"), *rows]) + end * final
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    assert good(path, "tsv") == [{"a": first, "b": second} for first, second in rows]


@settings(max_examples=100)
@given(data=st.data(), name=st.sampled_from(["tsv", "csv", "jsonl", "parquet"]), packed=st.booleans())
def test_a_file_with_any_bytes_is_read_or_named_in_one_error(folder, whole, data, name, packed):
    """Any bytes at all, and a good file that is cut or has a byte changed."""
    good = whole[name]
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=2))
    content = data.draw(st.sampled_from([good[:place], good[:place] + byte + good[place + 1 :], byte * 50, b""]))
    path = folder / f"any.{name}"
    path.write_bytes(gzip.compress(content)[: data.draw(st.integers(1, 200))] if packed else content)
    quoting, encoding = data.draw(st.sampled_from(["auto", "none", "minimal"])), data.draw(st.sampled_from(ENCODINGS))
    try:
        found = list(read(path, name, quoting=quoting, encoding=known(encoding)))
        assert all(isinstance(record, dict | SinkdError) for _, record in found)
    except SinkdError as error:
        assert str(error).startswith((str(path), f"found encoding {encoding!r}"))


# Python 3.10 neither writes nor reads a NUL in CSV.
cell = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(rows=st.lists(st.tuples(cell, cell), min_size=1))
def test_csv_gives_back_quotes_commas_and_line_breaks(folder, rows):
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    assert good(path, "csv") == [{"a": first, "b": second} for first, second in rows]


@given(rows=st.lists(st.fixed_dictionaries({"a": field, "b": st.integers()}), min_size=1))
def test_jsonl_gives_back_its_objects(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert good(path, "jsonl") == rows


def test_quotes_and_odd_line_separators_are_text_in_tsv(tmp_path):
    path = tmp_path / "odd.tsv"
    path.write_bytes('a\tb\n"an open quote\t1\nform\x0cfeed \u2028 lone\rreturn\t2\n'.encode())
    assert good(path, "tsv") == [{"a": '"an open quote', "b": "1"}, {"a": "form\x0cfeed \u2028 lone\rreturn", "b": "2"}]


def test_blank_lines_count_in_the_middle_of_a_file_and_not_at_its_end(tmp_path):
    path = tmp_path / "blank.txt"
    path.write_bytes(b"one\n\ntwo\n\n\n")
    assert list(lines(path)) == [(1, "one"), (2, ""), (3, "two")]


def test_a_long_csv_field_is_read_and_an_open_quote_is_an_error(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "x" * 200_000 + ",1\n")
    assert len(good(path, "csv")[0]["a"]) == 200_000
    path.write_text('a,b\nfine,1\n"open,2\n')
    first, second = read(path, "csv")
    assert first == (2, {"a": "fine", "b": "1"})
    assert second[0] == 3 and "broken CSV" in str(second[1])


@pytest.mark.parametrize(
    ("name", "content", "number", "message"),
    [
        ("x.tsv", b"a\tb\n1\t2\n1\t2\t3\n", 3, "found 3 columns in '1\\t2\\t3', expected 2 (a, b)"),
        ("x.tsv", b"a\tb\ncaf\xe9\t2\n", 2, "found byte 0xe9 at character 4 of the line, expected UTF-8 text"),
        ("x.csv", b"a,b\n1,2\n1\n", 3, "found 1 column in '1', expected 2 (a, b)"),
        ("x.csv", b'a,b\n"1\n1",2\ncaf\xe9,2\n', 4, "found byte 0xe9 at character 4 of the line, expected UTF-8 text"),
        ("x.csv", b'a,b\n"1"x,2\n', 2, "found broken CSV"),
        ("x.jsonl", b'{"a": "caf\xe9"}\n', 1, "found byte 0xe9"),
        ("x.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", 1, "found JSON that cannot be read"),
        ("x.jsonl", b'{"a": ' + b"[" * 200_000 + b"}\n", 1, "found JSON that cannot be read"),
    ],
)
def test_a_bad_rows_error_says_found_and_expected(tmp_path, name, content, number, message):
    path = tmp_path / name
    path.write_bytes(content)
    bad = [(at, str(row)) for at, row in read(path, path.suffix[1:]) if isinstance(row, SinkdError)]
    assert [at for at, _ in bad] == [number]
    assert message in bad[0][1]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.parquet"])
def test_a_header_that_names_a_needed_column_twice_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "x.parquet":
        pq.write_table(pa.Table.from_arrays([["one"], ["1"], ["other"]], names=["a", "b", "a"]), path)
    else:
        path.write_text("a,b,a\none,1,other\n".replace(",", "," if name == "x.csv" else "\t"))
    with pytest.raises(SinkdError, match=r"x\.\w+, line 1: found column 'a' in places 1 and 3, expected it once"):
        good(path, name[2:])
    assert len(list(read(path, name[2:], needed=("b",)))) == 1  # a column that nobody reads may be there twice
