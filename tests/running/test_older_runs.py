"""Runs of an older crosstune that has other numbers for the same settings: made again, or told apart."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, processors

import crosstune
from crosstune.claims.file import Claim
from crosstune.files import sha256_of
from crosstune.metrics.language_id import IDENTIFIER
from crosstune.report.sections import sections
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.study.spec import Study
from saved_model import study_of


@pytest.fixture(scope="module")
def closed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a tokenizer that closes texts with end-of-text."""
    folder = tmp_path_factory.mktemp("closed") / "model"
    shutil.copytree(model, folder)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.save(str(folder / "tokenizer.json"))
    return folder


def aged(folder: Path, **changes: object) -> None:
    """A run's record with other entries, as if an older crosstune had written it."""
    record = json.loads((folder / store.RUN).read_text()) | changes
    (folder / store.RUN).write_text(json.dumps(record))
    sums = json.loads((folder / store.CHECKSUMS).read_text()) | {store.RUN: sha256_of(folder / store.RUN)}
    (folder / store.CHECKSUMS).write_text(json.dumps(sums))


def test_runs_with_closed_prompts_are_made_again_or_told_apart(closed: Path, tmp_path: Path) -> None:
    def go(*methods: str) -> str:
        facts = study_of(closed, tmp_path / "store", tasks=["number-words"], methods=list(methods))
        said = io.StringIO()
        run_study(Study(**facts | {"train": {"steps": 1}}), console=Console(file=said, width=200))
        return said.getvalue()

    go("none")
    (first,) = store.read_runs(tmp_path / "store")
    assert (first.closed_by, first.identifier) == (1, IDENTIFIER)
    aged(tmp_path / "store" / first.id, closed_by=None, identifier=None)
    assert "is run again: its prompts were closed with end-of-text" in go("none", "lora")
    runs = store.read_runs(tmp_path / "store")
    assert [run.closed_by for run in runs] == [1, 1]
    results = crosstune.results(tmp_path / "store")
    (section,) = results.sections
    assert not any("end-of-text" in line or "rules" in line for line in section.warnings)

    aged(tmp_path / "store" / first.id, closed_by=None, identifier=None)
    results = crosstune.results(tmp_path / "store")
    (section,) = sections(results.runs, results.source)
    assert ["end-of-text" in line or "different rules" in line for line in section.warnings].count(True) == 2
    claim = Claim.model_validate(
        {
            "claim": "c",
            "method": "lora",
            "beats": "none",
            "metric": "wrong_language",
            "at_least": 1,
            "seeds": 1,
        }
    )
    (verdict,) = results.verdicts(claim)
    assert [cell.why for cell in verdict.cells] == [
        "the languages of their answers were identified by different rules: relabel them"
    ]


def test_updates_that_were_rounded_away_are_told_apart(model: Path, tmp_path: Path) -> None:
    """Of two LoRA runs in bf16, the one whose record does not say how its update was evaluated is older."""
    facts = study_of(model, tmp_path / "store", methods=["lora"], dtype="bfloat16", seeds=[0, 1])
    run_study(Study(**facts | {"train": {"steps": 1}}), console=Console(file=io.StringIO()))
    first, second = store.read_runs(tmp_path / "store")
    assert first.merge is not None
    for changes, wanted in (
        ({}, False),
        ({"merge": None}, True),
        ({"merge": None, "dtype": "float32"}, False),
    ):
        aged(tmp_path / "store" / first.id, **changes)
        results = crosstune.results(tmp_path / "store")
        found = [line for section in results.sections for line in section.warnings]
        assert any("rounded small updates away" in line for line in found) == wanted
    assert second.merge is not None
    for run in (first, second):  # nor is a store of older ones alone silent
        aged(tmp_path / "store" / run.id, merge=None, dtype="bfloat16")
    found = [line for section in crosstune.results(tmp_path / "store").sections for line in section.warnings]
    assert any("rounded small updates away" in line for line in found)
