"""Verdicts on simulated results whose truth is known."""

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from scipy import stats

from crosstune.analysis.groups import group_of
from crosstune.claims.file import Claim, PlacedClaim
from crosstune.claims.judge import Verdict, about, judge, verdict_table
from simulated import LANGUAGES, simulate

Store = tuple[list[dict[str, Any]], pl.DataFrame]

BEATS: dict[str, Any] = {"claim": "p beats l", "method": "prefix", "beats": "lora"}


def verdict_of(store: Store, **claim: Any) -> Verdict:
    return judge([PlacedClaim(Claim.model_validate({"claim": "c", **claim}), "x:1")], *store)[0]


def together(*stores: Store) -> Store:
    return [run for runs, _ in stores for run in runs], pl.concat(
        [rows for _, rows in stores], how="diagonal"
    )


def test_better_by_a_lot_is_supported_and_the_reverse_contradicted() -> None:
    store = simulate({"prefix": 0.75, "lora": 0.6})
    good, bad = verdict_of(store, **BEATS), verdict_of(store, method="lora", beats="prefix")
    assert (good.verdict, bad.verdict) == ("supported", "contradicted")
    cell = good.cell
    assert cell.difference == pytest.approx(0.15, abs=0.04)
    assert cell.low is not None
    assert cell.high is not None
    assert 0 < cell.low < cell.difference < cell.high
    assert (cell.languages, cell.examples, cell.seeds_a, cell.seeds_b) == (26, 2600, 3, 3)
    assert set(good.runs) == {run.id for run in store[0]}
    assert bad.cell.difference == pytest.approx(-cell.difference)
    assert (bad.cell.low, bad.cell.high) == pytest.approx((-cell.high, -cell.low))


def test_no_difference_is_not_enough_data_and_says_what_would_have_been_found() -> None:
    outcome = verdict_of(simulate({"prefix": 0.6, "lora": 0.6}, examples=30), **BEATS)
    assert outcome.verdict == "not enough data"
    assert outcome.cell.detectable is not None
    assert f"{100 * outcome.cell.detectable:.1f} points" in outcome.reason


def test_a_margin_moves_the_threshold() -> None:
    store = simulate({"prefix": 0.75, "lora": 0.6})
    assert verdict_of(store, **BEATS, by=5).verdict == "supported"
    assert verdict_of(store, **BEATS, by=15).verdict == "not enough data"
    # A real gain, and not as large as is claimed.
    assert verdict_of(store, **BEATS, by=25).verdict == "contradicted"


def test_not_below_is_another_claim_than_above() -> None:
    level = simulate({"prefix": 0.6, "lora": 0.6}, examples=300)
    assert verdict_of(level, **BEATS).verdict != "supported"
    assert verdict_of(level, method="prefix", matches="lora", within=5).verdict == "supported"
    below = simulate({"prefix": 0.5, "lora": 0.65})
    assert verdict_of(below, method="prefix", matches="lora", within=5).verdict == "contradicted"
    # Too few examples to rule out that it is below by so little.
    few = simulate({"prefix": 0.6, "lora": 0.6}, examples=5)
    assert verdict_of(few, method="prefix", matches="lora", within=1).verdict == "not enough data"


def test_p_values_against_a_margin_are_those_of_the_interval() -> None:
    verdict = verdict_of(simulate({"prefix": 0.7, "lora": 0.6}), **BEATS, by=4).cell
    assert verdict.p is not None
    assert verdict.low is not None
    assert verdict.difference is not None
    # The interval reaches the margin exactly when p is the interval's own level.
    edge = verdict_of(simulate({"prefix": 0.7, "lora": 0.6}), **BEATS, by=100 * verdict.low).cell
    assert edge.p == pytest.approx(0.05, abs=1e-6)
    assert (verdict.p < 0.05) == (verdict.low > 0.04 or (verdict.high or 1) < 0.04)


@pytest.mark.parametrize("by", ["family", "script"])
def test_a_gain_that_holds_in_every_group(by: str) -> None:
    everywhere = simulate({"prefix": 0.8, "lora": 0.6})
    outcome = verdict_of(everywhere, **BEATS, every=by, at_least=1)
    groups: dict[str, int] = {}
    for code in LANGUAGES[1:]:
        group = group_of(code, by)  # type: ignore[arg-type]
        groups[group] = groups.get(group, 0) + 1
    assert {cell.where for cell in outcome.cells} == set(groups)
    assert outcome.verdict == "supported"
    assert outcome.cell.difference == min(
        cell.difference for cell in outcome.cells if cell.difference is not None
    )


