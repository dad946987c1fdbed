"""Files come whole or not at all, over a server that cuts, lies and forgets; archives write only where they may."""

import hashlib
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sinkd.errors import SinkdError
from sinkd.tasks import transfer
from sinkd.tasks.transfer import fetch, unpack

CONTENT = bytes(range(256)) * 2000
SIZE = len(CONTENT)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT at /file. cuts: after how many bytes to hang up, an entry a request. ranges: heeds Range."""

    def __init__(self):
        self.cuts: list[int] = []
        self.ranges, self.status, self.requests = True, 0, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                asked = self.headers.get("Range")
                outer.requests.append(asked)
                if outer.status or self.path != "/file":
                    self.send_error(outer.status or 404)
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(CONTENT):
                    self.send_error(416)
                    return
                body = CONTENT[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
                self.end_headers()
                self.wfile.write(body[: outer.cuts.pop(0)] if outer.cuts else body)
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file"


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.server.shutdown()
    server.server.server_close()


def get(server, target: Path, size: int | None = SIZE, sha256=SHA) -> Path:
    return fetch(server.url, target, size, sha256, pause=0.001)


def refused(call, *fragments: str) -> None:
    with pytest.raises(SinkdError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


# Transfers


@pytest.mark.parametrize("known", [True, False])
def test_a_transfer_that_is_cut_twice_goes_on_where_it_was(server, tmp_path, known):
    server.cuts = [100_000, 50_000]
    path = get(server, tmp_path / "new" / "file.zip", *(() if known else (None, None)))
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]


def test_a_part_of_an_earlier_day_is_gone_on_with(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:7])
    assert get(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == ["bytes=7-"]


def test_a_server_that_knows_no_ranges_is_asked_for_the_whole_again(server, tmp_path):
    server.cuts, server.ranges = [100_000], False
    assert get(server, tmp_path / "file").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_whole_file_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    get(server, tmp_path / "file")
    assert server.requests == []


def test_a_file_of_another_size_or_content_is_refused_and_kept_nowhere(server, tmp_path):
    refused(lambda: get(server, tmp_path / "file", size=len(CONTENT) - 1), "sends more than 511,999 bytes")
    refused(lambda: get(server, tmp_path / "file", sha256="0" * 64), "SHA-256", SHA)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(CONTENT[:-1])  # put there by hand
    refused(lambda: get(server, tmp_path / "file"), "511,999 bytes", "should have 512,000")
    assert server.requests == [None, None]


def test_a_file_that_ends_early_for_ever_is_told_with_what_to_do(server, tmp_path):
    server.cuts = [10] + [0] * 20
    target = tmp_path / "file"
    refused(lambda: get(server, target), "the connection was cut", f"fetch {server.url} by hand", f"put it at {target}")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:10]
    assert len(server.requests) == transfer.ATTEMPTS + 1


def test_a_part_longer_than_the_file_is_begun_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "file", size=None, sha256=SHA).read_bytes() == CONTENT


def test_no_network_and_no_such_file_say_what_to_fetch_by_hand(server, tmp_path):
    server.server.server_close()
    away = "http://127.0.0.1:9/file"
    refused(lambda: fetch(away, tmp_path / "file", pause=0.001), "cannot be reached", f"fetch {away} by hand")
    assert not (tmp_path / "file").exists()


def test_a_server_that_refuses_is_asked_once_and_one_that_fails_again(server, tmp_path):
    server.status = 403
    refused(lambda: get(server, tmp_path / "file"), "HTTP 403", "by hand")
    assert len(server.requests) == 1
    server.status = 503
    refused(lambda: get(server, tmp_path / "file"), "HTTP 503")
    assert len(server.requests) == 1 + transfer.ATTEMPTS


# Archives


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
