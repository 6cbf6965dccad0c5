"""Do the statistics hold? False positives, coverage and power on simulated predictions whose truth is known.

    python benchmarks/statistics_check.py

takes half an hour on one free core and writes benchmarks/results/statistics.json, row by row, and the
tables of docs/statistics.md. A row that is there, of the same code, is not made again: what was stopped goes
on. `simulated_predictions` says what is drawn. ``--only pairs`` makes one table alone.
"""

import argparse
import ast
import functools
import hashlib
import inspect
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import simulated_claims
from crosstune.analysis.statistics import variance
from crosstune.analysis.statistics.bootstrap import bootstrap_means
from crosstune.analysis.statistics.differences import _by_language, mcnemar
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.variance import LanguageEffect, Sample
from simulated_predictions import EFFECTS, Shape, frame, intercept, mean_score, shift_for, simulate
from statistics_tables import fill, tables

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "statistics.json"
DOCS = HERE.parent / "docs" / "statistics.md"

LEVEL = 0.05
WITHIN = {
    "family": (0.035, 0.065),
    "false": (0.035, 0.065),
    "coverage": (0.93, 0.97),
    "mean": (0.93, 0.97),
    "power": (0.75, 0.85),
}
"""Where these shares of a row have to be."""
WRONGLY_BETTER = LEVEL / 2
AGAIN = 3
"""How many times as many other studies a row gets that was outside."""
DRAWS = 500  # Of the bootstraps that are compared with.
PASSAGES = (("passage", 1.0), ("method x passage", 0.8))
STILL = (("seed", 0.0), ("seed x language", 0.0))
FAMILIES = (9, 3, 3, 3, 2, 2, 2, 2)


def share(hits: int, of: int) -> dict[str, float] | None:
    """A share with its 95% interval (Clopper and Pearson); None of nothing."""
    if not of:
        return None
    low, high = stats.binomtest(int(hits), of).proportion_ci(0.95, "exact")
    return {"share": int(hits) / of, "low": float(low), "high": float(high)}


def outside(table: str, row: dict[str, Any]) -> bool:
    """Whether a row has a share outside its bounds: it is then made again with more studies.

    Not of rows that have other bounds: single languages, and the usual tests.
    """
    if table in ("claims", "selection"):
        shares = row["supported"]
        offered = shares.values() if table == "claims" else [shares["by a seed that is not tested"]]
        return any(found["share"] > WRONGLY_BETTER for found in offered)
    if table == "equivalence":
        return not WITHIN["false"][0] <= row["false"]["share"] <= WITHIN["false"][1]
    if table not in ("pairs", "estimands") or row.get("refused", {"share": 0.0})["share"] > 0.5:
        return False
    shares = {name: row[name] for name in WITHIN if row.get(name)}
    wrong = row.get("supported", {"low": 0.0})["low"] > WRONGLY_BETTER
    return wrong or any(
        not low <= shares[name]["share"] <= high for name, (low, high) in WITHIN.items() if name in shares
    )


def studies(
    shape: Shape, rng: np.random.Generator, times: int, shift: float = 0.0
) -> Iterator[tuple[Sample, Any, bool]]:
    """Studies until so many have enough answers to be tested, at most six times as many.

    None of a setting where the first ``times`` have too few. Each has its sample, the true scores
    [methods, languages], and whether it is tested.
    """
    tested = 0
    for i in range(6 * times):
        if tested == times or (i >= times and not tested):
            return
        drawn = simulate(shape, rng, shift)
        enough = not drawn.sample.not_enough_data("m00", "m01")
        tested += enough
        yield drawn.sample, drawn.truth, enough