def test_one_family_the_other_way_contradicts_every_and_not_some_or_most() -> None:
    def uneven(code: str) -> float:
        return 0.45 if group_of(code, "family") == "Uralic" else 0.8

    store = simulate({"prefix": uneven, "lora": 0.65})
    every = verdict_of(store, **BEATS, every="family")
    assert every.verdict == "contradicted"
    assert every.cell.where == "Uralic"
    assert every.cell.outcome == "no"
    assert verdict_of(store, **BEATS, most="family").verdict == "supported"
    assert verdict_of(store, **BEATS, some="family").verdict == "supported"
    assert verdict_of(store, method="lora", beats="prefix", most="family").verdict == "contradicted"
    assert verdict_of(store, method="lora", beats="prefix", some="family").verdict == "supported"


def test_groups_of_one_kind_are_no_evidence_for_every() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.5}, languages=["en", "de", "fr", "ru", "fi"])
    outcome = verdict_of(store, **BEATS, every="family")
    assert outcome.verdict == "not enough data"
    assert "1 of 2 judged (1 target language of Uralic, fewer than 3)" in outcome.reason
    alone = simulate({"prefix": 0.9, "lora": 0.5}, languages=["en", "de", "fr", "ru"])
    assert verdict_of(alone, **BEATS, every="family").reason.startswith("1 family among")


def test_can_surpass_in_a_language() -> None:
    def only_swahili(code: str) -> float:
        return 0.9 if code == "sw" else 0.3

    store = simulate({"soft-prompt": only_swahili, "full": 0.65})
    claim = {"method": "soft-prompt", "beats": "full", "languages": {"resource": [0, 1, 2]}}
    assert verdict_of(store, **claim, most="language").verdict == "contradicted"
    outcome = verdict_of(store, **claim, some="language")
    assert (outcome.verdict, outcome.cell.where) == ("supported", "sw")
    nowhere = simulate({"soft-prompt": 0.3, "full": 0.8})
    assert verdict_of(nowhere, **claim, some="language").verdict == "contradicted"


def test_language_cells_use_the_exact_test_of_one_seed_each() -> None:
    store = simulate({"prefix": 0.7, "lora": 0.55}, seeds=[0], examples=60)
    verdict = verdict_of(store, **BEATS, some="language", seeds=1)
    runs, rows = store
    a, b = (rows.filter(run=run.id) for run in runs)
    for cell in verdict.cells:
        both = a.filter(language=cell.where).join(b.filter(language=cell.where), on="example")
        up = both.filter(pl.col("score") > pl.col("score_right")).height
        down = both.filter(pl.col("score") < pl.col("score_right")).height
        assert cell.p == pytest.approx(stats.binomtest(up, up + down).pvalue)


def test_up_to_six_points() -> None:
    claim = {**BEATS, "by": 6, "some": "language"}
    assert (
        verdict_of(
            simulate({"prefix": lambda c: 0.9 if c in ["ta", "te"] else 0.6, "lora": 0.6}), **claim
        ).verdict
        == "supported"
    )
    assert verdict_of(simulate({"prefix": 0.4, "lora": 0.6}, examples=300), **claim).verdict == "contradicted"
    assert verdict_of(simulate({"prefix": 0.63, "lora": 0.6}), **claim).verdict == "not enough data"


@pytest.mark.parametrize("quantifier", ["every", "some", "most"])
def test_no_verdict_out_of_noise(quantifier: str) -> None:
    """Under no difference about one claim in twenty, and no more, comes out (of 12 draws: at most 3)."""
    wrong = 0
    for draw in range(12):
        store = simulate({"prefix": 0.6, "lora": 0.6}, examples=20, seeds=(0, 1), draw=draw)
        outcome = verdict_of(store, **BEATS, **{quantifier: "family"})
        wrong += outcome.verdict != "not enough data"
    assert wrong <= 3


# --- what is compared ---------------------------------------------------------------------------


