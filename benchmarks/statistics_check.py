"""Do the statistics hold? False positives, coverage and power on simulated predictions whose truth is known.

    python benchmarks/statistics_check.py

takes some minutes and writes benchmarks/results/statistics.json and the tables of docs/statistics.md.

Predictions of two methods are drawn from a logistic-normal model. What decides whether method m, trained with
seed s, gets example e of language l right is a sum of independent normal effects (standard deviations in
`EFFECTS`, in logits): how hard the example is in all languages, how hard the language is, example x language,
method x language, method x example, method x example x language, seed (shared by all languages), seed x
language and seed x example. Scores are right (1) with the logistic of that sum, or graded: that logistic.
Seeds, examples and, for a random language effect, languages are drawn anew every time.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from crosstune.analysis.statistics.bootstrap import bootstrap_means
from crosstune.analysis.statistics.differences import by_language, mcnemar
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.variance import LanguageEffect, Sample

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "statistics.json"
DOCS = HERE.parent / "docs" / "statistics.md"

EFFECTS = {
    "example": 2.4,
    "language": 1.2,
    "example x language": 1.6,
    "method x language": 0.4,
    "method x family": 0.0,
    "method x example": 0.8,
    "method x example x language": 0.6,
    "seed": 0.24,
    "seed x language": 0.2,
    "seed x example": 0.6,
}
SLOPE = {"binary": 1.0, "graded": 2.0}
DRAWS = 500  # Of the bootstraps that are checked.


@dataclass(frozen=True)
class Shape:
    """A study's size, and what of the model is not as `EFFECTS` has it."""

    seeds: tuple[int, int]
    languages: int
    examples: int
    scores: str = "binary"
    parallel: bool = True
    families: int = 1
    changed: tuple[tuple[str, float], ...] = ()

    def effects(self) -> dict[str, float]:
        return EFFECTS | dict(self.changed)

    def named(self) -> dict[str, Any]:
        return asdict(self) | {"seeds": list(self.seeds), "changed": dict(self.changed)}


@dataclass(frozen=True)
class Drawn:
    """One simulated study, and the true difference of the mean over exactly its languages."""

    paired: PairedPredictions
    fixed: float


def simulate(shape: Shape, rng: np.random.Generator, shift: float = 0.0) -> Drawn:
    """Draw the predictions of methods a and b, a better by ``shift`` logits."""
    sd, languages, n = shape.effects(), shape.languages, shape.examples
    draw = rng.standard_normal
    one = (1, n) if shape.parallel else (languages, n)
    language = sd["language"] * draw((languages, 1))
    text = sd["example"] * draw(one) + sd["example x language"] * draw((languages, n)) + language
    family = np.arange(languages) % shape.families
    scores, truths = {}, []
    for name, seeds, sign in (("a", shape.seeds[0], 0.5), ("b", shape.seeds[1], -0.5)):
        own = sign * shift + sd["method x language"] * draw((languages, 1))
        own = own + sd["method x family"] * draw((shape.families, 1))[family]
        mine = text + own + sd["method x example"] * draw(one)
        mine = mine + sd["method x example x language"] * draw((languages, n))
        logit = mine + sd["seed"] * draw((seeds, 1, 1)) + sd["seed x language"] * draw((seeds, languages, 1))
        logit = logit + sd["seed x example"] * draw((seeds, languages, n))
        share = 1 / (1 + np.exp(-SLOPE[shape.scores] * logit))
        found = (rng.random(share.shape) < share) if shape.scores == "binary" else share
        scores[name] = found.reshape(seeds, -1).astype(np.float32)
        truths.append(float(_expected(shape, within=True)((own + language).ravel()).mean()))
    ids = np.tile(np.arange(n), languages) if shape.parallel else np.arange(languages * n)
    paired = PairedPredictions(
        model="simulated",
        task="simulated",
        protocol="one",
        source="none of them",
        methods=["a", "b"],
        languages=[f"l{i}" for i in range(languages)],
        offsets=np.arange(languages + 1) * n,
        examples=ids.astype(object),
        scores=scores,
        seeds={name: tuple(range(len(values))) for name, values in scores.items()},
    )
    return Drawn(paired, truths[0] - truths[1])


