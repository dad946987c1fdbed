"""A hub on this machine: as much of the hub's HTTP interface as creating, uploading to and downloading from needs.

with Hub() as hub:
    hub.files["name/model"] = {"config.json": b"{}"}     # what is there to download
    ... a process whose environment holds hub.environment ...
    hub.files["user/run"]["README.md"]                   # what was uploaded
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_standin"


class Hub:
    """Serves until the block ends.

    files: repository -> path -> content. commits: (repository, message, paths). private: repositories.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, str, list[str]]] = []
        self.private: set[str] = set()
        self.refuse_commits = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make huggingface_hub ask here."""
        url = f"http://127.0.0.1:{self.server.server_port}"
        return {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, content: object = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def received(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            return self.reply({"name": "user", "type": "user", "orgs": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            name = found[1]
            if name not in self.hub.files:
                return self.reply({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
            siblings = [{"rfilename": file} for file in self.hub.files[name]]
            return self.reply({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.hub.files[found[1]].items()
            ]
            return self.reply(entries)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.hub.files.get(found[1], {}).get(found[2])
            if content is None:
                return self.reply({"error": "no such file"}, 404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.reply(content, X_Repo_Commit=COMMIT, ETag=etag, Accept_Ranges="bytes")
        self.reply({"error": f"nothing at {path}"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.received()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply({"error": "who are you?"}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            self.hub.files.setdefault(name, {})
            if wanted.get("private") or wanted.get("visibility") == "private":  # by versions of the client
                self.hub.private.add(name)
            return self.reply({"url": f"{self.hub.environment['HF_ENDPOINT']}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = [file["path"] for file in json.loads(body)["files"]]
            return self.reply(
                {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        self.reply({"error": f"nothing at {path}"}, 404)

    def commit(self, name: str, lines: list[dict]) -> None:
        if self.hub.refuse_commits:
            return self.reply({"error": "the disk is full"}, 507)
        message, paths = "", []
        for line in lines:
            if line["key"] == "header":
                message = line["value"]["summary"]
            elif line["key"] == "file":
                paths.append(line["value"]["path"])
                self.hub.files[name][paths[-1]] = base64.b64decode(line["value"]["content"])
        self.hub.commits.append((name, message, sorted(paths)))
        self.reply({"commitUrl": f"{self.hub.environment['HF_ENDPOINT']}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