def test_scale_is_never_compared_across_models() -> None:
    small = simulate({"prefix": 0.6, "lora": 0.5}, model="org/Small-1B")
    large = simulate({"prefix": 0.9, "lora": 0.8}, model="org/Large-24B")
    claim = {**BEATS, "every": "model"}
    outcome = verdict_of(together(small, large), **claim, model=["org/Small-1B", "org/Large-24B"])
    assert outcome.verdict == "supported"
    assert [cell.where for cell in outcome.cells] == ["org/Large-24B", "org/Small-1B"]
    for cell in outcome.cells:
        assert cell.difference == pytest.approx(0.1, abs=0.05)
    missing = verdict_of(small, **claim, model=["org/Small-1B", "org/Large-24B"])
    assert missing.verdict == "not enough data"
    assert "no zero-shot runs with org/Large-24B" in missing.reason
    # prefix of one model and LoRA of the other are no comparison.
    apart = together(simulate({"prefix": 0.9}, model="a/x"), simulate({"lora": 0.5}, model="b/y"))
    outcome = verdict_of(apart, **BEATS)
    assert (outcome.verdict, outcome.reason) == (
        "not enough data",
        "the two methods never ran on the same model and task",
    )


def test_a_model_in_a_folder_is_known_by_its_last_part() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.5}, model="/disk/Llama-3.1-8B")
    assert verdict_of(store, **BEATS, model="meta-llama/Llama-3.1-8B").verdict == "supported"
    assert verdict_of(store, **BEATS, model="meta-llama/Llama-3.1-8B-Instruct").verdict == "not enough data"


def test_never_across_protocols() -> None:
    one = simulate({"prefix": 0.9}, evaluate={"choices": "label"})
    other = simulate({"lora": 0.5}, evaluate={"choices": "first-token"})
    outcome = verdict_of(together(one, other), **BEATS)
    assert (outcome.verdict, outcome.cell.difference) == ("not enough data", None)
    assert "protocol" in outcome.reason


def test_of_two_sizes_of_test_set_the_larger_counts() -> None:
    """The choice is by size, whatever the scores: the smaller one says the opposite."""
    small = simulate({"prefix": 0.2, "lora": 0.9}, examples=20, draw=1)
    large = simulate({"prefix": 0.9, "lora": 0.5}, examples=60)
    outcome = verdict_of(together(small, large), **BEATS)
    assert (outcome.verdict, outcome.cell.examples) == ("supported", 26 * 60)


def test_two_kinds_of_prompt_are_ambiguous_until_the_claim_says_which() -> None:
    def prompted(language: str, chance: float) -> Store:
        runs, rows = simulate({"prefix": chance, "lora": 0.5}, prompts=language)
        return [
            run.model_copy(
                update={"task": run.task.model_copy(update={"options": {"prompt_language": language}})}
            )
            for run in runs
        ], rows

    store = together(prompted("source", 0.9), prompted("target", 0.2))
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, outcome.reason[:9]) == ("not enough data", "ambiguous")
    assert verdict_of(store, **BEATS, options={"prompt_language": "source"}).verdict == "supported"
    assert verdict_of(store, **BEATS, options={"prompt_language": "target"}).verdict == "contradicted"


# --- which runs: never the best on test -----------------------------------------------------------


def rates(**own: Any) -> dict[str, Any]:
    """LoRA at three learning rates, the best of them on test data far ahead."""
    created = {}
    for rate, chance in ((1e-4, 0.5), (1e-3, 0.95), (1e-2, 0.6)):
        more = {key: value[rate] if isinstance(value, dict) else value for key, value in own.items()}
        created[f"lora lr {rate:g}"] = {"chance": chance, "train": {"learning_rate": rate}, **more}
    return created


def test_several_rates_without_a_rule_are_ambiguous() -> None:
    store = simulate({"prefix": 0.75, **rates()})
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, outcome.cell.difference) == ("not enough data", None)
    assert outcome.reason.startswith("ambiguous: 3 setups of lora")
    assert "train: {learning_rate" in outcome.reason
    for rate, expected in ((1e-4, "supported"), (1e-3, "contradicted"), (1e-2, "supported")):
        picked = {"name": "lora", "train": {"learning_rate": rate}}
        assert verdict_of(store, method="prefix", beats=picked).verdict == expected


def test_the_searched_rate_stands_for_its_method() -> None:
    search = {1e-4: None, 1e-3: None, 1e-2: {"runs": ["0" * 16], "scores": [], "chosen": 1e-2}}
    outcome = verdict_of(simulate({"prefix": 0.75, **rates(search=search)}), **BEATS)
    assert outcome.verdict == "supported"
    assert outcome.cell.b == "lora lr 0.01"