def check(shape: Shape, effect: LanguageEffect, times: int, seed: int = 0) -> dict[str, Any]:
    """The family of all pairs: any false difference, one pair's, coverage, and power where it is promised.

    Studies with too few right or wrong answers are not tested, as everywhere: more are drawn in their place.
    """
    rng = np.random.default_rng([seed, times])
    # With a fixed language effect, "no difference" means none in the mean over exactly these languages.
    null = shape.without("method x language", "method x family") if effect == "fixed" else shape
    methods = frame(shape).paired.methods
    first, second = methods[:2]
    alone = any_pair = supported = shown = covered = of_mean = all_studies = tested = tested_later = 0
    sizes: list[float | None] = []
    for sample, truth, enough in studies(null, rng, times):
        all_studies += 1
        spread = sample.pair(first, None, effect)
        low, high = spread.interval_of_score(int(sample.units.sum()), 1 - LEVEL)
        true_mean = float(truth[0].mean()) if effect == "fixed" else mean_score(null, intercept(null))
        of_mean += low <= true_mean <= high
        if not enough:
            continue
        tested += 1
        pairs = [sample.pair(a, b, effect) for a, b in itertools.combinations(methods, 2)]
        adjusted = [pair.p_at(0.0, len(methods)) for pair in pairs]
        alone += pairs[0].p < LEVEL
        any_pair += min(adjusted) < LEVEL
        supported += adjusted[0] < LEVEL and pairs[0].difference > 0
        if tested <= 600:
            sizes.append(sample.detectable(pairs[0], first, second, 1 - LEVEL, len(methods)))
    known = [size for size in sizes if size is not None]
    size = float(np.mean(known)) if 2 * len(known) > len(sizes) else None
    shift = 0.0 if size is None else shift_for(shape, size)
    for sample, truth, enough in studies(shape, rng, times if tested else 0, shift):
        if not enough:
            continue
        tested_later += 1
        pair = sample.pair(first, second, effect)
        here = float((truth[0] - truth[1]).mean())
        low, high = pair.interval(1 - LEVEL)
        covered += low <= (here if effect == "fixed" else size or 0.0) <= high
        # What these languages differ by is not quite the size asked for: moved to it, the rest is the same.
        low, _ = pair.interval(1 - LEVEL, len(methods))
        shown += low > (here - (size or 0.0) if effect == "fixed" else 0.0)
    return {
        "shape": shape.named(),
        "language_effect": frame(shape).sample.possible(effect),
        "times": times,
        "refused": share(all_studies - tested, all_studies),
        "alone": share(alone, tested),
        "family": share(any_pair, tested),
        "supported": share(supported, tested),
        "coverage": share(covered, tested_later),
        "mean": share(of_mean, all_studies),
        "detectable": size,
        "power": None if size is None else share(shown, tested_later),
    }


def check_languages(shape: Shape, times: int, seed: int = 0) -> dict[str, Any]:
    """Tests in each language, with no difference in any: false positives of one, and of any after Holm."""
    rng = np.random.default_rng([seed, times, 1])
    null = shape.without("method x language")
    single = any_language = inside = 0
    test = ""
    for _ in range(times):
        table = _by_language(simulate(null, rng).sample, "m00", "m01", 1 - LEVEL)
        single += int((table["p"] < LEVEL).sum())
        inside += int(((table["low"] <= 0) & (table["high"] >= 0)).sum())
        any_language += int((table["outcome"] != "tie").any())
        test = table["test"][0]
    tests = times * shape.languages
    return {
        "shape": shape.named(),
        "times": times,
        "test": test,
        "one": single / tests,
        "coverage": inside / tests,
        "any": share(any_language, times),
    }


ESTIMANDS: dict[str, Estimand] = {
    "gap": Estimand("gap"),
    "relative transfer": Estimand("relative"),
    "method x group of languages": Estimand(
        "contrast", tuple(f"l{i:03}" for i in range(1, 8)), tuple(f"l{i:03}" for i in range(8, 21))
    ),
}


