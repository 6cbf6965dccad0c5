"""Loading by hub id, from a hub that the test serves on loopback."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import errors

from crosstune.errors import UserError
from crosstune.models.loading.hub import HTTP_ERROR, explained, is_hub_id
from hub_server import COMMIT, NOWHERE, OWNER, HubServer, serving

LOAD = """
import sys
from crosstune.errors import UserError
from crosstune.models.loading.known import geometry_for
from crosstune.models.loading.load import load
for request in sys.argv[1:]:
    name, shape, _ = request.partition(" shape")
    try:
        if shape:
            print(geometry_for(name).parameters)
        else:
            model = load(name, device="cpu", dtype="float32")
            print(model.revision, model.geometry.parameters, len(model.tokenizer))
    except UserError as error:
        print("UserError:", error)
"""


class Client:
    """Runs loads in processes of their own, as the hub's address is read when its library is imported."""

    def __init__(self, root: Path, hub: HubServer) -> None:
        self.root = root
        self.hub = hub

    def load(self, *requests: str, **environment: str) -> list[str]:
        """One line a request, each a name, and behind it " shape" for the shape alone."""
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *requests],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env=self.hub.environment(self.root / "home", **environment),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path / "served") as hub:
        yield Client(tmp_path, hub)


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

    client.hub.asked.clear()
    assert client.load(f"{OWNER}/tiny", HF_HUB_OFFLINE="1") == first
    assert client.hub.asked == []
    # The hub gone rather than switched off: the cache still serves.
    assert client.load(f"{OWNER}/tiny", HF_ENDPOINT=NOWHERE) == first


def test_sharded_model_by_tag(client, save_tiny):
    save_tiny("qwen3", f"served/{OWNER}/shards", max_shard_size="50KB")
    first = client.load(f"{OWNER}/shards@v1")
    assert first[0].split()[0] == COMMIT
    assert client.load(f"{OWNER}/shards@v1", HF_HUB_OFFLINE="1") == first


def test_geometry_fetches_nothing_but_the_config(client, save_tiny):
    save_tiny("gemma3", f"served/{OWNER}/shape")
    assert int(client.load(f"{OWNER}/shape@v1 shape")[0]) > 0
    assert {line.rsplit("/", 1)[-1] for line in client.hub.asked} == {"config.json"}


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
    log = client.load(*cases)
    log += client.load(f"{OWNER}/tiny", HF_HUB_OFFLINE="1")
    messages = [*cases.items(), (f"{OWNER}/tiny", "HF_HUB_OFFLINE is set")]
    assert len(log) == len(messages)
    for line, (request, answer) in zip(log, messages, strict=True):
        assert line.startswith(f"UserError: {request.partition('@')[0]}"), line
        assert answer in line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalEntryNotFoundError("not cached"), "cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "set HF_HOME"),
        (HTTP_ERROR("Server error\nmore"), "failed: Server error; try again"),
        (errors.HFValidationError("bad id"), "owner/model"),
    ],
)
def test_errors_a_server_on_loopback_does_not_give(error, message):
    with pytest.raises(UserError, match=message) as caught, explained("a/b", None):
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
        ("owner/name@refs/pr/1", True),
        ("owner/name@", False),
        ("owner/name@../..", False),
        ("owner/name@v1@v2", False),
    ],
)
def test_hub_ids(name, expected):
    assert is_hub_id(name) is expected