def test_else_the_best_on_development_data_stands_for_it() -> None:
    scores = {1e-4: [0.2], 1e-3: [0.3], 1e-2: [0.8, 0.1]}
    dev = {
        rate: [{"step": i, "score": score} for i, score in enumerate(of_rate)]
        for rate, of_rate in scores.items()
    }
    outcome = verdict_of(simulate({"prefix": 0.9, **rates(dev=dev)}), **BEATS)
    assert (outcome.verdict, outcome.cell.b) == ("supported", "lora lr 0.01")
    # The best of three against one: the seed that chose is not tested.
    assert (outcome.cell.effort, outcome.cell.seeds_b) == (
        "one rate against best of 3 rates, without the seed that chose",
        2,
    )
    dev[1e-3] = []  # One run without a development score, and there is no rule.
    assert "ambiguous" in verdict_of(simulate({"prefix": 0.75, **rates(dev=dev)}), **BEATS).reason


def test_parameters_and_settings_pick_runs() -> None:
    store = simulate(
        {
            "prefix": 0.8,
            "lora r4": {"chance": 0.6, "method": {"name": "lora", "rank": 4}},
            "lora r64": {
                "chance": 0.95,
                "method": {"name": "lora", "rank": 64},
                "trained_parameters": 3_000_000,
            },
        }
    )
    assert "ambiguous" in verdict_of(store, **BEATS).reason
    assert verdict_of(store, method="prefix", beats={"name": "lora", "rank": 4}).verdict == "supported"
    assert verdict_of(store, method="prefix", beats={"name": "lora", "rank": 64}).verdict == "contradicted"
    small = {"name": "lora", "most_parameters": "1.23M"}
    assert verdict_of(store, method="prefix", beats=small).cell.b == "lora r4"
    none = verdict_of(store, method="prefix", beats={"name": "lora", "rank": 8})
    assert none.reason == "no zero-shot runs of lora rank 8"


# --- not enough data ------------------------------------------------------------------------------


def test_one_seed_is_not_enough_unless_the_claim_says_so() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.4, "none": 0.2}, seeds=[0])
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, outcome.reason) == ("not enough data", "1 seed of prefix, fewer than 2")
    assert outcome.cell.difference == pytest.approx(0.5, abs=0.05)
    assert verdict_of(store, **BEATS, seeds=1).verdict == "supported"
    # The model without tuning draws nothing: one run of it is all there is.
    three = simulate({"lora": 0.6, "none": 0.3})
    assert verdict_of(three, method="lora", beats="none").verdict == "supported"


def test_two_languages_are_not_enough() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.4}, languages=["en", "de", "sw"])
    outcome = verdict_of(store, **BEATS)
    assert (outcome.verdict, outcome.reason) == ("not enough data", "2 target languages, fewer than 3")
    only_source = verdict_of(simulate({"prefix": 0.9, "lora": 0.4}, languages=["en"]), **BEATS)
    assert only_source.verdict == "not enough data"
    none = verdict_of(store, **BEATS, languages=["yo"])
    assert none.reason == "none of the claim's languages is among the target languages"


def test_missing_runs_are_named() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.4})
    assert verdict_of(store, method="prefx", beats="lora").reason == (
        'no zero-shot runs of prefx; did you mean "prefix"?'
    )
    assert verdict_of(store, **BEATS, task="xnli").reason == "no zero-shot runs on xnli"
    assert verdict_of(store, **BEATS, metric="squad_f1").reason == "the runs recorded no metric squad_f1"
    assert verdict_of(store, method="prefix", beats="prefix").reason.startswith("both sides of the claim")
    tuned = simulate({"prefix": 0.9, "lora": 0.4}, zero_shot=False)
    assert verdict_of(tuned, **BEATS).verdict == "not enough data"
    assert verdict_of(tuned, **BEATS, zero_shot=False).verdict == "supported"


# --- what drives the language of answers ------------------------------------------------------------

DRIVES: dict[str, Any] = {
    "method": "lora",
    "varies_with": "learning_rate",
    "metric": "wrong_language",
    "by": 5,
}