@cache
def _expected(shape: Shape, within: bool) -> Callable[[Any], Any]:
    """Mean score at some logits: over examples and seeds, and over languages too unless ``within`` one."""
    sd = shape.effects()
    fixed = ("language", "method x language", "method x family") if within else ()
    spread = math.sqrt(sum(size**2 for name, size in sd.items() if name not in fixed))
    nodes = np.linspace(-6, 6, 241)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
    grid = np.linspace(-16, 16, 1601)
    means = (1 / (1 + np.exp(-SLOPE[shape.scores] * (grid[:, None] + spread * nodes)))) @ weights
    return lambda logits: np.interp(logits, grid, means)


def true_difference(shape: Shape, shift: float) -> float:
    """Of the mean over all languages there could be."""
    mean = _expected(shape, within=False)
    return float(mean(shift / 2) - mean(-shift / 2))


def shift_for(shape: Shape, wanted: float) -> float:
    """Logits that make this true difference."""
    shifts = np.linspace(0, 16, 3201)
    return float(np.interp(wanted, [true_difference(shape, each) for each in shifts], shifts))


def share(hits: int, of: int) -> dict[str, float]:
    """A share with its 95% interval (Clopper and Pearson)."""
    low, high = stats.binomtest(hits, of).proportion_ci(0.95, "exact")
    return {"share": hits / of, "low": float(low), "high": float(high)}


def check(shape: Shape, effect: LanguageEffect, times: int, seed: int = 0) -> dict[str, Any]:
    """False positives, coverage, and power at the detectable difference, of what `difference` reports."""
    rng = np.random.default_rng([seed, times])
    # With a fixed language effect, "no difference" means none in the mean over exactly these languages.
    null = shape
    if effect == "fixed":
        null = replace(shape, changed=(*shape.changed, ("method x language", 0.0), ("method x family", 0.0)))
    quiet = [Sample(simulate(null, rng).paired).pair("a", "b", effect) for _ in range(times)]
    size = float(np.mean([each.detectable() for each in quiet]))
    shift = shift_for(shape, size)
    shown = covered = 0
    for _ in range(times):
        drawn = simulate(shape, rng, shift)
        found = Sample(drawn.paired).pair("a", "b", effect)
        low, high = found.interval()
        covered += low <= (drawn.fixed if effect == "fixed" else size) <= high
        # What these languages differ by is not quite the size asked for: moved to it, the rest is the same.
        shown += low > (drawn.fixed - size if effect == "fixed" else 0)
    return {
        "shape": shape.named(),
        "language_effect": effect,
        "times": times,
        "seed_variation": Sample(drawn.paired).seed_variation("a", "b"),
        "false_positives": share(sum(each.p < 0.05 for each in quiet), times),
        "coverage": share(covered, times),
        "detectable": size,
        "power": share(shown, times),
    }


def check_languages(shape: Shape, times: int, seed: int = 0) -> dict[str, Any]:
    """Of `by_language`, with no difference in any language: false positives of one test, and of any."""
    rng = np.random.default_rng([seed, times, 1])
    null = replace(shape, changed=(*shape.changed, ("method x language", 0.0)))
    single = any_found = inside = 0
    test = ""
    for _ in range(times):
        table = by_language(simulate(null, rng).paired, "a", "b")
        single += int((table["p"] < 0.05).sum())
        inside += int(((table["low"] <= 0) & (table["high"] >= 0)).sum())
        any_found += int((table["outcome"] != "tie").any())
        test = table["test"][0]
    tests = times * shape.languages
    # Tests of one study are correlated: the interval is that of as many studies, not of as many tests.
    return {
        "shape": shape.named(),
        "times": times,
        "test": test,
        "false_positives": single / tests,
        "coverage": inside / tests,
        "any_after_holm": share(any_found, times),
    }


def _plain_bootstrap(paired: PairedPredictions, factors: tuple[Any, ...], seed: int) -> bool:
    drawn = bootstrap_means(Sample(paired), ["a", "b"], factors, draws=DRAWS, seed=seed)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
    return bool(low > 0 or high < 0)


