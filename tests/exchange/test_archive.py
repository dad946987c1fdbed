"""Archives write only where they may, and all or nothing."""

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from sinkd.errors import SinkdError
from sinkd.exchange.archive import is_archive, unpack


def refused(call, *fragments: str) -> None:
    with pytest.raises(SinkdError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.fixture
def archive(tmp_path):
    def archive(entries: dict[str, bytes], kinds: dict[str, int] | None = None) -> Path:
        path = tmp_path / "archive.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in entries.items():
                entry = zipfile.ZipInfo(name)
                entry.filename = name  # as it is: ZipInfo would cut it at a zero byte
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = ((kinds or {}).get(name, stat.S_IFREG) | 0o644) << 16
                opened.writestr(entry, content)
        return path

    return archive


def test_wanted_files_are_unpacked_and_nothing_else(archive, tmp_path):
    path = archive({"T/train.tsv": b"train", "T/original/raw.txt": b"raw", "__MACOSX/T/._train.tsv": b"x"})
    written = unpack(path, tmp_path / "out", {"T/train.tsv": "train.tsv"}, 100)
    assert written == [tmp_path / "out" / "train.tsv"]
    assert [file.name for file in (tmp_path / "out").rglob("*")] == ["train.tsv"]
    assert (tmp_path / "out" / "train.tsv").read_bytes() == b"train"
    assert len(unpack(path, tmp_path / "all", None, 100)) == 3


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "T/../../evil", "C:\\evil", "..\\evil", "T/a:b"])
def test_an_entry_that_leads_out_refuses_the_archive(archive, tmp_path, name):
    path = archive({"T/train.tsv": b"train", name: b"evil"})
    refused(lambda: unpack(path, tmp_path / "out", {"T/train.tsv": "train.tsv"}, 100), "is refused", "leads out")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_refuse_the_archive(archive, tmp_path, kind):
    path = archive({"T/train.tsv": b"/etc/passwd"}, {"T/train.tsv": kind})
    refused(lambda: unpack(path, tmp_path / "out", None, 100), "is refused", "link or a device")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.zip"]


def test_an_archive_that_swells_is_stopped_whatever_it_says(archive, tmp_path):
    path = archive({"T/train.tsv": bytes(10_000_000)})
    data = path.read_bytes()
    real, lie = (10_000_000).to_bytes(4, "little"), (5).to_bytes(4, "little")
    refused(lambda: unpack(path, tmp_path / "out", None, 1_000_000), "more than 1,000,000 bytes")
    path.write_bytes(data.replace(real, lie))
    assert path.read_bytes() != data
    with pytest.raises(SinkdError):
        unpack(path, tmp_path / "out", None, 1_000_000)
    assert [file.name for file in tmp_path.iterdir()] == ["archive.zip"]


def test_a_name_that_is_there_twice_refuses_the_archive(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("a", b"one")
        opened.writestr("a", b"two")
    refused(lambda: unpack(tmp_path / "twice.zip", tmp_path / "out", None, 100), "twice")


def test_a_damaged_archive_or_one_without_the_file_leaves_nothing_behind(archive, tmp_path):
    path = archive({"T/train.tsv": b"train" * 1000})
    refused(lambda: unpack(path, tmp_path / "out", {"T/dev.tsv": "dev.tsv"}, 10_000), "lacks T/dev.tsv")
    data = bytearray(path.read_bytes())
    data[45] ^= 255
    path.write_bytes(data)
    refused(lambda: unpack(path, tmp_path / "out", None, 10_000), "cannot be unpacked")
    path.write_bytes(b"no archive")
    refused(lambda: unpack(path, tmp_path / "out", None, 10_000), "cannot be unpacked")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.zip"]


# tar

KINDS = {
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
}


def tar(path: Path, entries: dict[str, bytes], kinds: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as opened:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.type = (kinds or {}).get(name, tarfile.REGTYPE)
            entry.linkname = "/etc/passwd" if entry.type != tarfile.REGTYPE else ""
            entry.size = len(content) if entry.isreg() else 0
            opened.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["archive.tar", "archive.tar.gz", "archive.tgz"])
def test_a_tar_is_unpacked_as_a_zip_is(tmp_path, name):
    path = tar(tmp_path / name, {".": b"", "./T/a": b"one", "T/b": b"two"}, {".": tarfile.DIRTYPE})
    assert is_archive(path) and not is_archive(tmp_path / "pytorch_model.bin")
    assert unpack(path, tmp_path / "out", None, 100) == [tmp_path / "out" / "T" / "a", tmp_path / "out" / "T" / "b"]
    assert (tmp_path / "out" / "T" / "b").read_bytes() == b"two"
    assert unpack(path, tmp_path / "some", {"T/a": "x"}, 100) == [tmp_path / "some" / "x"]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "T/../../evil"])
def test_an_entry_that_leads_out_refuses_the_tar(tmp_path, name):
    path = tar(tmp_path / "archive.tar", {"T/a": b"one", name: b"evil"})
    refused(lambda: unpack(path, tmp_path / "out", None, 100), "is refused", "leads out")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.tar"]


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_refuse_the_tar(tmp_path, kind):
    path = tar(tmp_path / "archive.tar", {"T/a": b"", "T/b": b"two"}, {"T/a": KINDS[kind]})
    refused(lambda: unpack(path, tmp_path / "out", None, 100), "is refused", "link or a device")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.tar"]


def test_a_tar_that_swells_is_refused_before_it_is_read_to_its_end(tmp_path, monkeypatch):
    path = tar(tmp_path / "archive.tar.gz", {"a": bytes(50_000_000), "b": b"x"})
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    refused(lambda: unpack(path, tmp_path / "out", None, 1_000_000), "more than 1,000,000 bytes")
    assert sum(read) < 1_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["archive.tar.gz"]


def test_a_cut_tar_leaves_nothing_behind(tmp_path):
    path = tar(tmp_path / "archive.tar.gz", {"a": bytes(range(256)) * 400})
    path.write_bytes(path.read_bytes()[:-100])
    refused(lambda: unpack(path, tmp_path / "out", None, 1_000_000), "cannot be unpacked")
    assert [file.name for file in tmp_path.iterdir()] == ["archive.tar.gz"]


def test_a_disk_that_takes_nothing_is_not_blamed_on_the_archive(archive, tmp_path):
    (tmp_path / "plain").touch()
    path = archive({"a": b"one"})
    refused(lambda: unpack(path, tmp_path / "plain" / "out", None, 100), "cannot be written", "Not a directory")
    assert path.exists()
