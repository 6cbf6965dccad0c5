"""Answers that are parts of a context: an encoder with a score for the first and one for the last token.

As SQuAD's recipe has it (Devlin et al. 2019, arXiv 1810.04805; of XTREME, Hu et al. 2020): the question, at
most 64 tokens of it, and then the context, in windows of 384 tokens in all whose beginnings are 128 tokens
apart. A window without the answer is trained to point at the first token of all. Of each window the 20 best
first and the 20 best last tokens are combined; a span lies in the context, ends where it starts or later,
has at most 30 tokens (``evaluate.max_answer_tokens``), and starts with a token that has no more context in
another window. The best sum of scores over all windows is the answer, as it stands in the context. Tokens
have no segments of their own (``token_type_ids`` are 0), and dropout in front of the head is the model's
alone.
"""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from torch import Tensor

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output, written
from crosstune.outputs.heads.reading import answered
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.tasks.base import Task

WINDOW, STRIDE, QUESTION, ANSWER, BEST = 384, 128, 64, 30, 20


@dataclass(frozen=True)
class Window:
    """A question with a part of its context."""

    ids: list[int]
    first: int  # place of the part's first token
    offsets: list[tuple[int, int]]  # characters of each of its tokens in the whole context
    best: list[bool]  # of each, whether no other window has more context around it

    def span(self, answer: tuple[int, int]) -> tuple[int, int]:
        """Places of the first and last token of some characters; 0 and 0 where they are not all here."""
        start, end = answer
        tokens = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start]
        inside = bool(tokens) and self.offsets[0][0] <= start and end <= self.offsets[-1][1]
        return (self.first + tokens[0], self.first + tokens[-1]) if inside else (0, 0)

    def answer(self, scores: Tensor, longest: int) -> tuple[float, int, int]:
        """The best span's score and characters, of scores ``[tokens, 2]``; minus infinity where none is."""
        chosen = [scores[:, side].argsort(descending=True, stable=True)[:BEST].tolist() for side in (0, 1)]
        values: list[list[float]] = scores.tolist()
        size, best_span = len(self.offsets), (float("-inf"), 0, 0)
        for start in (place - self.first for place in chosen[0]):
            if not (0 <= start < size and self.best[start]):
                continue
            for end in (place - self.first for place in chosen[1]):
                if start <= end < min(size, start + longest):
                    score = values[self.first + start][0] + values[self.first + end][1]
                    best_span = max(best_span, (score, self.offsets[start][0], self.offsets[end][1]))
        return best_span


class Spans(Output):
    """A part of the example's field ``context``; the question is its field ``question``."""

    cuts = True

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Windows, each with the span of the answer. How many there are is only known of tokens."""
        rows = []
        for example, windows in zip(examples, self._windows(examples), strict=True):
            assert example.span is not None, "of an extractive task"
            rows += [TrainingRow(tuple(w.ids), span=w.span(example.span)) for w in windows]
        return Rows(rows, list)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The texts, and the language that each was identified as."""
        head = self.lm.head
        assert head is not None, "trained with the method"
        windows = list(self._windows(examples))
        flat = [window for of_example in windows for window in of_example]
        if len(flat) > len(examples):
            stream["journal"] = None  # it keeps whole examples
        longest = self.settings.max_answer_tokens or ANSWER

        def answer(states: Tensor, numbers: Sequence[int]) -> list[tuple[float, int, int]]:
            scores = head(states).cpu().split([len(flat[i].ids) for i in numbers])
            return [flat[i].answer(of_window, longest) for i, of_window in zip(numbers, scores, strict=True)]

        places = [[(place,) for place in range(len(window.ids))] for window in flat]
        spans = iter(answered(self.lm, [w.ids for w in flat], places, answer, self.settings, **stream))
        texts = []
        for example, of_example in zip(examples, windows, strict=True):
            _, start, end = max((next(spans) for _ in of_example), key=lambda span: span[0])
            texts.append(_field(example, "context")[start:end].strip())
        return written(task, examples, texts)

    def _windows(self, examples: Sequence[Example]) -> Iterator[list[Window]]:
        tokenizer = self.lm.tokenizer
        pair = tokenizer("a", "b")
        sides = pair.sequence_ids(0)
        first, second = sides.index(0), sides.index(1)
        last = len(sides) - sides[::-1].index(1)
        middle = len(sides) - sides[::-1].index(0)
        front, between, behind = (
            pair["input_ids"][slice(*cut)] for cut in ((first,), (middle, second), (last, None))
        )
        contexts = list(dict.fromkeys(_field(example, "context") for example in examples))
        encoded = tokenizer(contexts, add_special_tokens=False, return_offsets_mapping=True)
        offsets_of = map(_with_marks, contexts, encoded["offset_mapping"])
        read = dict(zip(contexts, zip(encoded["input_ids"], offsets_of, strict=True), strict=True))
        questions = tokenizer([_field(e, "question") for e in examples], add_special_tokens=False)[
            "input_ids"
        ]
        for example, question in zip(examples, questions, strict=True):
            ids, offsets = read[_field(example, "context")]
            head = [*front, *question[:QUESTION], *between]
            size = min(WINDOW, self.lm.room or WINDOW) - len(head) - len(behind)
            if size < 1 or not ids:
                raise UserError(f"{example.language} {example.id}: no room for its context, or none is there")
            starts = [0]
            while starts[-1] + size < len(ids):
                starts.append(starts[-1] + min(size, STRIDE))
            parts = [range(start, min(start + size, len(ids))) for start in starts]
            owner = [_most_context(parts, token) for token in range(len(ids))]
            yield [
                Window(
                    [*head, *ids[part.start : part.stop], *behind],
                    len(head),
                    offsets[part.start : part.stop],
                    [owner[token] == number for token in part],
                )
                for number, part in enumerate(parts)
            ]


def _with_marks(context: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets of tokens, the marks behind each among its characters.

    A tokenizer that composes letters (XLM-R's) ends a token in front of the last mark on its last letter, and
    an answer that ends there would be cut.
    """
    nexts = [*(start for start, _ in offsets), len(context)][1:]
    whole = []
    for (start, end), following in zip(offsets, nexts, strict=True):
        behind = range(end, following) if start < end else ()
        marks = itertools.takewhile(lambda at: unicodedata.category(context[at])[0] == "M", behind)
        whole.append((start, end + len(list(marks))))
    return whole


def _most_context(parts: Sequence[range], token: int) -> int:
    """Number of the part with the most tokens on the token's shorter side, the first of equals."""

    def around(number: int) -> float:
        part = parts[number]
        return min(token - part.start, part.stop - 1 - token) + 0.01 * len(part) if token in part else -1.0

    return max(range(len(parts)), key=around)


def _field(example: Example, name: str) -> str:
    return dict(example.fields)[name]
