"""Exact match and F1 of SQuAD v1.1 (Rajpurkar et al. 2016; evaluate-v1.1.py).

XTREME scores XQuAD and TyDi QA with it too, though the normaliser was made for English: where words are not
set off by white space (Chinese, Japanese, Thai) an answer is one token, so F1 is close to exact match. Tasks
give the scores of `metrics.mlqa` beside it, each by its name. Of no gold at all, both raise a `ValueError`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces; in this order, as published."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised answer equals a normalised gold, else 0.0."""
    return best(golds, lambda gold: float(normalise(answer) == normalise(gold)))


def f1(answer: str, golds: Sequence[str]) -> float:
    """Token F1 in [0, 1] with the gold that gives most; 0.0 where no token is shared.

    An answer and a gold that are both empty once normalised ("a", "the") match exactly and have F1 0, as
    in the published script.
    """
    return best(golds, lambda gold: token_f1(normalise(answer).split(), normalise(gold).split()))


def best(golds: Sequence[str], score: Callable[[str], float]) -> float:
    """The highest score over the golds.

    Raises:
        ValueError: ``golds`` is empty.
    """
    if not golds:
        raise ValueError("no gold answer to score against")
    return max(score(gold) for gold in golds)


def token_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over two multisets of tokens; 0.0 where no token is shared."""
    shared = (Counter(answer) & Counter(gold)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
