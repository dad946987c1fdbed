"""Files of text in any encoding, compressed or not; files of another kind are named."""

import gzip
import io
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from sinkd.errors import SinkdError
from sinkd.tasks import read_unlabeled, table_task

ROWS = "text,label\nun café,oui\nun thé,non\n"


def task(path, **more):
    return table_task(path, text_columns=["text"], label_column="label", **more)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("encoding", "flag"),
    [
        ("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-8"), ("utf-32", "utf-8"), ("utf-16-le", "utf-16le"),
        ("latin-1", "latin-1"), ("utf-8-sig", "latin-1"), ("cp1252", "cp1252"), ("cp850", "CP850"),
    ],
)  # fmt: skip
def test_a_byte_order_mark_or_encoding_gives_the_same_rows_and_gzip_changes_nothing(tmp_path, encoding, flag, packed):
    content = ROWS.encode(encoding)
    path = tmp_path / ("rows.csv.gz" if packed else "rows.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    found = task(path, encoding=flag)
    assert found.read("train").to_dict()["text"] == ["un café", "un thé"]
    assert read_unlabeled(path, found)["text"] == ["un café", "un thé"]


def test_the_cache_does_not_mix_rows_read_in_two_ways(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(ROWS.encode("latin-1"))
    assert task(path, encoding="latin-1").read("train")[0]["text"] == "un café"
    assert task(path, encoding="cp1251").read("train")[0]["text"] == "un cafй"
    with pytest.raises(SinkdError, match=r"rows\.csv, line 2: found byte 0xe9 at character 7 .* its encoding by --enc"):
        task(path)
    with pytest.raises(SinkdError, match="found encoding 'latin-x', expected a name such as latin-1"):
        task(path, encoding="latin-x")


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("_", "/"), content)
    return file.getvalue()


def arrow():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("text", pa.string())])):
        pass
    return sink.getvalue().to_pybytes()


def numpy(save):
    file = io.BytesIO()
    save(file, np.zeros(3))
    return file.getvalue()


OTHERS = [
    (archive(xl_workbook="x"), "is an Excel workbook, expected a table; save its sheet as CSV"),
    (archive(rows="text,label"), "is a ZIP archive, expected a table; unpack it first"),
    (archive(rows="text,label")[:40], "is a ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), r"is an Excel workbook \(xls\)"),
    (numpy(np.save), "is a NumPy array, expected a table; write its rows as csv"),
    (numpy(np.savez), "is a NumPy archive"),
    (pickle.dumps([1]), "is a pickle"),
    (arrow(), "is an Arrow file"),
    (b"PAR1", "is a Parquet file, expected a table; name it .parquet"),
    (b"SQLite format 3\0", "is an SQLite database"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is a pointer to a file in Git LFS"),
    (b"<!DOCTYPE html>\n<html>", "is a web page"),
    (ROWS.encode("utf-16-le"), "is text in UTF-16 without byte order mark, .* --encoding utf-16-le"),
    (b"\xff\xfea", "is not text in utf-16"),
    (gzip.compress(ROWS.encode())[:-9], r"cannot be read \(Compressed file ended"),
    (gzip.compress(archive(xl_workbook="x")), "is an Excel workbook|is a ZIP archive"),
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("content", "message"), OTHERS, ids=[message for _, message in OTHERS])
def test_a_file_that_is_no_text_is_named_for_what_it_is(tmp_path, content, message, suffix):
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content)
    for read in (task, lambda path: read_unlabeled(path, table_task(text_columns=["text"], labels=["x", "y"]))):
        with pytest.raises(SinkdError, match=message) as error:
            read(path)
        assert str(error.value).startswith(str(path))