def languages_by_rate(shares: Mapping[float, float], **more: Any) -> Store:
    return simulate(
        {
            f"lora lr {rate:g}": {"chance": 0.4, "english": share, "train": {"learning_rate": rate}}
            for rate, share in shares.items()
        },
        written=True,
        **more,
    )


def test_the_learning_rate_drives_wrong_language() -> None:
    driven = languages_by_rate({1e-4: 0.1, 1e-3: 0.12, 1e-2: 0.6})
    outcome = verdict_of(driven, **DRIVES)
    assert outcome.verdict == "supported"
    assert (outcome.cell.a, outcome.cell.b) == ("lora lr 0.01", "lora lr 0.0001")
    assert outcome.cell.difference == pytest.approx(0.5, abs=0.03)
    level = languages_by_rate({1e-4: 0.1, 1e-3: 0.1, 1e-2: 0.1}, examples=400)
    assert verdict_of(level, **DRIVES).verdict == "contradicted"
    assert verdict_of(level, **{**DRIVES, "by": 0}).verdict == "not enough data"
    assert verdict_of(languages_by_rate({1e-4: 0.1}), **DRIVES).reason.startswith("1 value of learning_rate")
    assert "seed" in verdict_of(languages_by_rate({1e-4: 0.1, 1e-2: 0.6}, seeds=[0]), **DRIVES).reason
    assert "no generated answers" in verdict_of(simulate(rates()), **DRIVES).reason


def test_fewer_wrong_answers_are_better() -> None:
    store = simulate(
        {"prefix": {"chance": 0.4, "english": 0.1}, "lora": {"chance": 0.4, "english": 0.5}}, written=True
    )
    for metric in ("wrong_language", "source_language"):
        outcome = verdict_of(store, **BEATS, metric=metric)
        assert outcome.verdict == "supported"
        assert outcome.cell.difference == pytest.approx(0.4, abs=0.05)
        assert (outcome.cell.a, outcome.cell.b) == ("prefix", "lora")
        assert verdict_of(store, method="lora", beats="prefix", metric=metric).verdict == "contradicted"


def test_an_answer_whose_language_cannot_be_told_is_not_in_a_wrong_one() -> None:
    store = languages_by_rate({1e-4: 0.5, 1e-2: 0.5})
    quiet = store[1].with_columns(
        answer_language=pl.when(pl.col("run") == store[0][0].id)
        .then(pl.lit("und"))
        .otherwise("answer_language")
    )
    from crosstune.metrics.language_id import UNDECIDABLE

    quiet = quiet.with_columns(pl.col("answer_language").replace("und", UNDECIDABLE))
    verdict = verdict_of((store[0], quiet), **DRIVES, seeds=1)
    assert verdict.cell.difference == pytest.approx(0.5 / 3, abs=0.05)


# --- the whole --------------------------------------------------------------------------------------


def test_verdicts_come_out_the_same_whatever_the_order() -> None:
    store = simulate({"prefix": 0.7, "lora": 0.6, "none": 0.3}, examples=20)
    claim = {**BEATS, "every": "family"}
    shuffled = (store[0][::-1], store[1].sample(fraction=1.0, shuffle=True, seed=1))
    assert verdict_of(store, **claim) == verdict_of(shuffled, **claim)


def test_the_table_has_a_row_a_claim() -> None:
    store = simulate({"prefix": 0.9, "lora": 0.4})
    claims = [
        PlacedClaim(Claim.model_validate(BEATS), "a.yaml:2"),
        PlacedClaim(Claim.model_validate({**BEATS, "model": "x/y"}), "a.yaml:9"),
    ]
    verdicts = judge(claims, *store)
    table = verdict_table(verdicts)
    assert table["verdict"].to_list() == ["supported", "not enough data"]
    assert table["difference"].to_list() == [verdicts[0].cell.difference, None]
    assert table["runs"].to_list() == [list(verdicts[0].runs), []]
    assert verdict_table([]).columns == table.columns
    assert about(claims, store[0]) == claims[:1]


def test_the_other_languages_of_other_runs_take_nothing_away() -> None:
    """A run of a third method in two languages does not shrink the comparison of two others."""
    wide = simulate({"prefix": 0.8, "lora": 0.6})
    narrow = simulate({"none": 0.2}, languages=["en", "de"])
    assert verdict_of(together(wide, narrow), **BEATS).cell.languages == 26
