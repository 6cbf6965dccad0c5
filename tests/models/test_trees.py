"""Texts as the branches of a tree: nothing lost, nothing read twice, and grouped where it pays."""

from hypothesis import given
from hypothesis import strategies as st

from crosstune.models.attention.trees import Shared, grow, shared
from crosstune.outputs.stream import _parts

# Few different tokens, so that many texts begin alike.
TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9)


@given(TEXTS)
def test_a_tree_holds_every_beginning_once(texts):
    tree = grow(texts)
    assert [[tree.tokens[at] for at in path] for path in tree.paths] == texts
    # As many tokens as there are different beginnings, and each text at its own positions.
    assert len(tree.tokens) == len({tuple(t[:n]) for t in texts for n in range(1, len(t) + 1)})
    assert all([tree.positions[at] for at in path] == list(range(len(path))) for path in tree.paths)


@given(TEXTS)
def test_a_token_is_seen_by_what_follows_it_and_by_nothing_else(texts):
    tree = grow(texts)
    follow = {(b, a) for path in tree.paths for i, b in enumerate(path) for a in path[: i + 1]}
    places = range(len(tree.tokens))
    assert {(b, a) for b in places for a in places if a <= b <= tree.ends[a]} == follow
    assert tree.branches == any(set(range(path[-1] + 1)) != set(path) for path in tree.paths)


@given(TEXTS, st.integers(1, 30))
def test_the_width_of_a_part_is_that_of_its_tree(texts, limit):
    together = Shared(texts, [len(t) for t in texts], balance=1000)
    assert sorted(i for group in together.groups for i in group) == list(range(len(texts)))
    for group in together.groups:
        parts = _parts(group, lambda items: (1, together.width(items)), limit)
        assert [i for part in parts for i in part.items] == group
        for part in parts:
            assert part.width == len(grow([texts[i] for i in part.items]).tokens)
            assert part.width <= limit or len(part.items) == 1


def test_what_is_worth_a_line():
    passage = list(range(100))
    texts = [
        [*passage, 1, 2],
        [*passage, 1, 3, 4],
        [*range(50, 90)],
        [*range(50, 55), *range(40)],
        [*passage, 7],
    ]
    groups = Shared(texts, [len(t) for t in texts], balance=1000).groups
    assert sorted(map(sorted, groups)) == [[0, 1, 4], [2], [3]]
    # Where a token costs far more in attention than in the weights, a longer line is not worth it.
    texts = [[*range(30), *[100 + i] * 60] for i in range(5)]
    assert len(Shared(texts, [90] * 5, balance=10_000).groups) == 1
    assert len(Shared(texts, [90] * 5, balance=1).groups) == 5
    assert shared([1, 2, 3], [1, 2]) == 2
    assert shared([], [1]) == 0
