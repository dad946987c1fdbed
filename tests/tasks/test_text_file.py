"""Files of text in any encoding, compressed or not; files of another kind are named."""

import gzip

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
