"""A stand-in for the hub: one data set, the files of its revisions, by the few calls that `datasets` makes.

Tests start it with `serve` and point HF_ENDPOINT at it, in a process of its own: huggingface_hub reads that at import.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def serve(repository: str, revisions: dict[str, Path]) -> ThreadingHTTPServer:
    """A server of this data set, running; `revisions`: name -> folder; `asked`: the paths that were asked for."""
    api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            server.asked.append(path)
            if found := re.fullmatch(f"{api}(?:/revision/(.+))?", path):
                self.about(found[1] or "main")
            elif found := re.fullmatch(f"{api}/tree/([^/]+)(?:/(.*))?", path):
                self.listing(found[1], found[2] or "")
            elif found := re.fullmatch(f"{resolve}/([^/]+)/(.*)", path):
                self.file(found[1], found[2])
            else:
                self.missing("RepoNotFound")

        do_HEAD = do_GET

        def about(self, revision: str) -> None:
            name = self.revision(revision)
            self.reply({"id": repository, "sha": _digest(name.encode()), "private": False, "tags": [], "siblings": []})

        def listing(self, revision: str, place: str) -> None:
            root = revisions[self.revision(revision)]
            folder = root / unquote(place)
            if not folder.is_dir():
                return self.missing("EntryNotFound")
            entries = []
            for path in sorted(folder.iterdir()):
                kind, content = ("directory", b"") if path.is_dir() else ("file", path.read_bytes())
                name = str(path.relative_to(root))
                entries.append({"type": kind, "path": name, "oid": _digest(content), "size": len(content)})
            self.reply(entries)

        def file(self, revision: str, place: str) -> None:
            name = self.revision(revision)
            path = revisions[name] / unquote(place)
            if not path.is_file():
                return self.missing("EntryNotFound")
            content = path.read_bytes()
            self.answer(200, content, ETag=f'"{_digest(content)}"', X_Repo_Commit=_digest(name.encode()))

        def revision(self, asked: str) -> str:
            return next(name for name in revisions if unquote(asked) in (name, _digest(name.encode())))

        def reply(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def missing(self, code: str) -> None:
            self.answer(404, b"{}", X_Error_Code=code)

        def answer(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *parts: object) -> None:
            """Nothing: pytest's output is for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