def _pooled_mcnemar(paired: PairedPredictions, seed: int) -> bool:
    one, other = paired.scores["a"][0], paired.scores["b"][0]
    return bool(mcnemar(np.array([(one > other).sum()]), np.array([(one < other).sum()]))[0] < 0.05)


def _t_over_languages(paired: PairedPredictions, seed: int) -> bool:
    sample = Sample(paired)
    one, other = (sample.method(name).by_language.mean(axis=0) for name in "ab")
    return bool(stats.ttest_rel(one, other).pvalue < 0.05)


NAIVE: dict[str, Callable[[PairedPredictions, int], bool]] = {
    "McNemar, languages pooled, first seed": _pooled_mcnemar,
    "bootstrap over examples": lambda paired, seed: _plain_bootstrap(paired, ("examples",), seed),
    "bootstrap over seeds and examples": lambda paired, seed: _plain_bootstrap(
        paired, ("seeds", "examples"), seed
    ),
    "bootstrap over languages, seeds and examples": lambda paired, seed: _plain_bootstrap(
        paired, ("languages", "seeds", "examples"), seed
    ),
    "t test over languages": _t_over_languages,
    "crosstune, fixed languages": lambda paired, seed: Sample(paired).pair("a", "b", "fixed").p < 0.05,
    "crosstune, random languages": lambda paired, seed: Sample(paired).pair("a", "b", "random").p < 0.05,
}


def check_naive(shape: Shape, times: int, seed: int = 0) -> dict[str, Any]:
    """False positives of the usual tests beside ours, on the same predictions without a true difference."""
    rng = np.random.default_rng([seed, times, 2])
    same = replace(shape, changed=(*shape.changed, ("method x language", 0.0)))
    out: dict[str, Any] = {"shape": shape.named(), "times": times}
    for name, null in (("fixed", same), ("random", shape)):
        hits = dict.fromkeys(NAIVE, 0)
        for i in range(times):
            paired = simulate(null, rng).paired
            for test, positive in NAIVE.items():
                hits[test] += positive(paired, i)
        out[name] = {test: share(count, times) for test, count in hits.items()}
    return out


SHAPES = [
    Shape((3, 3), 5, 30),
    Shape((3, 3), 5, 200),
    Shape((3, 3), 20, 30),
    Shape((3, 3), 20, 200),
    Shape((3, 3), 55, 30),
    Shape((3, 3), 55, 200),
    Shape((5, 5), 5, 30),
    Shape((5, 5), 20, 200),
    Shape((2, 2), 20, 200),
    Shape((5, 2), 20, 200),
    Shape((3, 3), 20, 200, parallel=False),
    Shape((3, 3), 5, 200, "graded"),
    Shape((3, 3), 20, 30, "graded"),
    Shape((5, 5), 55, 200, "graded"),
    Shape((3, 1), 20, 200),
    Shape((1, 1), 20, 200),
    Shape((1, 1), 20, 200, changed=(("seed", 0.0), ("seed x language", 0.0))),
    Shape((3, 3), 20, 200, families=4, changed=(("method x family", 0.4),)),
]
LANGUAGE_SHAPES = [
    Shape((1, 1), 20, 30, changed=(("seed", 0.0), ("seed x language", 0.0))),
    Shape((1, 1), 20, 200, changed=(("seed", 0.0), ("seed x language", 0.0))),
    Shape((1, 1), 20, 200, "graded", changed=(("seed", 0.0), ("seed x language", 0.0))),
    Shape((1, 1), 20, 200),
    Shape((3, 3), 20, 30),
    Shape((3, 3), 20, 200),
    Shape((5, 5), 55, 200),
    Shape((3, 3), 20, 200, "graded"),
]
NAIVE_SHAPES = [Shape((3, 3), 5, 200), Shape((3, 3), 20, 200), Shape((1, 1), 20, 200)]


Job = tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]