def check_estimand(name: str, shape: Shape, times: int, seed: int = 0) -> dict[str, Any]:
    """Differences between methods of something else than a mean: false positives, for random languages."""
    rng = np.random.default_rng([seed, times, 2])
    of, hits = ESTIMANDS[name], 0
    for _ in range(times):
        hits += simulate(shape, rng, of=of).sample.pair("m00", "m01", "random").p < LEVEL
    return {"shape": shape.named(), "of": name, "times": times, "false": share(hits, times)}


def check_equivalence(shape: Shape, times: int, seed: int = 0, margin: float = 0.1) -> dict[str, Any]:
    """TOST: how often it says "equivalent" of methods that differ by the margin, and of equal ones."""
    rng = np.random.default_rng([seed, times, 3])
    found = {}
    for name, shift in (("false", shift_for(shape, margin)), ("power", 0.0)):
        hits = 0
        for _ in range(times):
            pair = simulate(shape, rng, shift).sample.pair("m00", "m01", "random")
            hits += pair.p_equivalent(margin) < LEVEL
        found[name] = share(hits, times)
    return {"shape": shape.named(), "times": times, "margin": margin, **found}


def check_selection(shape: Shape, times: int, rates: int, seed: int = 0) -> dict[str, Any]:
    """One method at the best of many rates against one at a single rate, no rate being better than another.

    The best is chosen by the scores that are tested; by the source language's own examples, with all seeds;
    or as crosstune does: by the first seed's score in the source language, which is then not tested.
    """
    rng = np.random.default_rng([seed, times, 4])
    several = Shape(**(shape.named() | {"methods": rates + 1, "source": True, "parallel": False}))
    hits = {"by the tested scores": 0, "by source scores of all seeds": 0, "by a seed that is not tested": 0}
    for _ in range(times):
        sample = simulate(several, rng).sample
        source = Sample(sample.paired, ["l000"])
        by_first_seed = {name: source.method(name).by_language[0, 0] for name in sample.paired.methods}
        for how, score in zip(hits, (sample.estimate, source.estimate, by_first_seed.get), strict=True):
            best = max(sample.paired.methods[1:], key=score)
            two = replace(
                sample.paired,
                methods=[best, "m00"],
                scores={name: sample.paired.scores[name] for name in (best, "m00")},
                seeds={name: sample.paired.seeds[name] for name in (best, "m00")},
            )
            tested = two.without({best: {0}} if how == "by a seed that is not tested" else {})
            pair = Sample(tested).pair(best, "m00", "random")
            hits[how] += pair.p < LEVEL and pair.difference > 0
    found = {how: share(count, times) for how, count in hits.items()}
    return {"shape": several.named(), "rates": rates, "times": times, "supported": found}


def check_claims(truth: str, times: int, seed: int = 0) -> dict[str, Any]:
    """Claims that are false, judged as `crosstune verdict` does: how often they are supported."""
    hits = simulated_claims.supported(truth, times, seed)
    return {"truth": truth, "times": times, "supported": {name: share(n, times) for name, n in hits.items()}}


def _plain_bootstrap(sample: Sample, factors: tuple[Any, ...], seed: int) -> bool:
    drawn = bootstrap_means(sample, ["m00", "m01"], factors, draws=DRAWS, seed=seed)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
    return bool(low > 0 or high < 0)


def _pooled_mcnemar(sample: Sample, seed: int) -> bool:
    one, other = (sample.paired.scores[name][0] for name in ("m00", "m01"))
    return bool(mcnemar(np.array([(one > other).sum()]), np.array([(one < other).sum()]))[0] < LEVEL)


def _t_over_languages(sample: Sample, seed: int) -> bool:
    one, other = (sample.method(name).by_language.mean(axis=0) for name in ("m00", "m01"))
    return bool(stats.ttest_rel(one, other).pvalue < LEVEL)


