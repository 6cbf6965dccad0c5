"""Loading by hub id, from a hub that the test serves on loopback."""

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import errors

from crosstune.errors import UserError
from crosstune.models.loading.hub import HTTP_ERROR, explained, is_hub_id
from hub_server import COMMIT, NOWHERE, OWNER, serving

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
MISTAKES = {
    f"{OWNER}/unknown": "no such model",
    f"{OWNER}/gated": "accept its terms at",
    f"{OWNER}/pickled@v9": "no revision 'v9'",
    f"{OWNER}/pickled": "holds no model.safetensors",
    f"{OWNER}/notes": "not a transformers model",
}


@dataclass(frozen=True)
class Loaded:
    """What loads of a hub say, by request: online, then with the hub switched off, then with it gone.

    Each is a process, as the hub's address is read when its library is imported, and one serves all tests.
    """

    home: Path
    online: dict[str, str]
    asked: list[str]
    offline: dict[str, str]
    asked_offline: list[str]
    gone: dict[str, str]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, save_in: Callable[..., Path]) -> Loaded:
    root = tmp_path_factory.mktemp("hub")
    served = root / "served" / OWNER
    folder = save_in(served / "tiny", "llama")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle nobody wants")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    (folder / "modeling_own.py").write_text("raise SystemExit('run')")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    save_in(served / "shards", "qwen3", max_shard_size="50KB")
    save_in(served / "shape", "gemma3")
    folder = save_in(served / "pickled", "llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (served / "notes").mkdir()

    def load(*requests: str, **environment: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *requests],
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
            env=hub.environment(root / "home", **environment),
        )
        assert done.returncode == 0, done.stderr
        return dict(zip(requests, done.stdout.splitlines(), strict=True))

    with serving(root / "served") as hub:
        models = [f"{OWNER}/tiny", f"{OWNER}/shards@v1"]
        online = load(*models, f"{OWNER}/shape@v1 shape", *MISTAKES)
        asked = list(hub.asked)
        hub.asked.clear()
        offline = load(*models, f"{OWNER}/another", HF_HUB_OFFLINE="1")
        asked_offline = list(hub.asked)
        gone = load(*models, HF_ENDPOINT=NOWHERE)
    return Loaded(root / "home", online, asked, offline, asked_offline, gone)


def test_online_then_offline_and_only_the_files_needed(loaded: Loaded) -> None:
    first = loaded.online[f"{OWNER}/tiny"]
    assert first.split()[0] == COMMIT
    folder = f"models--{OWNER}--tiny"
    cached = {file.name for file in (loaded.home).rglob(f"{folder}/snapshots/*/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= cached
    unwanted = {"pytorch_model.bin", "consolidated.safetensors", "modeling_own.py", "params.json", "original"}
    assert not cached & unwanted
    assert loaded.offline[f"{OWNER}/tiny"] == first
    assert loaded.asked_offline == []
    # The hub gone rather than switched off: the cache still serves.
    assert loaded.gone[f"{OWNER}/tiny"] == first


def test_sharded_model_by_tag(loaded: Loaded) -> None:
    name = f"{OWNER}/shards@v1"
    assert loaded.online[name].split()[0] == COMMIT
    assert len(list(loaded.home.rglob("model-0*.safetensors"))) > 1
    assert loaded.offline[name] == loaded.gone[name] == loaded.online[name]


def test_geometry_fetches_nothing_but_the_config(loaded: Loaded) -> None:
    assert int(loaded.online[f"{OWNER}/shape@v1 shape"]) > 0
    asked = [line for line in loaded.asked if f"{OWNER}/shape/" in line]
    assert {line.rsplit("/", 1)[-1] for line in asked} == {"config.json"}


def test_errors_are_one_line_and_say_what_to_do(loaded: Loaded) -> None:
    said = [(request, loaded.online[request], answer) for request, answer in MISTAKES.items()]
    said.append((f"{OWNER}/another", loaded.offline[f"{OWNER}/another"], "HF_HUB_OFFLINE is set"))
    for request, line, answer in said:
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
