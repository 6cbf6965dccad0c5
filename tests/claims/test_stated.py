"""Claims on how a study is set up, and those that the literature alone can speak of."""

from typing import Any

import pytest

from crosstune.api import placed_claims
from crosstune.claims.file import Claim, PlacedClaim, read_claims
from crosstune.claims.judge import Verdict, about, judge
from crosstune.errors import UserError
from simulated import simulate

SEARCH = {
    "runs": ["a", "b"],
    "scores": [{"learning_rate": rate, "dev_score": 0.5} for rate in (3e-3, 1e-3)],
    "chosen": 1e-3,
}
STORE = simulate(
    {
        "prefix": {"chance": 0.5, "search": SEARCH, "method": {"name": "prefix", "length": 10}},
        "lora": {"chance": 0.5, "train": {"learning_rate": 3e-3}},
        "none": 0.3,
    },
    examples=2,
    languages=["en", "de", "sw"],
    seeds=(0, 1),
    data={
        "skipped_rows": 0,
        "train_examples": 67_541,
        "sources": [{"split": "train", "file": "SQuAD/train-v1.1.json"}, {"split": "test", "file": "x"}],
    },
)


def verdict_of(**claim: Any) -> Verdict:
    return judge([PlacedClaim(Claim.model_validate({"claim": "c", **claim}), "x:1")], *STORE)[0]


@pytest.mark.parametrize(
    ("setup", "found"),
    [
        ({"languages": ["sw", "en", "de"]}, None),
        ({"languages": ["en", "de"]}, "languages de, en, sw"),
        ({"learning_rates": [3e-3, 1e-3]}, None),
        (
            {"learning_rates": [3e-3, 1e-3, 3e-4]},
            "not so in 2 of 5 runs: prefix on topics has learning rates",
        ),
        ({"learning_rates": 1e-3}, "learning rates"),
        ({"train_examples": "67.5K"}, None),
        ({"train_examples": "67.4K"}, "train examples 67541"),
        ({"train_examples": 67_541}, None),
        ({"train_data": "squad"}, None),
        ({"train_data": "gsm8k"}, "train data SQuAD/train-v1.1.json"),
        ({"length": 10, "source_language": "en", "steps": 10, "quantize": "none"}, None),
        ({"length": 30}, "length 10"),
        ({"source_language": "de"}, "source language en"),
    ],
)
def test_a_setup_is_checked_against_the_records(setup: dict[str, Any], found: str | None) -> None:
    verdict = verdict_of(setup=setup)
    assert verdict.verdict == ("supported" if found is None else "contradicted")
    assert ("so in all 5 runs" if found is None else found) in verdict.reason
    assert len(verdict.runs) == 5
    assert verdict.cell.difference is None


def test_what_a_claim_names_needs_runs() -> None:
    for name, named in (("task", ["topics", "xnli"]), ("model", "org/other"), ("method", ["prefix", "full"])):
        verdict = verdict_of(setup={"source_language": "en"}, **{name: named})
        assert verdict.verdict == "not enough data"
        assert verdict.reason.startswith("no runs of ")
    picked = verdict_of(setup={"rank": 4}, method={"name": "lora", "rank": 4})
    assert (picked.verdict, len(picked.runs)) == ("supported", 2)


def test_literature_is_no_verdict_and_is_not_asked_by_default() -> None:
    verdict = verdict_of(literature="What an earlier paper did.")
    assert (verdict.verdict, verdict.reason) == ("literature", "What an earlier paper did.")
    placed = read_claims("founding")
    left = about(placed, STORE[0])
    assert len(left) == 3
    assert all(entry.claim.compares for entry in left)
    assert {verdict.verdict for verdict in judge(placed, *STORE)} == {"not enough data", "literature"}


def test_a_setting_that_nothing_has_is_a_mistake() -> None:
    claim = Claim.model_validate({"claim": "c", "setup": {"learning_rate_": 1}})
    with pytest.raises(UserError, match='setup has no "learning_rate_"; did you mean "learning_rate'):
        placed_claims(claim)
