"""Untrusted archives: one dangerous entry refuses the archive, and nothing is left behind."""

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from sinkd.errors import SinkdError
from sinkd.exchange.archive import is_archive, unpack

# What an entry can be, for a tar and for a ZIP archive.
KINDS = {
    "file": (tarfile.REGTYPE, stat.S_IFREG),
    "folder": (tarfile.DIRTYPE, stat.S_IFDIR),
    "link": (tarfile.SYMTYPE, stat.S_IFLNK),
    "hard link": (tarfile.LNKTYPE, stat.S_IFSOCK),  # ZIP archives have no hard links: a socket there
    "character device": (tarfile.CHRTYPE, stat.S_IFCHR),
    "block device": (tarfile.BLKTYPE, stat.S_IFBLK),
    "pipe": (tarfile.FIFOTYPE, stat.S_IFIFO),
}
FORMATS = pytest.mark.parametrize("name", ["archive.zip", "archive.tar", "archive.tar.gz"])


def pack(path: Path, entries: dict[str, bytes], **kinds: str) -> Path:
    """An archive of the format that its name says; kinds: of the entry `a`, as in a="link"."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in entries.items():
                entry = zipfile.ZipInfo(name)
                entry.filename = name  # unchanged: ZipInfo would cut it at a zero byte
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (KINDS[kinds.get(name, "file")][1] | 0o644) << 16
                opened.writestr(entry, content)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as opened:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.type = KINDS[kinds.get(name, "file")][0]
            entry.linkname = "" if entry.isreg() else "/etc/passwd"
            entry.size = len(content) if entry.isreg() else 0
            opened.addfile(entry, io.BytesIO(content))
    return path


def refused(archive: Path, *fragments: str, files: dict[str, str] | None = None, limit: int = 10_000) -> None:
    """The archive is refused in one sentence, and nothing but itself is left in its folder."""
    with pytest.raises(SinkdError) as caught:
        unpack(archive, archive.parent / "out", files, limit)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert [file.name for file in archive.parent.iterdir()] == [archive.name]


@FORMATS
def test_wanted_files_are_unpacked_and_nothing_else(tmp_path, name):
    entries = {"T/train.tsv": b"train", "./T/original/raw.txt": b"raw", "__MACOSX/T/._train.tsv": b"x"}
    path = pack(tmp_path / name, entries)
    assert is_archive(path) and not is_archive(tmp_path / "pytorch_model.bin")
    assert unpack(path, tmp_path / "out", {"T/train.tsv": "x.tsv"}, 100) == [tmp_path / "out" / "x.tsv"]
    assert [file.name for file in (tmp_path / "out").rglob("*")] == ["x.tsv"]
    assert (tmp_path / "out" / "x.tsv").read_bytes() == b"train"
    assert len(unpack(path, tmp_path / "all", None, 100)) == 3
    assert (tmp_path / "all" / "T" / "original" / "raw.txt").read_bytes() == b"raw"


def test_a_folder_of_a_tar_is_no_file(tmp_path):
    path = pack(tmp_path / "archive.tgz", {".": b"", "a": b"", "b": b"two"}, **{".": "folder", "a": "folder"})
    assert unpack(path, tmp_path / "out", None, 100) == [tmp_path / "out" / "b"]


@FORMATS
@pytest.mark.parametrize("entry", ["../evil", "/tmp/evil", "T/../../evil", "C:\\evil", "..\\evil", "T/a:b"])
def test_an_entry_that_leads_out_refuses_the_archive(tmp_path, name, entry):
    path = pack(tmp_path / name, {"T/train.tsv": b"train", entry: b"evil"})
    refused(path, "is refused", "leads out", files={"T/train.tsv": "train.tsv"})


@FORMATS
@pytest.mark.parametrize("kind", ["link", "hard link", "character device", "block device", "pipe"])
def test_links_and_devices_refuse_the_archive(tmp_path, name, kind):
    refused(pack(tmp_path / name, {"a": b"/etc/passwd", "b": b"two"}, a=kind), "is refused", "link or a device")


def test_a_zip_bomb_is_stopped_whatever_size_it_announces(tmp_path):
    path = pack(tmp_path / "archive.zip", {"a": bytes(10_000_000)})
    refused(path, "more than 1,000,000 bytes", limit=1_000_000)
    data = path.read_bytes()
    path.write_bytes(data.replace((10_000_000).to_bytes(4, "little"), (5).to_bytes(4, "little")))
    assert path.read_bytes() != data
    refused(path, limit=1_000_000)


def test_a_tar_that_swells_is_refused_before_it_is_read_to_its_end(tmp_path, monkeypatch):
    path = pack(tmp_path / "archive.tar.gz", {"a": bytes(50_000_000), "b": b"x"})
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    refused(path, "more than 1,000,000 bytes", limit=1_000_000)
    assert sum(read) < 1_000_000


def test_a_duplicate_name_refuses_the_archive(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("a", b"one")
        opened.writestr("a", b"two")
    refused(tmp_path / "twice.zip", "twice")


@FORMATS
def test_a_damaged_archive_or_one_without_the_file_leaves_nothing_behind(tmp_path, name):
    path = pack(tmp_path / name, {"T/train.tsv": bytes(range(256)) * 30})
    refused(path, "lacks T/dev.tsv", files={"T/dev.tsv": "dev.tsv"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    refused(path, "cannot be unpacked")
    path.write_bytes(b"no archive")
    refused(path, "cannot be unpacked")


def test_a_changed_byte_is_found(tmp_path):
    path = pack(tmp_path / "archive.zip", {"T/train.tsv": b"train" * 1000})
    data = bytearray(path.read_bytes())
    data[45] ^= 255
    path.write_bytes(data)
    refused(path, "cannot be unpacked")


def test_a_disk_that_takes_nothing_is_not_blamed_on_the_archive(tmp_path):
    (tmp_path / "plain").touch()
    path = pack(tmp_path / "archive.zip", {"a": b"one"})
    with pytest.raises(SinkdError, match=r"cannot be written \(Not a directory\)"):
        unpack(path, tmp_path / "plain" / "out", None, 100)
    assert path.exists()
