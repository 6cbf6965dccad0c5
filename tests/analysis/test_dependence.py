"""Passages, families of languages and unequal seeds in the variance: against slow plain computations."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import linalg, stats

from crosstune.analysis.statistics.clusters import units
from crosstune.analysis.statistics.differences import AllPairs, by_language
from crosstune.analysis.statistics.pairing import pair_predictions
from crosstune.analysis.statistics.variance import Sample
from crosstune.analysis.transfer import language_scores
from crosstune.store.record import RunRecord
from paired_scores import coins, made
from records import as_record


def run(run_id: str, label: str, task: str = "toy") -> RunRecord:
    facts = {
        "id": run_id, "model": "m", "label": label, "seed": 0, "method": {"name": label}, "train": None,
        "task": {"name": task, "version": 1, "metrics": ["accuracy"], "options": {}}, "source_language": "en",
        "trained_parameters": 1, "zero_shot": True, "dtype": "float32",
        "fingerprints": {"train": "t", "test": dict.fromkeys(["en", "de"], "d")},
    }  # fmt: skip
    return as_record(facts)


def test_questions_on_a_passage_are_tested_as_their_sum() -> None:
    rng = np.random.default_rng(0)
    scores = {name: coins(rng, p, 1, 2, 60) for name, p in (("a", 0.6), ("b", 0.5))}
    passages = np.tile(np.arange(60) // 5, 2)
    paired = replace(made(scores), clusters=passages)
    (row,) = by_language(paired, "a", "b").rows(named=True)
    sums = (scores["a"] - scores["b"])[0, 1].reshape(12, 5).sum(axis=1)
    plain = stats.ttest_1samp(sums, 0)
    assert row["test"] == "t"
    assert row["se"] ** 2 - 2 / 60**2 == pytest.approx((stats.sem(sums) / 5) ** 2, rel=1e-6)
    assert row["p"] == pytest.approx(plain.pvalue, abs=0.02)
    assert by_language(made(scores), "a", "b")["test"][0] == "mcnemar"
    found = AllPairs(paired).pair("a", "b")
    assert (found.units, found.examples) == (12, 60)


@pytest.mark.parametrize(("passages", "few"), [(1, True), (9, True), (10, False)])
def test_fewer_than_ten_passages_are_not_enough_data(passages: int, few: bool) -> None:
    """One passage of 360 questions has no variance to be seen: everything would be significant."""
    rng = np.random.default_rng(0)
    scores = {name: coins(rng, p, 3, 5, 90) for name, p in (("a", 0.6), ("b", 0.4))}
    paired = replace(made(scores), clusters=np.tile(np.arange(90) * passages // 90, 5))
    family = AllPairs(paired)
    found = family.pair("a", "b")
    says = f"{passages} independent passage{'' if passages == 1 else 's'}, fewer than 10 (evaluate."
    assert found.not_enough_data.startswith(says) if few else found.not_enough_data == ""
    assert [value is None for value in (found.p, found.low, found.detectable)] == [few] * 3
    assert family.values()["low"].null_count() == 2 * few
    assert family.table().select("p", "high").null_count().row(0) == (few, few)


def test_what_shares_a_passage_or_an_id_is_one_unit() -> None:
    language = np.array([0, 0, 0, 1, 1, 1])
    example = np.array([0, 1, 2, 0, 3, 4])
    cluster = np.array(["x", "x", None, "y", "y", None], dtype=object)
    found = units(language, example, cluster)
    assert found[0] == found[1] == found[3] == found[4]
    assert len(set(found.tolist())) == 3
    same_name = units(language, example, np.array(["x"] * 3 + ["x"] * 3, dtype=object))
    assert len(set(same_name.tolist())) == 1
    apart = units(language, np.arange(6), np.array(["x", "x", "z", "x", "x", "x"], dtype=object))
    assert apart[0] == apart[1] != apart[3] == apart[5]


def test_passages_are_read_from_predictions_old_stores_without() -> None:
    rows = [
        {"run": name, "language": code, "example": f"{i}", "score": float((i + k) % 2), "cluster": cluster}
        for k, name in enumerate(("r1", "r2"))
        for code in ("en", "de")
        for i in range(6)
        for cluster in [f"{code} {i // 3}" if name == "r2" else None]
    ]
    runs = [run("r1", "lora"), run("r2", "none")]
    table = pl.DataFrame(rows)
    (paired,) = pair_predictions(language_scores(runs, table), table)
    assert paired.clusters is not None
    assert [len(set(paired.clusters[place].tolist())) for place in (slice(0, 6), slice(6, 12))] == [2, 2]
    assert paired.clusters[:3].tolist() == paired.clusters[6:9].tolist()
    old = table.drop("cluster")
    (paired,) = pair_predictions(language_scores(runs, old), old)
    assert paired.clusters is None
    # Belebele's ids tell the passage.
    links = old.with_columns(example=pl.format("link{}#{}", pl.col("example").cast(int) // 2, "example"))
    belebele = [run("r1", "lora", "belebele"), run("r2", "none", "belebele")]
    (paired,) = pair_predictions(language_scores(belebele, links), links)
    assert paired.clusters is not None
    assert len(set(paired.clusters.tolist())) == 3


@pytest.mark.parametrize("sizes", [(4, 2, 2, 1), (1,) * 7, (5, 1, 1)])
def test_families_are_the_clusters_of_bell_and_mccaffrey(sizes: tuple[int, ...]) -> None:
    """CR2 with its degrees of freedom in matrices, for the mean as a regression on a constant."""
    rng = np.random.default_rng(1)
    languages = sum(sizes)
    family = np.repeat(np.arange(len(sizes)), sizes)
    scores = {name: rng.random((1, languages + 1, 4)) for name in "ab"}
    named = {f"l{i + 1}": str(name) for i, name in enumerate(family)}
    sample = Sample(replace(made(scores), families=named))
    d = (scores["a"] - scores["b"])[0, 1:].mean(axis=-1).astype(np.float32).astype(float)
    ((variance, df),) = sample._language_variance(d)
    ones = np.ones((languages, 1))
    hat = ones @ ones.T / languages
    meat, vectors = 0.0, []
    for name in range(len(sizes)):
        rows = family == name
        adjust = linalg.fractional_matrix_power(np.eye(rows.sum()) - hat[np.ix_(rows, rows)], -0.5)
        meat += float((ones[rows].T @ adjust @ (d - d.mean())[rows]).item() ** 2)
        vectors.append((np.eye(languages) - hat)[:, rows] @ adjust @ ones[rows] / languages)
    gram = np.array([[float((x.T @ y).item()) for x in vectors] for y in vectors])
    assert variance == pytest.approx(meat / languages**2)
    assert df == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum())
    if len(sizes) == languages:
        assert (variance, df) == (pytest.approx(d.var(ddof=1) / languages), pytest.approx(languages - 1))


def test_few_languages_and_no_variance_are_no_crash() -> None:
    """What divided by nought: equal means in all languages, examples that cancel out, one seed."""
    up = np.tile([1.0, 0.0], 15)
    scores = {"a": np.stack([up, up, 1 - up, up, 1 - up])[None], "b": np.full((1, 5, 30), 0.5)}
    for last in (3, 4, 5):
        cut = {name: values[:, :last] for name, values in scores.items()}
        found = AllPairs(made(cut)).pair("a", "b")
        assert 0 < found.se < 1
        assert found.language_effect == ("fixed" if last == 3 else found.language_effect)


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (4, 1)])
def test_languages_like_these_are_never_surer_than_these(seeds: tuple[int, int]) -> None:
    for draw, languages in itertools.product(range(12), (6, 7, 12)):
        rng = np.random.default_rng([draw, languages])
        chance = {"a": seeds[0], "b": seeds[1]}
        paired = made({name: coins(rng, 0.5, k, languages + 1, 8) for name, k in chance.items()})
        random, fixed = (Sample(paired).pair("a", "b", kind) for kind in ("random", "fixed"))  # type: ignore[arg-type]
        assert random.se >= fixed.se
    two = Sample(made({name: coins(rng, 0.5, k, 3, 8) for name, k in chance.items()}))
    assert two.possible("random") == "fixed"


def test_one_seed_beside_several_is_no_surer_than_they() -> None:
    rng = np.random.default_rng(4)
    seeds = np.concatenate([coins(rng, p, 1, 5, 200) for p in (0.4, 0.5, 0.6)])
    lone = AllPairs(made({"a": seeds, "b": coins(rng, 0.5, 1, 5, 200)})).pair("a", "b")
    assert lone.seed_variation == "borrowed"
    assert 1.5 < lone.df < 2.1, "the three seeds have two degrees of freedom, and decide"
    # Where seeds add little, a lone one still leaves fewer than two methods with seeds of their own do.
    still = coins(rng, 0.5, 3, 5, 200) * 0.5 + seeds * 0.02
    few = AllPairs(made({"a": still, "b": still[:1]}), language_effect="fixed").pair("a", "b").df
    assert few < AllPairs(made({"a": still, "b": still}), language_effect="fixed").pair("a", "b").df


def test_an_odd_seed_in_one_language_is_weighed_by_all_languages() -> None:
    """Two seeds that agree in a language by chance do not make it certain there."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.05, (2, 2, 9, 1))
    noise[:, :, 3] = 0.0
    base = rng.random((1, 1, 9, 400)) * 0.5 + 0.25
    both = np.clip(base + noise, 0, 1)
    table = by_language(made({"a": both[0], "b": both[1]}), "a", "b")
    se = dict(table.select("language", "se").iter_rows())
    assert se["l3"] == pytest.approx(np.median(list(se.values())), rel=0.05)
    assert np.median(list(se.values())) > 0.03, "seeds move each language by 0.05"
    # Detectable at Holm's first step of eight languages.
    row = table.row(by_predicate=pl.col("language") == "l3", named=True)
    hardest = stats.t.ppf(1 - 0.025 / 8, row["df"]) + stats.norm.ppf(0.8)
    assert row["detectable"] > 0.9 * hardest * row["se"]
