"""Predictions of studies whose truth is known, drawn quickly: for `statistics_check.py`.

What decides whether method m, trained with seed s, gets example e of language l right is a sum of independent
normal effects (standard deviations in `EFFECTS`, in logits): how hard the example and its passage are in all
languages, how hard the language is, example x language, method x language, method x family, method x passage,
method x example, method x example x language, seed (shared by all languages), seed x language and seed x
example. Scores are right (1) with the logistic of that sum, or graded: that logistic; "f1" has spans, each
found with that chance, and some wrong ones, whose micro-F1 is the score of a language.

So that the tests are not only tried on what they are made for, effects of methods, seeds and languages may
have Student's t distribution (`Shape.tails`), and "beta" scores have another model: a method's rate in a
language is beta distributed around that of the language, that of a seed around the method's, moved in all
languages by an amount from a uniform distribution; answers are independent given the rate.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.variance import Sample
from crosstune.metrics.statistic import MEAN, Statistic

EFFECTS = {
    "example": 2.0,
    "passage": 0.0,
    "language": 1.2,
    "example x language": 1.6,
    "method x language": 0.4,
    "method x family": 0.0,
    "method x passage": 0.0,
    "method x example": 0.8,
    "method x example x language": 0.6,
    "seed": 0.24,
    "seed x language": 0.2,
    "seed x example": 0.6,
}
OF_LANGUAGES = ("language", "method x language", "method x family")
SLOPE = {"binary": 1.0, "graded": 2.0, "f1": 1.0, "beta": 1.0}
HEAVY = ("method x language", "method x family", "seed", "seed x language")
BETA = (60.0, 150.0, 0.05)
"""Of rates: precision of a method's in a language, of a seed's, and half the width of what moves a seed's."""
F1 = Statistic(
    ("correct", "predicted", "gold"), lambda sums, _: 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])
)
GOLD, WRONG = 4, 1.0
"""Spans of a text on average (1 to 7), and of the wrong ones found."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """A study's size, and what of the model is not as `EFFECTS` has it.

    Attributes:
        methods: How many.
        seeds: Of each method; the last number is that of all further ones.
        languages: Target languages.
        examples: Of each language.
        fewest: Examples of the smallest language where they are unequal, in equal steps up to ``examples``.
        scores: "binary", "graded", "f1" or "beta".
        tails: Of effects of methods and seeds: degrees of freedom of Student's t, scaled; 0 for normal.
        level: Mean score of all methods.
        parallel: Languages share their examples.
        questions: On each passage.
        families: Sizes of the families of languages; each language is on its own by default.
        source: The first language is the source, which a gap needs.
        uneven: How many times as much the first method's seeds move its mean as the others' do theirs.
        changed: Effects that are not as `EFFECTS` has them.
    """

    methods: int = 2
    seeds: tuple[int, ...] = (3,)
    languages: int = 20
    examples: int = 100
    fewest: int | None = None
    scores: str = "binary"
    tails: float = 0.0
    level: float = 0.5
    parallel: bool = True
    questions: int = 1
    families: tuple[int, ...] = ()
    source: bool = False
    uneven: float = 1.0
    changed: tuple[tuple[str, float], ...] = ()

    @property
    def sd(self) -> dict[str, float]:
        return EFFECTS | dict(self.changed)

    def without(self, *effects: str) -> "Shape":
        return replace(self, changed=(*self.changed, *((name, 0.0) for name in effects)))

    def seeds_of(self, method: int) -> int:
        return self.seeds[min(method, len(self.seeds) - 1)]

    def named(self) -> dict[str, Any]:
        """What is not as the default has it, as JSON."""
        plain = asdict(Shape())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


@dataclass(frozen=True)
class Frame:
    """What all draws of a shape share: [columns] language, example and passage, and an empty sample."""

    language: NDArray[np.int64]
    example: NDArray[np.int64]
    passage: NDArray[np.int64]
    family: NDArray[np.int64]
    paired: PairedPredictions
    sample: Sample


@cache
def frame(shape: Shape, of: Estimand | None = None) -> Frame:
    """The frame of a shape, for one estimand."""
    few = shape.examples if shape.fewest is None else shape.fewest
    n = np.linspace(few, shape.examples, shape.languages).round().astype(np.int64)
    language = np.repeat(np.arange(shape.languages), n)
    within = np.concatenate([np.arange(count) for count in n])
    example = within if shape.parallel else np.arange(n.sum())
    # Passages are whole inside a language, parallel or not.
    passage = (within if shape.parallel else within + language * shape.examples) // shape.questions
    sizes = shape.families or (1,) * shape.languages
    family = np.repeat(np.arange(len(sizes)), sizes)
    codes = [f"l{i:03}" for i in range(shape.languages)]
    paired = PairedPredictions(
        model="simulated",
        task="simulated",
        protocol="one",
        source=codes[0] if shape.source else "none of them",
        methods=[f"m{i:02}" for i in range(shape.methods)],
        languages=codes,
        offsets=np.concatenate([[0], np.cumsum(n)]),
        examples=example.astype(object),
        scores={},
        seeds={f"m{i:02}": tuple(range(shape.seeds_of(i))) for i in range(shape.methods)},
        statistic=F1 if shape.scores == "f1" else MEAN,
        clusters=passage if shape.questions > 1 else None,
        families={code: f"f{i}" for code, i in zip(codes, family, strict=True)},
    )
    return Frame(language, example, passage, family, paired, Sample(paired, of))


@dataclass(frozen=True)
class Drawn:
    """One simulated study: its sample, and the true score of each method in each of its languages."""

    sample: Sample
    truth: NDArray[np.float64]


def simulate(shape: Shape, rng: np.random.Generator, shift: float = 0.0, of: Estimand | None = None) -> Drawn:
    """Draw the predictions of all methods; the first is better than the second by ``shift`` logits."""
    sd, base = shape.sd, frame(shape, of)
    level = intercept(shape)

    def effect(name: str, index: NDArray[np.int64] | None, *size: int) -> Floats | float:
        if not sd[name]:
            return 0.0
        values = np.float32(sd[name]) * rng.standard_normal(size, dtype=np.float32)
        if shape.tails and name in HEAVY:
            chi = rng.chisquare(shape.tails, size) / (shape.tails - 2)
            values = (values / np.sqrt(chi)).astype(np.float32)
        return values if index is None else values[..., index]

    columns, languages = len(base.language), shape.languages
    examples, passages = int(base.example.max()) + 1, int(base.passage.max()) + 1
    families = int(base.family.max()) + 1
    of_language = level + effect("language", None, languages)
    text = (
        effect("example", base.example, examples)
        + effect("passage", base.passage, passages)
        + effect("example x language", None, columns)
    )
    scores, counts, truths = {}, {}, []
    gold = 1 + (base.example * 7919) % (2 * GOLD - 1)
    for i, name in enumerate(base.paired.methods):
        seeds = shape.seeds_of(i)
        here = of_language + {0: shift / 2, 1: -shift / 2}.get(i, 0.0)
        suits = np.zeros(languages, dtype=np.float32)
        suits += effect("method x language", None, languages)
        suits += effect("method x family", base.family, families)
        if shape.source:  # No sample of others: what suits it would be a difference between the methods.
            suits[0] = 0.0
        here = np.broadcast_to(np.asarray(here + suits, dtype=np.float32), (languages,))
        if shape.scores == "beta":
            plain_here = special.expit(here - suits)
            truth, scores[name] = _beta(shape, rng, plain_here, seeds, base.language)
            truths.append(truth)
            continue
        plain = text + here[base.language] + effect("method x example x language", None, columns)
        plain = plain + effect("method x example", base.example, examples)
        plain = plain + effect("method x passage", base.passage, passages)
        varies = np.float32(shape.uneven if i == 0 else 1.0)
        logit = (
            plain + varies * effect("seed", None, seeds, 1) + effect("seed x example", None, seeds, columns)
        )
        logit = logit + effect("seed x language", base.language, seeds, languages)
        share = special.expit(np.float32(SLOPE[shape.scores]) * np.broadcast_to(logit, (seeds, columns)))
        truths.append(_expected(shape)(here))
        if shape.scores == "graded":
            scores[name] = share
        elif shape.scores == "binary":
            scores[name] = (rng.random(share.shape, dtype=np.float32) < share).astype(np.float32)
        else:
            correct = rng.binomial(gold, share)
            found = correct + rng.poisson(WRONG, share.shape)
            counts[name] = np.stack([correct, found, np.broadcast_to(gold, share.shape)], -1).astype(
                np.float32
            )
            parts = np.split(counts[name].astype(np.float64), base.paired.offsets[1:-1], axis=1)
            scores[name] = np.concatenate([F1.per_example(part) for part in parts], axis=1).astype(np.float32)
    # The sample's indices are those of its frame: only what was scored is new.
    sample = copy.copy(base.sample)
    sample.paired = replace(base.paired, scores=scores, counts=counts)
    sample._parts, sample._pools = {}, {}
    return Drawn(sample, np.stack(truths))


def _beta(
    shape: Shape, rng: np.random.Generator, rate: Floats, seeds: int, language: NDArray[np.int64]
) -> tuple[NDArray[np.float64], Floats]:
    """[languages] true rates of a method, and [seeds, columns] its answers."""
    of_method, of_seed, moved = BETA
    truth = rate.astype(np.float64)
    if shape.sd["method x language"]:
        truth = rng.beta(of_method * truth, of_method * (1 - truth))
    truth = np.clip(truth, 0.06, 0.94)
    drawn = rng.beta(of_seed * truth, of_seed * (1 - truth), (seeds, len(truth)))
    drawn = np.clip(drawn + rng.uniform(-moved, moved, (seeds, 1)), 0, 1)
    return truth, (rng.random((seeds, len(language))) < drawn[:, language]).astype(np.float32)


def _quadrature(spread: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes = np.linspace(-6, 6, 121)
    weights = np.exp(-(nodes**2) / 2)
    return spread * nodes, weights / weights.sum()


@cache
def _expected(shape: Shape) -> Callable[[Any], Any]:
    """Mean score of a language over examples and seeds, from its logit."""
    beta = shape.scores == "beta"
    spread = math.sqrt(sum(v**2 for name, v in shape.sd.items() if name not in OF_LANGUAGES and not beta))
    nodes, weights = _quadrature(spread)
    grid = np.linspace(-25, 25, 2001)
    means = special.expit(SLOPE[shape.scores] * (grid[:, None] + nodes)) @ weights
    if shape.scores == "f1":
        means = 2 * GOLD * means / (GOLD * means + WRONG + GOLD)
    return lambda logits: np.interp(logits, grid, means)


def mean_score(shape: Shape, logit: float) -> float:
    """Mean over all languages there could be."""
    of_languages = OF_LANGUAGES[:1] if shape.scores == "beta" else OF_LANGUAGES
    nodes, weights = _quadrature(math.sqrt(sum(shape.sd[name] ** 2 for name in of_languages)))
    return float(_expected(shape)(logit + nodes) @ weights)


@cache
def intercept(shape: Shape) -> float:
    """The logit at which the mean score is the shape's level."""
    logits = np.linspace(-20, 20, 2001)
    return float(np.interp(shape.level, [mean_score(shape, logit) for logit in logits], logits))


def shift_for(shape: Shape, wanted: float) -> float:
    """Logits that make the first method better than the second by this much."""
    shifts, level = np.linspace(0, 20, 1001), intercept(shape)
    gains = [mean_score(shape, level + s / 2) - mean_score(shape, level - s / 2) for s in shifts]
    return float(np.interp(wanted, gains, shifts))
