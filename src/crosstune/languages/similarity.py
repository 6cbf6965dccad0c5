"""How alike two languages are by the table: relation, script and place, as URIEL has distances of each.

URIEL (Littell et al. 2017) has a language tree, a map and typology; here the mean of three, from 0 to 1:

    relation  1 for one language, 2/3 for one branch, 1/3 for one family, 0 otherwise
    script    1 for the same, 0 otherwise
    place     1 - great-circle distance / half the circumference of the Earth, 0 where a place is not known
"""

import math
from collections.abc import Iterable
from fractions import Fraction

from crosstune.languages.table import Language, find


def similarity(one: str, other: str) -> Fraction:
    """Of two varieties, to hundredths, from 0 to 1.

    Raises:
        UserError: A code is unknown.
    """
    a, b = find(one), find(other)
    return Fraction(round(100 * (_relation(a, b) + (a.script == b.script) + _place(a, b)) / 3), 100)


def most_similar(code: str, among: Iterable[str], count: int) -> dict[str, Fraction]:
    """The languages most similar to one, the most similar first, each with its share of their similarity.

    Raises:
        UserError: A code is unknown.
    """
    others = {find(other).code for other in among} - {find(code).code}
    similar = {other: similarity(code, other) for other in others}
    chosen = sorted(others, key=lambda other: (-similar[other], -(find(other).resource or 0), other))[:count]
    total = sum(similar[other] for other in chosen)
    return {other: similar[other] / total for other in chosen if similar[other]}


def _relation(a: Language, b: Language) -> float:
    if a.iso639_3 == b.iso639_3:
        return 1.0
    if a.family != b.family or a.family in ("isolate", "Constructed"):
        return 0.0
    return 2 / 3 if a.branch and a.branch == b.branch else 1 / 3


def _place(a: Language, b: Language) -> float:
    if a.place is None or b.place is None:
        return 0.0
    (north, east), (north_of_b, east_of_b) = (map(math.radians, place) for place in (a.place, b.place))
    across = math.sin((north - north_of_b) / 2) ** 2
    along = math.cos(north) * math.cos(north_of_b) * math.sin((east - east_of_b) / 2) ** 2
    return 1 - 2 * math.asin(math.sqrt(min(1.0, across + along))) / math.pi
