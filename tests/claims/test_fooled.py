"""Ways to be told more than results say, each of them closed."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from crosstune.analysis.groups import group_of
from crosstune.claims.cell import Cell, corrected
from crosstune.claims.file import Claim, PlacedClaim
from crosstune.claims.judge import Verdict, judge
from simulated import simulate

BEATS: dict[str, Any] = {"method": "prefix", "beats": "lora"}


def verdict_of(store: tuple[list[Any], pl.DataFrame], **claim: Any) -> Verdict:
    return judge([PlacedClaim(Claim.model_validate({"claim": "c", **claim}), "x:1")], *store)[0]


def together(*stores: Any) -> Any:
    return [run for runs, _ in stores for run in runs], pl.concat(
        [rows for _, rows in stores], how="diagonal"
    )


def test_families_that_were_not_judged_are_not_in_every_family() -> None:
    """Ahead in two families of three languages, behind in twelve of one: the gain is not in every family."""
    alone = ["hu", "tr", "ar", "sw", "id", "ta", "ka", "ja", "ko", "th", "eu", "qu"]
    languages = ["en", "de", "fr", "ru", "zh", "my", "bo", *alone]
    ahead = {group_of("de", "family"), group_of("zh", "family")}

    def chance(code: str) -> float:
        return 0.9 if group_of(code, "family") in ahead else 0.3

    store = simulate({"prefix": chance, "lora": 0.6}, languages=languages, examples=60)
    every = verdict_of(store, **BEATS, every="family")
    assert every.verdict == "not enough data"
    assert every.reason.startswith("holds in 2 of 14 families, fails in 0; 2 of 14 judged (1 target language")
    # Half the families, and not those that happen to be large.
    assert verdict_of(store, **BEATS, most="family").verdict == "not enough data"
    assert verdict_of(store, **BEATS, every="family", at_least=1).verdict == "contradicted"


def test_the_comparison_shown_is_one_that_decides() -> None:
    """A language with few examples and a large difference is not the evidence of another language's gain."""
    runs, rows = simulate(
        {"prefix": lambda code: 0.9 if code == "de" else 0.6, "lora": 0.5},
        languages=["en", "sw", "de", "fr", "ru"],
    )
    prefix = pl.col("run").is_in([run.id for run in runs if run.label == "prefix"])
    swahili = pl.col("language") == "sw"
    rows = rows.with_columns(score=pl.when(swahili).then(prefix.cast(pl.Float64)).otherwise("score"))
    few = ~swahili | pl.col("example").is_in(["0", "1", "2"])
    actual = verdict_of((runs, rows.filter(few)), **BEATS, some="language")
    assert (actual.verdict, actual.cell.where) == ("supported", "de")
    assert actual.cell.low is not None
    assert actual.cell.low > 0
    widest = max(actual.cells, key=lambda cell: cell.difference or 0)
    assert (widest.where, widest.outcome) == ("sw", "open"), "this one would have been shown"


@pytest.mark.parametrize(
    ("quantifier", "p_values", "outcomes"),
    [
        ("every", (0.03, 0.04), ["yes", "yes"]),  # intersection-union
        ("every", (-0.03, 0.04), ["open", "yes"]),
        ("some", (0.03, 0.04), ["open", "open"]),
        ("some", (-0.03, -0.04), ["no", "no"]),
        ("most", (0.03, 0.02), ["yes", "yes"]),
    ],
)
def test_all_cells_together_need_no_correction(
    quantifier: Any, p_values: tuple[float, ...], outcomes: list[str]
) -> None:
    cells = [Cell(str(p), difference=float(np.sign(p)), holds=p > 0, p=abs(p)) for p in p_values]
    assert [cell.outcome for cell in corrected(cells, quantifier)] == outcomes


