"""A small Hugging Face hub on loopback: the addresses that fetching a model or a dataset asks for.

Models are folders of `root`; datasets are given as bytes by path, commit by commit, so that they can hold
what no folder can. The xet protocol is not offered.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWNER = "someone"
TOKEN = "hf_of_a_test"
GATED = f"{OWNER}/gated"
NOWHERE = "http://127.0.0.1:9"

Files = dict[str, bytes]


@dataclass
class Repository:
    """Files by commit, and what each branch or tag stands for."""

    commits: dict[str, Files]
    branches: dict[str, str]


@dataclass
class HubServer:
    """What is served, and what was asked.

    Attributes:
        root: Folder of models, ``<owner>/<name>/``; main and v1 are the same commit.
        datasets: By ``owner/name``.
        private: Repositories that were made as private ones.
        asked: One line a request: method, path, and where a file is taken up again.
        fault: "cut" ends the next file in its middle; "die" does so and goes "down", when no file is served;
            "short" serves the first half of a file as if it were all.
    """

    root: Path
    datasets: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    private: list[str] = field(default_factory=list)
    fault: Literal["cut", "die", "down", "short"] | None = None
    endpoint: str = ""

    def repository(self, kind: str, name: str) -> Repository | None:
        """A repository of ``kind`` "models" or "datasets"."""
        if kind == "datasets":
            return self.datasets.get(name)
        if not (self.root / name).is_dir():
            return None
        files = sorted(file for file in (self.root / name).rglob("*") if file.is_file())
        held = {file.relative_to(self.root / name).as_posix(): file.read_bytes() for file in files}
        return Repository({COMMIT: held}, {"main": COMMIT, "v1": COMMIT})

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a process that takes this for the hub, whose library reads it when imported."""
        return {
            **{key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")},
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            **more,
        }


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    """A hub that answers for as long as the block runs."""
    hub = HubServer(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        """What an upload asks: a repository is made, files are sent in one commit, none as a large one."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.split("?")[0].strip("/").split("/")
        self.hub.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            (self.hub.root / name).mkdir(parents=True, exist_ok=True)
            self.hub.private += [name] * (asked.get("private") or asked.get("visibility") == "private")
            self.reply({"url": f"{self.hub.endpoint}/{name}", "id": name})
        elif parts[1] == "validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.reply({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        else:
            name = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = self.hub.root / name / line["value"]["path"]
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            self.reply({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def reply(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer(self) -> None:
        # Split first: in refs%2Fconvert%2Fparquet the slashes are part of one name.
        parts = [unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        self.hub.asked.append(f"{self.command} /{'/'.join(parts)} {self.headers.get('Range', '')}".rstrip())
        if parts[0] == "api":
            kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
            revision = rest[1] if len(rest) > 1 else "main"
        else:
            kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
            name, revision, rest = "/".join(parts[:2]), parts[3], ["resolve", *parts[4:]]
        repository = self.hub.repository(kind, name)
        commit = repository and repository.branches.get(revision, revision)
        if name == GATED:
            self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repository is None:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif commit not in repository.commits:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif rest[:1] == ["resolve"]:
            self.resolve(commit, repository.commits[commit].get("/".join(rest[1:])))
        else:
            self.listing(name, commit, repository.commits[commit], tree=rest[:1] == ["tree"])

    def listing(self, name: str, commit: str, files: Files, *, tree: bool) -> None:
        if tree:
            body: object = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in files.items()
            ]
        else:
            siblings = [{"rfilename": path} for path in files]
            body = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings}
        self.send(200, json.dumps(body).encode(), {})

    def resolve(self, commit: str, content: bytes | None) -> None:
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.command == "GET" and self.hub.fault == "down":
            self.send(503, b"", {})
        elif self.command == "GET" and self.hub.fault == "short":
            self.send(200, content[: len(content) // 2], headers)
        elif self.command == "GET" and self.hub.fault in ("cut", "die"):
            self.hub.fault = "down" if self.hub.fault == "die" else None
            self.send(200, content, headers, end=len(content) // 2)
            self.close_connection = True
        elif start := self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-"):
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206, content[int(start) :], headers)
        else:
            self.send(200, content, headers)

    def send(self, status: int, body: bytes, headers: dict[str, str], end: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:end])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""


def _oid(content: bytes) -> str:
    """The name git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
