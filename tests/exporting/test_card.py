"""The command line writes a run, its card, and a repository of a hub on loopback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from crosstune.analysis.statistics.differences import AllPairs
from crosstune.analysis.statistics.pairing import pair_predictions
from crosstune.analysis.transfer import language_scores
from crosstune.cli.main import app
from crosstune.errors import UserError
from crosstune.exporting.card import _results, _use, write_card
from crosstune.exporting.folders import Written, write_adapter
from crosstune.methods import METHODS
from crosstune.store import store as stored
from hub_server import COMMIT, OWNER, TOKEN, serving
from records import as_record
from simulated import make_run


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
        paired = pair_predictions(language_scores([record], table), table)[0]
        low, high = AllPairs(paired, [code], language_effect="fixed").values().select("low", "high").row(0)
        interval = "-" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
        assert f"| {name} | {len(scores)} | {100 * mean:.1f} | {interval} |" in rest
    for part in (
        f"run {record.id}",
        f"{record.trained_parameters:,} trained parameters",
        "PeftModel.from_pretrained",
    ):
        assert part in rest
    demo = Written(folder, record.model_copy(update={"model": "demo:e5-small"}), "PEFT adapter", 0.0, ())
    assert "loading.demo import prepare\n" in _use(demo)
    assert 'from_pretrained(prepare("demo:e5-small"))' in _use(demo), "transformers does not know that name"
    assert "English names of 80 items a kind" in rest
    assert f"- base model {record.model}: not known here: look at its source\n" in rest
    assert "- data CLDR: Unicode License v3\n" in rest


def test_questions_on_one_passage_widen_the_card_s_intervals() -> None:
    """Five questions each, all right or all wrong: an interval of 20 passages and not of 100 questions."""
    run = make_run("lora", "lora", 0, ["en", "de"], task="xquad", model="m", written=False)
    record = as_record(run | {"id": "r"})
    rows = [
        {"run": record.id, "language": code, "example": f"{i:03}", "score": float(i // 5 % 2)}
        for code in ("en", "de")
        for i in range(100)
    ]
    spans = []
    for passages in ([None] * 100, [f"p{i // 5}" for i in range(100)]):
        table = pl.DataFrame(rows).with_columns(cluster=pl.Series([*passages, *passages], dtype=pl.String))
        scores = language_scores([record], table)
        (paired,) = pair_predictions(scores, table)
        text = _results(record, scores, paired)
        assert ("over test passages" in text) == (passages[0] is not None)
        (line,) = (line for line in text.splitlines() if line.startswith("| German |"))
        low, high = map(float, line.split(" | ")[-1].removesuffix(" |").split(" to "))
        spans.append(high - low)
    # Wilson's interval of 100 and of 20 answers; two more for what is not seen, and Student's t, widen both.
    plain = [100 * float(np.ptp(proportion_confint(n / 2, n, method="wilson"))) for n in (100, 20)]
    assert spans == [pytest.approx(plain[0], abs=1.5), pytest.approx(plain[1], abs=4)]


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
