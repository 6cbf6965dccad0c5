"""The command line writes a run, its card, and a repository of a hub on loopback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crosstune.cli.main import app
from crosstune.errors import UserError
from crosstune.exporting.card import write_card
from crosstune.exporting.folders import write_adapter
from crosstune.methods import METHODS
from crosstune.store import store as stored
from hub_server import COMMIT, OWNER, TOKEN, serving


def test_the_card(runs: Any, tmp_path: Path) -> None:
    folder, record = runs["lora"]
    done = CliRunner().invoke(
        app, ["export", str(folder.parent), record.id, "--adapter", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    first, card = done.output.splitlines()
    assert first.startswith(f"PEFT adapter: {tmp_path / 'out'}; logits differ from the run's by ")
    assert card == f"card: {tmp_path / 'out' / 'README.md'}"
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head, rest = text.removeprefix("---\n").split("\n---\n")
    assert head.splitlines() == [
        'library_name: "peft"', 'language: ["en", "de"]', 'tags: ["crosstune", "lora", "cldr-names"]'
    ]  # fmt: skip
    table = stored.read_predictions(folder.parent, [record])
    for code, name in (("en", "English (trained on)"), ("de", "German")):
        scores = [row["score"] for row in table.iter_rows(named=True) if row["language"] == code]
        mean = sum(scores) / len(scores)
        se = (sum((x - mean) ** 2 for x in scores) / (len(scores) - 1) / len(scores)) ** 0.5
        low, high = max(0, mean - 1.96 * se), min(1, mean + 1.96 * se)
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        assert f"| {name} | {len(scores)} | {100 * mean:.1f} | {interval} |" in rest
    for part in (
        f"run {record.id}",
        f"{record.trained_parameters:,} trained parameters",
        "PeftModel.from_pretrained",
    ):
        assert part in rest
    assert "English names of 80 items a kind" in rest
    assert f"- base model {record.model}: not known here: look at its source\n" in rest
    assert "- data CLDR: Unicode License v3\n" in rest


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        (["--push", "me/it"], "--push needs --adapter FOLDER or --merged FOLDER"),
        (["--adapter", "a", "--merged", "b"], "give --adapter or --merged, one at a time"),
        (["--adapter", "a"], "is not a finished run"),
    ],
)
def test_mistakes(runs: Any, more: list[str], wrong: str) -> None:
    done = CliRunner().invoke(app, ["export", str(runs["lora"][0].parent), "nothing", *more])
    assert isinstance(done.exception, UserError)
    assert wrong in str(done.exception)


def test_pushed_to_a_hub_and_read_from_there(runs: Any, tmp_path: Path) -> None:
    """By a process of its own: the hub's library reads its address when it is imported."""
    written = write_adapter(runs["kv prefix"][0], tmp_path / "out", "cpu")
    write_card(runs["kv prefix"][0], written)
    name = f"{OWNER}/mine"
    program = (
        "import sys\n"
        "from crosstune.exporting.push import push\n"
        "from crosstune.methods import METHODS\n"
        f"print(push({str(written.folder)!r}, {name!r}))\n"
        f"config = METHODS['adapter'].Config(path={name!r})\n"
        "print(config.content, 'torch' in sys.modules)\n"
    )
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=hub.environment(tmp_path / "home", HF_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    address, content = done.stdout.splitlines()
    assert address == f"{hub.endpoint}/{name}/commit/{COMMIT}"
    assert hub.private == [name]
    files = {file.name: file.read_bytes() for file in (tmp_path / "hub" / name).iterdir()}
    assert files == {file.name: file.read_bytes() for file in written.folder.iterdir()}
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert content == f"{METHODS['adapter'].Config(path=str(written.folder)).content} False"