# --- more than the method ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"steps": 1000}}, "steps 1000 against 10"),
        ({"train": {"limit": 50}}, "limit 50 against none"),
        ({"dtype": "float32"}, "dtype float32 against bfloat16"),
        ({"revision": "abc"}, "revision abc against none"),
        ({"quantize": "4bit"}, "quantize 4bit against none"),
        ({"fingerprints": {"train": "bb"}}, 'training data "bb" against "aa"'),
    ],
)
def test_what_differs_besides_the_method_is_refused_until_the_claim_names_it(
    change: dict[str, Any], said: str
) -> None:
    store = simulate({"prefix": {"chance": 0.9, **change}, "lora": 0.5}, examples=20)
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, said in outcome.reason) == ("not enough data", True), outcome.reason
    named = outcome.reason.rpartition("[")[2].rstrip("]")
    accepted = verdict_of(store, **BEATS, despite=named)
    assert (accepted.verdict, said in accepted.cell.effort) == ("supported", True)


def test_a_recipe_of_its_own_is_shown_and_no_reason_to_refuse() -> None:
    store = simulate({"prefix": {"chance": 0.9, "train": {"clip": 0.5}}, "lora": 0.5}, examples=20)
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, outcome.cell.effort) == ("supported", "clip 0.5 against none")


def test_runs_with_4_bit_weights_are_a_method_of_their_own() -> None:
    plain = simulate({"lora": 0.6, "prefix": 0.6}, seeds=[0, 1], examples=10)
    small = simulate({"lora": {"chance": 0.2, "quantize": "4bit"}}, seeds=[2, 3], examples=10)
    assert "ambiguous" in verdict_of(together(plain, small), **BEATS).reason


def test_the_seed_that_chose_among_ten_rates_is_not_tested_against_one_rate() -> None:
    """Ten rates that change nothing: the lucky seed of the chosen one does not count as the method's."""
    seeds, rates = [0, 1, 2], [round(1e-4 * 2**i, 5) for i in range(10)]
    lucky = rates[3]
    methods: dict[str, Any] = {"prefix": 0.6}
    for rate in rates:
        luck = 0.9 if rate == lucky else 0.6
        methods[f"lora lr {rate}"] = {
            "chance": 0.6,
            "train": {"learning_rate": rate},
            "dev": [{"step": 1, "score": luck}],
        }
    runs, rows = simulate(methods, seeds=seeds, languages=["en", "de", "fr", "ru"], examples=40)
    # Its first seed drew luck on every test set as well.
    (first,) = (run.id for run in runs if run.label == f"lora lr {lucky}" and run.seed == 0)
    rows = rows.with_columns(score=pl.when(pl.col("run") == first).then(1.0).otherwise("score"))
    verdict = verdict_of((runs, rows), method="lora", beats="prefix")
    assert verdict.cell.seeds_a == 2
    assert first not in verdict.runs
    assert verdict.cell.difference == pytest.approx(0, abs=0.08)
    assert verdict.cell.effort.startswith("best of 10 rates against one rate")


# --- what a store also holds ------------------------------------------------------------------------


def test_a_choice_task_takes_nothing_from_a_claim_on_the_language_of_answers() -> None:
    shares = {1e-4: 0.1, 1e-2: 0.6}
    written = simulate(
        {
            f"lora lr {rate:g}": {"chance": 0.4, "english": share, "train": {"learning_rate": rate}}
            for rate, share in shares.items()
        },
        written=True,
        task="numbers",
        examples=40,
    )
    choices = simulate(
        {f"lora lr {rate:g}": {"chance": 0.4, "train": {"learning_rate": rate}} for rate in shares},
        task="topics",
        examples=10,
    )
    claim: dict[str, Any] = {"method": "lora", "varies_with": "learning_rate", "metric": "wrong_language"}
    outcome = verdict_of(together(written, choices), **claim, by=5)
    assert (outcome.verdict, len(outcome.cells)) == ("supported", 1)
    alone = verdict_of(choices, **claim, by=5)
    assert "no generated answers" in alone.reason


def test_pairs_of_task_and_language_are_not_counted_as_languages() -> None:
    stores = [simulate({"prefix": 0.9, "lora": 0.5}, task=task, examples=10) for task in ("a", "b")]
    verdict = verdict_of(together(*stores), **BEATS, some="language")
    assert "of 52 comparisons" in verdict.reason
