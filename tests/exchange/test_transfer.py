"""Files arrive complete or not at all, even if the server cuts, lies or forgets."""

import hashlib
import http.client
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from refused import refused
from sinkd.exchange import transfer
from sinkd.exchange.transfer import fetch

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


def get(server, target: Path, size: int = SIZE, sha256=SHA) -> Path:
    return fetch(server.url, target, size, sha256, pause=0.001)


# Transfers


def test_a_transfer_that_is_cut_twice_resumes_where_it_stopped(server, tmp_path):
    server.cuts = [100_000, 50_000]
    path = get(server, tmp_path / "new" / "file.zip")
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]


def test_a_partial_file_of_an_earlier_run_is_continued(server, tmp_path):
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


def test_a_file_with_the_wrong_size_or_content_is_refused_and_removed(server, tmp_path):
    refused(lambda: get(server, tmp_path / "file", size=len(CONTENT) - 1), "sends more than 511,999 bytes")
    refused(lambda: get(server, tmp_path / "file", sha256="0" * 64), "SHA-256", SHA, "it has been removed")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(CONTENT[:-1])  # put there by hand
    refused(lambda: get(server, tmp_path / "file"), "511,999 bytes", "should have 512,000", "delete it")
    assert server.requests == [None, None]


def test_a_file_that_always_ends_early_gives_an_error_with_advice(server, tmp_path):
    server.cuts = [10] + [0] * 20
    target = tmp_path / "file"
    refused(lambda: get(server, target), "the connection was cut", f"fetch {server.url} by hand", f"put it at {target}")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:10]
    assert len(server.requests) == transfer.ATTEMPTS + 1


def test_a_partial_file_longer_than_the_file_is_restarted(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "file").read_bytes() == CONTENT


def test_errors_for_no_network_and_no_such_file_say_what_to_fetch_by_hand(server, tmp_path):
    server.server.server_close()
    away = "http://127.0.0.1:9/file"
    refused(
        lambda: fetch(away, tmp_path / "file", SIZE, SHA, pause=0.001), "cannot be reached", f"fetch {away} by hand"
    )
    assert not (tmp_path / "file").exists()


def test_a_server_that_refuses_is_asked_once_and_one_that_fails_again(server, tmp_path):
    server.status = 403
    refused(lambda: get(server, tmp_path / "file"), "HTTP Error 403", "by hand")
    assert len(server.requests) == 1
    server.status = 503
    refused(lambda: get(server, tmp_path / "file"), "HTTP Error 503")
    assert len(server.requests) == 1 + transfer.ATTEMPTS


def test_a_server_without_ranges_that_never_finishes_is_given_up(server, tmp_path):
    """If every attempt starts over, some more bytes than last time are not progress."""
    server.ranges, server.cuts = False, [300, 200] * 50
    refused(lambda: get(server, tmp_path / "file"), "the connection was cut", "by hand")
    assert len(server.requests) == transfer.ATTEMPTS + 1


@pytest.mark.parametrize("error", [ssl.SSLError("bad record"), ConnectionResetError("reset"), OSError(5, "odd")])
def test_a_transfer_resumes_after_any_kind_of_broken_connection(server, tmp_path, monkeypatch, error):
    read, calls = http.client.HTTPResponse.read, []

    def breaking(self, *size):
        calls.append(size)
        if len(calls) == 3:
            raise error
        return read(self, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaking)
    assert get(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={2 * transfer.CHUNK}-"]


def test_a_place_that_cannot_be_written_is_one_sentence_at_once(server, tmp_path):
    (tmp_path / "plain").touch()
    refused(
        lambda: get(server, tmp_path / "plain" / "file"), "plain/file.part cannot be written", "choose another folder"
    )
    (tmp_path / "file.part").mkdir()
    refused(lambda: get(server, tmp_path / "file"), "file.part cannot be written (Is a directory)")
    assert len(server.requests) <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_not_reported_as_a_broken_connection(server, tmp_path):
    (tmp_path / "file.part").symlink_to("/dev/full")
    refused(
        lambda: get(server, tmp_path / "file"), "file.part cannot be written (No space left on device)", "make room"
    )
    assert len(server.requests) == 1
