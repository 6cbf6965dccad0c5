"""What the field argues about, as claims: equivalence, gaps, relative transfer, interactions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crosstune.analysis.groups import group_of
from crosstune.analysis.statistics.differences import AllPairs
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.pairing import pair_predictions
from crosstune.analysis.transfer import language_scores
from crosstune.claims.file import Claim, PlacedClaim, read_claims
from crosstune.claims.judge import Verdict, judge
from crosstune.errors import UserError
from simulated import LANGUAGES, simulate

Store = tuple[list[Any], pl.DataFrame]
LOW = {f"class {n}" for n in (0, 1, 2)}


def verdict_of(store: Store, **claim: Any) -> Verdict:
    claim = {"claim": "c", "method": "prefix", **claim}
    return judge([PlacedClaim(Claim.model_validate(claim), "x:1")], *store)[0]


def chances(source: float, target: float, low: float | None = None) -> Callable[[str], float]:
    """Of a right answer in the source, in targets, and in low-resource ones."""

    def chance(code: str) -> float:
        if code == "en":
            return source
        return low if low is not None and group_of(code, "resource") in LOW else target

    return chance


@pytest.fixture(scope="module")
def store() -> Store:
    """Prefix is 20 points ahead in low-resource languages alone, and behind in English; two are alike."""
    return simulate(
        {"prefix": chances(0.6, 0.6, 0.8), "lora": chances(0.8, 0.6), "full": chances(0.8, 0.6)}, examples=150
    )


def test_equal_within_a_margin_is_shown_by_two_one_sided_tests(store: Store) -> None:
    alike = verdict_of(store, method="lora", equals="full", within=6)
    assert (alike.verdict, alike.reason) == ("supported", "the interval is inside ±6 points")
    assert verdict_of(store, method="full", equals="lora", within=6).p == alike.p
    # A margin as large as the interval is wide is not shown, and of methods far apart the opposite is.
    assert verdict_of(store, method="lora", equals="full", within=0.5).verdict == "not enough data"
    apart = verdict_of(store, equals="lora", languages={"resource": [0, 1, 2]}, within=5)
    assert (apart.verdict, apart.reason) == ("contradicted", "the interval is outside ±5 points")
    # The interval decides: its ends lie inside the margin, on both sides.
    assert alike.cell.low is not None
    assert alike.cell.high is not None
    assert -0.06 < alike.cell.low < alike.cell.high < 0.06
    edge = 100 * max(-alike.cell.low, alike.cell.high)
    verdicts = [
        verdict_of(store, method="lora", equals="full", within=edge + step).verdict for step in (-0.05, 0.05)
    ]
    assert verdicts == ["not enough data", "supported"]


def test_a_smaller_gap_beats(store: Store) -> None:
    """Prefix starts lower in English and ends as high or higher: it loses less on the way."""
    gap = verdict_of(store, beats="lora", quantity="gap")
    assert (gap.verdict, gap.metric) == ("supported", "transfer gap")
    (paired,) = pair_predictions(language_scores(*store), store[1])
    pair = AllPairs(paired, Estimand("gap")).pair("lora", "prefix")
    assert (gap.cell.difference, gap.cell.low, gap.cell.p) == (pair.difference, pair.low, pair.p)
    relative = verdict_of(store, beats="lora", quantity="relative", chance=25)
    above = AllPairs(paired, Estimand("relative", chance=0.25)).pair("prefix", "lora")
    assert (relative.verdict, relative.cell.difference) == ("supported", above.difference)
    assert verdict_of(store, beats="lora", quantity="relative").cell.difference != above.difference


def test_relative_transfer_wants_a_source_score_above_chance(store: Store) -> None:
    """Below or at chance the quotient has any size and sign, and its test means nothing."""
    outcome = verdict_of(store, beats="lora", quantity="relative", chance=58)
    assert outcome.verdict == "not enough data"
    assert "not clearly above 58.0" in outcome.reason
    (paired,) = pair_predictions(language_scores(*store), store[1])
    with pytest.raises(UserError, match="relative transfer: prefix scores"):
        AllPairs(paired, Estimand("relative", chance=0.7)).pair("prefix", "lora")


def test_without_the_source_there_is_no_gap(store: Store) -> None:
    runs, rows = store
    without = [run.model_copy(update={"languages": run.languages[1:]}) for run in runs]
    outcome = verdict_of((without, rows.filter(pl.col("language") != "en")), beats="lora", quantity="gap")
    assert outcome.reason == "not every run was scored in en, from which the gap is taken"


def test_a_lead_may_be_larger_in_one_group_of_languages(store: Store) -> None:
    low = verdict_of(store, beats="lora", more_in={"resource": [0, 1, 2]})
    assert low.verdict == "supported"
    assert low.cell.difference == pytest.approx(0.2, abs=0.04)
    assert low.metric == "lead in some languages less that in others"
    other = verdict_of(store, beats="lora", more_in={"resource": [3, 4, 5]}, than_in={"resource": [0, 1, 2]})
    assert (other.verdict, other.cell.difference) == ("contradicted", pytest.approx(-low.cell.difference))
    assert verdict_of(store, method="lora", beats="full", more_in={"resource": [0, 1, 2]}).verdict == (
        "not enough data"
    )
    few = verdict_of(store, beats="lora", more_in=["sw"])
    assert (few.verdict, few.reason) == ("not enough data", "1 target language, fewer than 3")
    assert "has no target language" in verdict_of(store, beats="lora", more_in=["qu"]).reason


def test_a_lead_may_be_larger_on_some_tasks() -> None:
    """Ahead by 20 points in generation and by nothing in choices; each task has the same weight."""
    leads = {"sums": 0.2, "answers": 0.2, "topics": 0.0, "pairs": 0.0}
    stores = [
        simulate({"prefix": 0.5 + lead, "lora": 0.5}, task=task, examples=60) for task, lead in leads.items()
    ]
    whole = [run for runs, _ in stores for run in runs], pl.concat([rows for _, rows in stores])
    claim: dict[str, Any] = {"beats": "lora", "task": ["sums", "answers"], "than_on": ["topics", "pairs"]}
    more = verdict_of(whole, **claim)
    assert (more.verdict, len(more.cells), len(more.runs)) == ("supported", 1, 24)
    alone = [verdict_of(whole, beats="lora", task=task).cell.difference or 0.0 for task in leads]
    assert more.cell.difference == pytest.approx((alone[0] + alone[1] - alone[2] - alone[3]) / 2)
    assert verdict_of(whole, **claim, by=30).verdict == "contradicted"
    # Too few right answers on one task: not tested, on whichever of them.
    rare = simulate({"prefix": 0.02, "lora": 0.02}, task="rare", examples=20)
    store = [*whole[0], *rare[0]], pl.concat([whole[1], rare[1]])
    untested = verdict_of(store, **claim | {"than_on": ["topics", "rare"]})
    assert (untested.verdict, "right answers of" in untested.reason) == ("not enough data", True)
    missing = verdict_of(whole, **claim | {"than_on": ["none such"]})
    assert missing.reason == "no zero-shot runs on none such with demo:tiny"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beats": "lora", "chance": 25}, "chance belongs to quantity: relative"),
        ({"equals": "lora"}, "equals needs within"),
        ({"equals": "lora", "within": 2, "by": 1}, "equals takes within"),
        ({"varies_with": "rank", "quantity": "gap"}, "quantity compares two methods"),
        ({"beats": "lora", "quantity": "gap", "every": "language"}, "quantity is not judged by language"),
        ({"beats": "lora", "quantity": "gap", "metric": "wrong_language"}, "gap is of a score"),
        ({"beats": "lora", "quantity": "gap", "more_in": ["sw"]}, "a claim takes one of more_in, quantity"),
        ({"beats": "lora", "than_in": ["sw"]}, "than_in belongs to more_in"),
        ({"beats": "lora", "more_in": ["sw"], "than_in": ["sw", "de"]}, "sw is in more_in, too"),
        ({"beats": "lora", "than_on": "a"}, "than_on needs task: other tasks"),
        ({"beats": "lora", "more_in": ["xyzzy"]}, "more_in: unknown language"),
    ],
)
def test_keys_without_meaning_together_are_refused(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"claims": [{"claim": "c", "method": "prefix", **keys}]}), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_claims(file)


def test_a_method_that_lacks_languages_is_left_out_and_named() -> None:
    """A third method in ten languages takes none from a claim on the other two, and the claim says so."""
    runs, rows = simulate({"prefix": 0.8, "lora": 0.6, "full": 0.6}, examples=30)
    lacks = {run.id for run in runs if run.label == "full"}
    few = rows.filter(~pl.col("run").is_in(lacks) | pl.col("language").is_in(LANGUAGES[:10]))
    short = [run.model_copy(update={"languages": LANGUAGES[:10]}) if run.id in lacks else run for run in runs]
    cell = verdict_of((short, few), beats="lora").cell
    assert cell.languages == 26
    assert cell.note == "without full, not run in all these languages: tables have fewer"
    assert verdict_of((runs, rows), beats="lora").cell.note == ""