def jobs(times: int) -> list[Job]:
    """All checks; of studies of more than 20 languages half as many."""
    found: list[Job] = []
    for shape in SHAPES:
        count = times // 2 if shape.languages > 20 else times
        found += [("differences", check, (shape, effect, count)) for effect in ("random", "fixed")]
    found += [("languages", check_languages, (shape, times // 2)) for shape in LANGUAGE_SHAPES]
    return found + [("usual", check_naive, (shape, times // 2)) for shape in NAIVE_SHAPES]


def _done(job: Job) -> tuple[str, dict[str, Any]]:
    kind, function, arguments = job
    return kind, function(*arguments)


def run(times: int, processes: int) -> dict[str, Any]:
    """All checks. Each draws its own random numbers: the number of processes changes nothing."""
    started = time.perf_counter()
    found: dict[str, Any] = {
        "effects": EFFECTS,
        "draws": DRAWS,
        "differences": [],
        "languages": [],
        "usual": [],
    }
    with multiprocessing.Pool(processes) as pool:
        for kind, row in pool.imap(_done, jobs(times)):
            found[kind].append(row)
            print(f"{time.perf_counter() - started:.0f} s: {kind}, {describe(row['shape'])}", flush=True)
    return found | {"minutes": round((time.perf_counter() - started) / 60, 1)}


def describe(shape: dict[str, Any]) -> str:
    """A shape in words."""
    a, b = shape["seeds"]
    parts = [
        f"{a} {'seed' if a == 1 else 'seeds'}" if a == b else f"{a} and {b} seeds",
        f"{shape['languages']} x {shape['examples']}",
        shape["scores"],
    ]
    if not shape["parallel"]:
        parts.append("not parallel")
    if shape["families"] > 1:
        parts.append(f"{shape['families']} families that favour a method")
    if shape["changed"].get("seed") == 0:
        parts.append("seeds change nothing")
    return ", ".join(parts)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Markdown tables by the name that docs/statistics.md has for them."""
    rows = [
        "| seeds, languages x examples, scores | language effect | false positives | coverage | power | at |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in found["differences"]:
        outside = row["coverage"]["share"] < 0.93 or row["coverage"]["share"] > 0.97
        mark = "**" if outside else ""
        rows.append(
            f"| {describe(row['shape'])} | {row['language_effect']} | {_percent(row['false_positives'])} "
            f"| {mark}{_percent(row['coverage'])}{mark} | {_percent(row['power'])} "
            f"| {100 * row['detectable']:.1f} |"
        )
    single = [
        "| seeds, languages x examples, scores | test | one language | any of them, after Holm | coverage |",
        "|---|---|--:|--:|--:|",
    ]
    names = {"mcnemar": "exact McNemar", "t": "t, seeds in it"}
    for row in found["languages"]:
        test = "t" if row["test"] == "t" and row["shape"]["seeds"] == [1, 1] else names[row["test"]]
        single.append(
            f"| {describe(row['shape'])} | {test} | {100 * row['false_positives']:.1f} "
            f"| {_percent(row['any_after_holm'])} | {100 * row['coverage']:.1f} |"
        )
    heads = [describe(row["shape"]) for row in found["usual"]]
    usual = ["| test | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for test in NAIVE:
        cells = [
            f"{_percent(row['fixed'][test])} / {_percent(row['random'][test])}" for row in found["usual"]
        ]
        usual.append(f"| {test} | " + " | ".join(cells) + " |")
    return {"differences": "\n".join(rows), "languages": "\n".join(single), "usual": "\n".join(usual)}


def _percent(found: dict[str, float]) -> str:
    half = 100 * (found["high"] - found["low"]) / 2
    return f"{100 * found['share']:.1f} ± {half:.1f}"


def fill(text: str, filled: dict[str, str]) -> str:
    """Put tables between the marks that a page has for them."""
    for name, table in filled.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=1000, help="simulated studies of each shape")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="only write the tables, from stored results")
    given = parser.parse_args()
    if not given.tables:
        RESULTS.write_text(json.dumps(run(given.times, given.processes), indent=1) + "\n", encoding="utf-8")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCS.write_text(fill(DOCS.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
