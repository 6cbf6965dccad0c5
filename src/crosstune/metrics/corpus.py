"""Metrics of a whole test set that are no mean over its examples: macro F1, MCC, entity F1, chrF.

Each example has a few numbers that are summed over the set, columns ``sum.0``, ``sum.1``, ... of its
predictions; the score is a function of the sums, and is resampled with them (`crosstune.metrics.statistic`).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from crosstune.metrics.statistic import Floats, Statistic
from crosstune.metrics.tagging import tag_sums

SUM = "sum."
"""How the names of the summed columns begin."""

CHRF_ORDER, CHRF_BETA = 6, 2
_ENTITY = re.compile(r"[;\n]")


@dataclass(frozen=True)
class CorpusMetric:
    """A metric of many answers together."""

    # Whether answers are choices, the same number for every example, or written; None for tags.
    of_choices: bool | None
    # The numbers of one answer, from it, its accepted answers and its choices.
    sums: Callable[[str, Sequence[str], Sequence[str]], list[float]]
    value: Callable[[Floats], Floats]  # the score, from sums ``[..., columns]``; shape ``[...]``

    def alone(self, answer: str, golds: Sequence[str], choices: Sequence[str]) -> float:
        """What one example scores by itself, in [0, 1]: of a choice, whether it is right."""
        if self.of_choices:
            return float(answer in golds)
        return float(self.value(np.array(self.sums(answer, golds, choices))))


def _classes(answer: str, golds: Sequence[str], choices: Sequence[str]) -> list[float]:
    """Of each class, known by its place among the choices: picked and right, picked, right."""
    gold, picked = choices.index(golds[0]), choices.index(answer)
    counts = np.zeros((len(choices), 3))
    counts[picked, 1] += 1
    counts[gold, 2] += 1
    counts[gold, 0] += gold == picked
    numbers: list[float] = counts.ravel().tolist()
    return numbers


def _by_class(sums: Floats) -> tuple[Floats, Floats, Floats]:
    return sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]


def _ratio(above: Floats, below: Floats, otherwise: float) -> Floats:
    """The quotient, and ``otherwise`` where that is 0 / 0."""
    none = below == 0
    return np.asarray(np.where(none, otherwise, above / np.where(none, 1, below)))


def macro_f1(sums: Floats) -> Floats:
    """The unweighted mean of the classes' F1; classes that are neither right nor picked do not count."""
    both, picked, gold = _by_class(sums)
    f1 = _ratio(2 * both, picked + gold, 0.0)
    return _ratio(f1.sum(axis=-1), (picked + gold > 0).sum(axis=-1), 0.0)


def mcc(sums: Floats) -> Floats:
    """Matthews' correlation in [-1, 1] of any number of classes (Gorodkin 2004); 0 for a constant answer."""
    both, picked, gold = _by_class(sums)
    n = gold.sum(axis=-1)
    covered = n * both.sum(axis=-1) - (picked * gold).sum(axis=-1)
    spread = (n**2 - (picked**2).sum(axis=-1)) * (n**2 - (gold**2).sum(axis=-1))
    return _ratio(covered, np.sqrt(np.maximum(spread, 0)), 0.0)


def entities(text: str) -> Counter[tuple[str, str]]:
    """Entities of an answer, written ``TYPE: text; TYPE: text``; what has no colon is none."""
    parts = (part.partition(":") for part in _ENTITY.split(unicodedata.normalize("NFC", text)))
    pairs = ((kind.strip(), " ".join(name.split())) for kind, colon, name in parts if colon)
    return Counter((kind, name) for kind, name in pairs if kind and name)


def _entity_counts(answer: str, golds: Sequence[str], choices: Sequence[str]) -> list[float]:
    written = entities(answer)

    def against(gold: Counter[tuple[str, str]]) -> list[float]:
        return [(written & gold).total(), written.total(), gold.total()]

    return max((against(entities(gold)) for gold in golds), key=lambda counts: float(_f1(np.array(counts))))


def _f1(sums: Floats) -> Floats:
    return _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2], 1.0)


def _chrf_counts(answer: str, golds: Sequence[str], choices: Sequence[str]) -> list[float]:
    """Of each order 1 to 6: n-grams of the answer, of the gold, and shared; of the gold that gives most."""
    written = "".join(answer.split())

    def against(gold: str) -> list[float]:
        counts: list[float] = []
        for n in range(1, CHRF_ORDER + 1):
            ours, expected = (
                Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (written, gold)
            )
            counts += [ours.total() if expected else 0, expected.total(), (ours & expected).total()]
        return counts

    return max(
        (against("".join(gold.split())) for gold in golds), key=lambda counts: float(chrf(np.array(counts)))
    )


def chrf(sums: Floats) -> Floats:
    """ChrF2 (Popovic 2015) in [0, 1], as sacrebleu computes it: precision and recall averaged over orders."""
    written, gold, shared = _by_class(sums)
    counts = (written > 0) & (gold > 0)
    orders = counts.sum(axis=-1)
    precision, recall = (
        _ratio(np.where(counts, _ratio(shared, total, 0.0), 0.0).sum(axis=-1), orders, 0.0)
        for total in (written, gold)
    )
    factor = CHRF_BETA**2
    return _ratio((1 + factor) * precision * recall, factor * precision + recall, 0.0)


CORPUS: dict[str, CorpusMetric] = {
    "macro_f1": CorpusMetric(True, _classes, macro_f1),
    "mcc": CorpusMetric(True, _classes, mcc),
    "entity_f1": CorpusMetric(False, _entity_counts, _f1),
    "chrf": CorpusMetric(False, _chrf_counts, chrf),
    "tag_accuracy": CorpusMetric(None, tag_sums, lambda sums: _ratio(sums[..., 0], sums[..., 1], 0.0)),
    "xtreme_f1": CorpusMetric(None, tag_sums, lambda sums: _f1(sums[..., 2:5])),
    "strict_f1": CorpusMetric(None, tag_sums, lambda sums: _f1(sums[..., 5:8])),
}


def sums_in(columns: Iterable[str]) -> int:
    """How many of a table's columns are summed."""
    return sum(name.startswith(SUM) for name in columns)


@cache
def corpus_statistic(name: str, columns: int) -> Statistic:
    """The statistic of a metric whose examples have so many numbers."""
    value = CORPUS[name].value
    return Statistic(tuple(f"{SUM}{i}" for i in range(columns)), lambda sums, _: value(sums))
