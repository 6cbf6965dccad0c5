"""Loading by hub id, from a hub that the test serves on loopback."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import errors

from crosstune.errors import UserError
from crosstune.models.hub import _HTTP_ERROR, _explained, is_hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWNER = "someone"

LOAD = """
import sys
from crosstune.errors import UserError
from crosstune.models.known import geometry_for
from crosstune.models.load import load
for request in sys.argv[1:]:
    name, _, revision = request.partition("@")
    try:
        if revision == "geometry":
            print(geometry_for(name).parameters)
        else:
            model = load(name, device="cpu", dtype="float32", revision=revision or None)
            print(model.revision, model.geometry.parameters, len(model.tokenizer))
    except UserError as error:
        print("UserError:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """The few addresses of the hub that fetching a model asks for."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.api(parts[2] + "/" + parts[3], parts[4:])
        else:
            self.resolve(parts[0] + "/" + parts[1], parts[3], "/".join(parts[4:]))

    def refused(self, model: str, revision: str) -> bool:
        """Whether there is no such model or revision, or no access; the refusal is then sent."""
        if model == f"{OWNER}/gated":
            self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif not (self.root / model).is_dir():
            self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", "v1", COMMIT):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return False
        return True

    def api(self, model: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        if self.refused(model, revision):
            return
        files = sorted(file for file in (self.root / model).rglob("*") if file.is_file())
        names = [(str(file.relative_to(self.root / model)), file.stat().st_size) for file in files]
        if rest[:1] == ["tree"]:
            body = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names]
            self.send(200, json.dumps(body).encode(), {})
        else:
            siblings = [{"rfilename": name} for name, _ in names]
            body = {"_id": "1", "id": model, "modelId": model, "sha": COMMIT, "siblings": siblings}
            self.send(200, json.dumps(body).encode(), {})

    def resolve(self, model: str, revision: str, name: str) -> None:
        if self.refused(model, revision):
            return
        file = self.root / model / name
        if not file.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self.send(404, b"", headers)
            return
        content = file.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "none"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""


def http_error(text: str) -> Exception:
    """An error of the HTTP library that huggingface_hub stands on, whichever that is."""
    return _HTTP_ERROR(text)


class Client:
    """Runs loads in processes of their own, as the hub's address is read when its library is imported."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.handler = type("Handler", (Hub,), {"root": root / "served", "asked": []})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def load(self, *requests: str, **environment: str) -> list[str]:
        """One line a request, each ``name`` or ``name@revision``."""
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *requests],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env={
                **{key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")},
                "HF_ENDPOINT": self.endpoint,
                "HF_HOME": str(self.root / "home"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_XET": "1",
                **environment,
            },
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    thread = threading.Thread(target=client.server.serve_forever, daemon=True)
    thread.start()
    yield client
    client.server.shutdown()
    client.server.server_close()
    thread.join()


def test_online_then_offline_and_only_the_files_needed(client, save_tiny):
    folder = save_tiny("llama", f"served/{OWNER}/tiny")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle nobody wants")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    (folder / "modeling_own.py").write_text("raise SystemExit('run')")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")

    first = client.load(f"{OWNER}/tiny")
    assert first[0].split()[0] == COMMIT
    cached = {file.name for file in (client.root / "home").rglob("snapshots/*/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= cached
    unwanted = {"pytorch_model.bin", "consolidated.safetensors", "modeling_own.py", "params.json", "original"}
    assert not cached & unwanted

    client.handler.asked.clear()
    assert client.load(f"{OWNER}/tiny", HF_HUB_OFFLINE="1") == first
    assert client.handler.asked == []
    # The hub gone rather than switched off: the cache still serves.
    assert client.load(f"{OWNER}/tiny", HF_ENDPOINT="http://127.0.0.1:9") == first


def test_sharded_model_by_tag(client, save_tiny):
    save_tiny("qwen3", f"served/{OWNER}/shards", max_shard_size="50KB")
    first = client.load(f"{OWNER}/shards@v1")
    assert first[0].split()[0] == COMMIT
    assert client.load(f"{OWNER}/shards@v1", HF_HUB_OFFLINE="1") == first


def test_geometry_fetches_nothing_but_the_config(client, save_tiny):
    save_tiny("gemma3", f"served/{OWNER}/shape")
    assert int(client.load(f"{OWNER}/shape@geometry")[0]) > 0
    assert {line.rsplit("/", 1)[-1] for line in client.handler.asked} == {"config.json"}


def test_errors_are_one_line_and_say_what_to_do(client, save_tiny):
    folder = save_tiny("llama", f"served/{OWNER}/pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (client.root / f"served/{OWNER}/notes").mkdir()
    cases = {
        f"{OWNER}/unknown": "no such model",
        f"{OWNER}/gated": "accept its terms at",
        f"{OWNER}/pickled@v9": "no revision 'v9'",
        f"{OWNER}/pickled": "holds no model.safetensors",
        f"{OWNER}/notes": "not a transformers model",
    }
    said = client.load(*cases)
    said += client.load(f"{OWNER}/tiny", HF_HUB_OFFLINE="1")
    messages = [*cases.items(), (f"{OWNER}/tiny", "HF_HUB_OFFLINE is set")]
    assert len(said) == len(messages)
    for line, (request, message) in zip(said, messages, strict=True):
        assert line.startswith(f"UserError: {request.partition('@')[0]}"), line
        assert message in line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("not cached"), "cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "set HF_HOME"),
        (http_error("Server error\nmore"), "failed: Server error; try again"),
        (errors.HFValidationError("bad id"), "owner/model"),
    ],
)
def test_errors_a_server_on_loopback_does_not_give(error, message):
    with pytest.raises(UserError, match=message) as caught, _explained("a/b", None):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.2-1B", True),
        ("Qwen/Qwen3-0.6B", True),
        ("gpt2", False),
        ("a/b/c", False),
        ("./model", False),
        ("../model", False),
        ("/model", False),
        ("a/..", False),
        ("a/b\n", False),
        ("", False),
    ],
)
def test_hub_ids(name, expected):
    assert is_hub_id(name) is expected