USUAL: dict[str, Callable[[Sample, int], bool]] = {
    "McNemar, languages pooled, first seed": _pooled_mcnemar,
    "bootstrap over examples": lambda sample, seed: _plain_bootstrap(sample, ("examples",), seed),
    "bootstrap over languages, seeds and examples": lambda sample, seed: _plain_bootstrap(
        sample, ("languages", "seeds", "examples"), seed
    ),
    "t test over languages": _t_over_languages,
    "crosstune, fixed languages": lambda sample, seed: sample.pair("m00", "m01", "fixed").p < LEVEL,
    "crosstune, random languages": lambda sample, seed: sample.pair("m00", "m01", "random").p < LEVEL,
}


def check_usual(shape: Shape, times: int, seed: int = 0) -> dict[str, Any]:
    """False positives of the usual tests beside ours, on the same predictions without a true difference."""
    rng = np.random.default_rng([seed, times, 5])
    out: dict[str, Any] = {"shape": shape.named(), "times": times}
    for name, null in (("fixed", shape.without("method x language")), ("random", shape)):
        hits = dict.fromkeys(USUAL, 0)
        for i in range(times):
            sample = simulate(null, rng).sample
            for test, positive in USUAL.items():
                hits[test] += positive(sample, i)
        out[name] = {test: share(count, times) for test, count in hits.items()}
    return out


SHAPES = [
    Shape(),
    Shape(seeds=(2,)),
    Shape(seeds=(5,)),
    Shape(seeds=(5, 2)),
    Shape(seeds=(3, 1)),
    Shape(seeds=(1,), changed=STILL),
    Shape(seeds=(2,), changed=(("seed x language", 0.4),)),
    Shape(changed=(("seed x language", 0.4),)),
    Shape(uneven=2.0),
    Shape(methods=3),
    Shape(methods=3, seeds=(2,)),
    Shape(methods=6),
    Shape(methods=6, seeds=(2,)),
    Shape(methods=10, examples=50),
    Shape(methods=10, examples=50, seeds=(2,)),
    Shape(languages=2, examples=200),
    Shape(languages=5),
    Shape(languages=5, examples=30),
    Shape(languages=6, examples=30),
    Shape(languages=55, examples=50),
    Shape(languages=120, examples=30),
    Shape(languages=120, examples=10),
    Shape(examples=30, level=0.02),
    Shape(examples=100, level=0.02),
    Shape(examples=200, level=0.02),
    Shape(level=0.1),
    Shape(level=0.9),
    Shape(examples=100, level=0.98),
    Shape(examples=200, level=0.98),
    Shape(examples=200, fewest=20, parallel=False),
    Shape(examples=200, fewest=20),
    Shape(tails=3.0),
    Shape(tails=3.0, methods=6),
    Shape(scores="beta"),
    Shape(scores="beta", seeds=(2,)),
    Shape(scores="beta", languages=8, examples=50),
    Shape(scores="graded"),
    Shape(scores="f1", examples=60),
    Shape(scores="f1", examples=60, level=0.2),
    Shape(questions=5, changed=PASSAGES),
    Shape(questions=5, parallel=False, changed=PASSAGES),
    Shape(examples=60, questions=6, changed=PASSAGES),
    Shape(languages=26, families=FAMILIES, changed=(("method x family", 0.4),)),
    Shape(languages=26, families=FAMILIES, methods=6, changed=(("method x family", 0.4),)),
    Shape(languages=14, families=(8, 1, 1, 1, 1, 1, 1), changed=(("method x family", 0.2),)),
]
LANGUAGE_SHAPES = [
    Shape(seeds=(1,), changed=STILL),
    Shape(seeds=(1,), scores="graded", changed=STILL),
    Shape(seeds=(1,), questions=5, changed=(*STILL, *PASSAGES)),
    Shape(seeds=(2,)),
    Shape(seeds=(2,), changed=(("seed x language", 0.4),)),
    Shape(changed=(("seed x language", 0.4),)),
    Shape(level=0.1),
    Shape(languages=55, examples=200, changed=(("seed x language", 0.4),)),
    Shape(seeds=(5,), scores="graded"),
    Shape(questions=5, changed=PASSAGES),
]
WITH_SOURCE = Shape(languages=21, source=True)
USUAL_SHAPES = [Shape(languages=5, examples=200), Shape(), Shape(seeds=(1,))]


