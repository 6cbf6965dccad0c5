"""What several texts begin with alike is read once: texts of token ids as the branches of a tree.

A passage with its questions, a prompt with its choices, exemplars with what follows them: all are found
from the token ids alone, so nothing depends on where a tokenizer puts its boundaries. Tokens of the tree
stand in depth-first order in one line, and each sees what it follows
(`crosstune.models.attention.layout.Layout`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

# A text joins those before it in a line when that saves this share of its cost: branches need a mask.
WORTH = 0.1


@dataclass(frozen=True, slots=True)
class Tree:
    """Some texts in one line."""

    tokens: list[int]  # of the line
    positions: list[int]  # place of each in its own text
    ends: list[int]  # last place in the line that sees it
    paths: list[list[int]]  # of each text, in the order given: where its tokens stand in the line

    @property
    def branches(self) -> bool:
        """Whether some token does not follow all those in front of it."""
        return self.ends.count(len(self.ends) - 1) < len(self.ends)


def grow(texts: Sequence[Sequence[int]]) -> Tree:
    """The tree of some texts: every shared beginning stands once."""
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    paths: list[list[int]] = [[] for _ in texts]
    path: list[int] = []
    before: Sequence[int] = ()
    # Sorted, a text shares most with the one before it.
    for i in sorted(range(len(texts)), key=lambda i: tuple(texts[i])):
        common = shared(before, texts[i])
        for at in path[common:]:
            ends[at] = len(tokens) - 1
        new = texts[i][common:]
        path = path[:common] + list(range(len(tokens), len(tokens) + len(new)))
        tokens += new
        positions += range(common, common + len(new))
        ends += [-1] * len(new)
        paths[i] = path
        before = texts[i]
    for at in path:
        ends[at] = len(tokens) - 1
    return Tree(tokens, positions, ends, paths)


def runs_of(ends: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of tokens without branches, in a line of trees.

    Args:
        ends: Of each token the last place in the line that sees it.

    Returns:
        Of each run its first place, the place behind its last, and how many runs it follows.
    """
    runs: list[tuple[int, int, int]] = []
    around: list[int] = []  # ends of the runs that the next one follows
    start = 0
    for i, end in enumerate(ends):
        if end == i or ends[i + 1] != end:
            while around and around[-1] < start:
                around.pop()
            runs.append((start, i + 1, len(around)))
            around += [end] if end > i else []
            start = i + 1
    return runs


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    most = min(len(one), len(other))
    return next((i for i in range(most) if one[i] != other[i]), most)


class Shared:
    """Which of many items are worth reading together, by their prompts' token ids.

    ``widths`` are an item's tokens alone, branches behind its prompt included; ``balance`` is the line length
    at which a token costs as much in attention as in everything else.

    Attributes:
        groups: Items in the order in which their prompts sort, in runs that are worth a line each.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], widths: Sequence[int], balance: float) -> None:
        order = sorted(range(len(prompts)), key=lambda i: (tuple(prompts[i]), i))
        self._alone = widths
        self._added = list(widths)  # behind the item before it in the order
        self.groups: list[list[int]] = []
        width = 0

        def cost(tokens: int) -> float:
            return tokens * (1 + tokens / balance)

        for place, i in enumerate(order):
            if place:
                self._added[i] -= shared(prompts[order[place - 1]], prompts[i])
                apart = cost(width) + cost(self._alone[i])
                if apart - cost(width + self._added[i]) > WORTH * cost(self._alone[i]):
                    self.groups[-1].append(i)
                    width += self._added[i]
                    continue
            self.groups.append([i])
            width = self._alone[i]

    def width(self, items: Sequence[int]) -> int:
        """Tokens of a run of a group in one line."""
        return self._alone[items[0]] + sum(self._added[i] for i in items[1:])
