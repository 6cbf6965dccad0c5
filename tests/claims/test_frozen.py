"""Claims that are fixed before results exist."""

from pathlib import Path

import pytest

import crosstune
from crosstune.cli.claims import freeze as freeze_verb
from crosstune.errors import UserError
from crosstune.store.frozen import FROZEN, freeze, read_frozen
from simulated import simulate, write_store

TEXT = "claims:\n- {claim: Prefix wins., method: prefix, beats: lora}\n"


def test_a_verdict_says_whether_its_claim_came_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims, store = tmp_path / "mine.yaml", tmp_path / "runs"
    claims.write_text(TEXT)
    freeze_verb(str(claims), store)
    (entry,) = read_frozen(store)
    assert f"before any run: sha256 {entry.sha256}" in capsys.readouterr().out
    assert (entry.text, entry.runs) == (TEXT, ())
    runs, rows = simulate({"prefix": 0.9, "lora": 0.5}, examples=10, languages=["en", "de", "fr", "sw"])
    write_store(store, runs, rows)
    (verdict,) = crosstune.results(store).verdicts(claims)
    assert verdict.frozen == f"frozen on {entry.day}, before its runs"
    assert verdict.frozen in crosstune.report(store, claims=claims).read_text(encoding="utf-8")
    # The same content again keeps its first date; another is said to have changed.
    assert freeze(claims, store) == entry
    claims.write_text(TEXT.replace("wins", "wins by far"))
    (verdict,) = crosstune.results(store).verdicts(claims)
    assert verdict.frozen == f"changed since it was frozen on {entry.day}"
    freeze(claims, store)
    (verdict,) = crosstune.results(store).verdicts(claims)
    assert verdict.frozen == f"frozen on {entry.day}, after 6 of its 6 runs"
    assert crosstune.results(store).verdicts("demo")[0].frozen == ""


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "x"}]', "\x00"])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FROZEN).write_text(text)
    with pytest.raises(UserError, match="is not as crosstune wrote it; delete it"):
        read_frozen(tmp_path)


def test_claims_with_a_mistake_are_not_frozen(tmp_path: Path) -> None:
    claims = tmp_path / "mine.yaml"
    claims.write_text("claims: []")
    with pytest.raises(UserError, match="a list"):
        freeze_verb(str(claims), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
