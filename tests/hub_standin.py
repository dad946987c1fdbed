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

TOKEN = "hf_standin"


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entries(files: dict[str, bytes], place: str = "", recursive: bool = False) -> list[dict]:
    """What a folder holds, folders too; all files below it if that is wanted."""
    start, found = f"{place}/" if place else "", {}
    for path, content in files.items():
        name, deeper, _ = path.removeprefix(start).partition("/")
        if path.startswith(start) and deeper and not recursive:
            found[start + name] = {"type": "directory", "path": start + name, "oid": _hash(b""), "size": 0}
        elif path.startswith(start):
            found[path] = {"type": "file", "path": path, "oid": _hash(content), "size": len(content)}
    return list(found.values())


class Hub:
    """Serves until the block ends.

    files: repository -> path -> content; "datasets/user/name" is a data set, "name@revision" one beside main.
    asked: paths. commits: (repository, message, paths). private: repositories.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
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

    def find(self, name: str, revision: str | None) -> str | None:
        """The key in `files` of a repository's revision, which is asked for by its name or by its hash."""
        for key in self.hub.files:
            base, _, known = key.partition("@")
            if base == name and (revision or "main") in (known or "main", _hash(key.encode())):
                return key
        return None

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, kind = url.path, r"/(?:api/models/|api/(datasets/))?([^/]+/[^/]+)"
        self.hub.asked.append(path)
        if path == "/api/whoami-v2":
            return self.reply({"name": "user", "type": "user", "orgs": []})
        found = re.fullmatch(rf"{kind}()(?:/revision/(.+))?", path)
        found = found or re.fullmatch(rf"{kind}/(tree)/([^/]+)(?:/(.*))?", path)
        found = found or re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        if found is None:
            return self.reply({"error": f"nothing at {path}"}, 404)
        group, name, what, revision, *place = map(unquote, (part or "" for part in found.groups()))
        key = self.find(group + name, revision)
        if key is None:
            return self.reply({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
        files, commit = self.hub.files[key], _hash(key.encode())
        if not what:
            siblings = [{"rfilename": file} for file in files]
            return self.reply({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        if what == "tree":
            return self.reply(_entries(files, *place, recursive="recursive=True" in url.query))
        content = files.get(place[0])
        if content is None:
            return self.reply({"error": "no such file"}, 404, X_Error_Code="EntryNotFound")
        self.reply(content, X_Repo_Commit=commit, ETag=f'"{_hash(content)}"', Accept_Ranges="bytes")

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
        commit = _hash(name.encode())
        self.reply({"commitUrl": f"{self.hub.environment['HF_ENDPOINT']}/{name}/commit/{commit}", "commitOid": commit})