class Job(NamedTuple):
    """One row of a table."""

    table: str
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any]

    def made(self) -> dict[str, Any]:
        """The row; one that is outside its bounds of other studies, and more of them."""
        row = self.function(**self.arguments)
        if outside(self.table, row):
            print(f"again, as outside: {row}", flush=True)
            times = AGAIN * self.arguments["times"]
            row = self.function(**self.arguments | {"times": times, "seed": 1})
        return row

    def key(self) -> str:
        """A hash of what decides the row: its arguments, and the code of statistics, simulator and check."""
        check_code = inspect.getsource(self.function) + inspect.getsource(outside)
        if self.table == "claims":
            check_code += inspect.getsource(simulated_claims)
        return hashlib.sha256(f"{check_code} {self.arguments} {_code()}".encode()).hexdigest()[:12]


@functools.cache
def _code() -> str:
    """A hash of the code that decides all rows, without comments and docstrings."""
    files = [*sorted(Path(variance.__file__).parent.glob("*.py")), HERE / "simulated_predictions.py"]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return hashlib.sha256("".join(map(ast.dump, trees)).encode()).hexdigest()


def jobs(times: int) -> list[Job]:
    """All checks, by table."""
    both = [
        (shape, effect)
        for shape in SHAPES
        for effect in ("random", "fixed")
        if effect == "fixed" or frame(shape).sample.possible("random") == "random"
    ]
    tables: dict[str, tuple[Callable[..., dict[str, Any]], int, list[dict[str, Any]]]] = {
        "pairs": (check, times, [{"shape": shape, "effect": effect} for shape, effect in both]),
        "languages": (check_languages, times, [{"shape": shape} for shape in LANGUAGE_SHAPES]),
        "estimands": (
            check_estimand,
            3 * times,
            [{"name": name, "shape": WITH_SOURCE} for name in ESTIMANDS],
        ),
        "equivalence": (
            check_equivalence,
            times,
            [{"shape": shape} for shape in (Shape(), Shape(seeds=(5,)))],
        ),
        "selection": (check_selection, 3 * times, [{"shape": Shape(), "rates": rates} for rates in (3, 10)]),
        # One in forty is the most that may be supported, which wants more studies to be told.
        "claims": (check_claims, 3 * times, [{"truth": truth} for truth in simulated_claims.TRUTHS]),
        "usual": (check_usual, times // 2, [{"shape": shape} for shape in USUAL_SHAPES]),
    }
    return [
        Job(table, function, row | {"times": studies})
        for table, (function, studies, rows) in tables.items()
        for row in rows
    ]


def run(times: int, only: str | None) -> None:
    """All checks, or those of one table, each stored as it ends; the others stay as they were."""
    started = time.perf_counter()
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    stored |= {"effects": EFFECTS, "draws": DRAWS}
    for table, of_table in itertools.groupby(jobs(times), key=lambda job: job.table):
        rows = {row.get("key"): row for row in stored.get(table, [])}
        wanted = {job.key(): job for job in of_table}
        if only not in (None, table):
            continue
        for key, job in wanted.items():
            if key not in rows:
                rows[key] = job.made() | {"key": key}
                print(f"{time.perf_counter() - started:.0f} s: {table}, {rows[key]}", flush=True)
            # Rows of other code give way, in the table's order, as new ones come.
            stored[table] = [rows[name] for name in wanted if name in rows]
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=800, help="simulated studies of each shape")
    parser.add_argument("--only", choices=sorted({job.table for job in jobs(4)}), help="one table alone")
    parser.add_argument("--tables", action="store_true", help="only write the tables, from stored results")
    arguments = parser.parse_args()
    if not arguments.tables:
        run(arguments.times, arguments.only)
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCS.write_text(fill(DOCS.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
