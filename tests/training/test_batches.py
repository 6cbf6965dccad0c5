"""Order and splitting of training batches, on whatever lengths and budgets come."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from crosstune.data.example import Example
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.training.batches import order, split

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=70)


def make(lengths: list[int]) -> list[TrainingRow]:
    return [TrainingRow((i,) + (0,) * (n - 1), 1) for i, n in enumerate(lengths)]


def epoch(rows: list[TrainingRow], batch_size: int, seed: int, number: int = 0) -> list[list[TrainingRow]]:
    size = -(-len(rows) // batch_size)
    return list(islice(order(rows, batch_size, seed), number * size, (number + 1) * size))


@given(LENGTHS, st.integers(1, 20), st.integers(0, 5), st.integers(0, 2))
def test_every_row_once_an_epoch(lengths, batch_size, seed, number):
    rows = make(lengths)
    batches = epoch(rows, batch_size, seed, number)
    assert sorted(r.ids for b in batches for r in b) == sorted(r.ids for r in rows)
    assert all(1 <= len(b) <= batch_size for b in batches)
    assert sum(len(b) < batch_size for b in batches) <= 1


@given(LENGTHS, st.integers(1, 20), st.integers(0, 5))
def test_seed_decides_the_order(lengths, batch_size, seed):
    rows = make(lengths)
    assert epoch(rows, batch_size, seed) == epoch(rows, batch_size, seed)


def test_seeds_and_epochs_differ():
    rows = make([3] * 40)
    assert epoch(rows, 4, 0) != epoch(rows, 4, 1)
    assert epoch(rows, 4, 0, 0) != epoch(rows, 4, 0, 1)


@given(LENGTHS, st.integers(1, 200))
def test_split_keeps_the_budget_and_every_row(lengths, tokens):
    rows = make(lengths)
    parts = split(rows, tokens)
    assert sorted(r.ids for p in parts for r in p) == sorted(r.ids for r in rows)
    for part in parts:
        assert len(part) == 1 or len(part) * max(len(r.ids) for r in part) <= tokens


def padded(batches: list[list[TrainingRow]]) -> int:
    return sum(len(b) * max(len(r.ids) for r in b) for b in batches)


def test_like_lengths_stand_together_unless_asked_not_to():
    rows = make([i % 50 + 1 for i in range(800)])
    text = sum(len(r.ids) for r in rows)
    assert padded(epoch(rows, 8, 0)) < 1.2 * text
    drawn = list(islice(order(rows, 8, 0, by_length=False), 100))
    assert sorted(r.ids for b in drawn for r in b) == sorted(r.ids for r in rows)
    assert padded(drawn) > 1.5 * text


def test_rows_are_tokenised_when_drawn_and_once():
    """The same batches as from rows that were all there, though few were made."""
    examples = [Example(str(i), "en", "x" * (i * 7 % 23 + 1), ("a",)) for i in range(4000)]
    read: list[str] = []

    def tokenise(some):
        read.extend(e.id for e in some)
        return [TrainingRow((int(e.id),) * len(e.prompt), 1) for e in some]

    ready = tokenise(examples)
    for by_length in (True, False):
        read.clear()
        rows = Rows(examples, tokenise)
        drawn = list(islice(order(rows, 8, 3, by_length), 20))
        assert drawn == list(islice(order(ready, 8, 3, by_length), 20))
        assert len(read) == len(set(read)) <= 20 * 8 * (8 if by_length else 1)
    assert rows[5] == ready[5]
    assert rows[-2:] == ready[-2:]
    assert list(rows) == ready
    assert len(read) == len(set(read)) == len(rows)
