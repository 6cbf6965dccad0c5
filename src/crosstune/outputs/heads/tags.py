"""A tag for each word of a sentence, by a linear head on the state of one of its pieces.

Words are joined with spaces and tokenised as any text; a piece belongs to the word whose characters it has. A
bare "▁", as SentencePiece puts in front of Chinese and Thai words, belongs to none. A sentence that is longer
than the model's positions is split in halves between words, and those again, so that no word is lost.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from torch import Tensor

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output
from crosstune.outputs.heads.reading import answered
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.tasks.base import Task

BARE = frozenset({"▁", "Ġ"})


class Tags(Output):
    """One of the task's tags a word; an example's choices are all tags, its answer the right ones."""

    cuts = True

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Whole sentences, each with the tags of those words that have pieces."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            rows = []
            for example in drawn:
                ids, places = self._read(example.prompt)
                pairs = zip(places, example.answers[0].split(" "), strict=True)
                labels = tuple((at, example.choices.index(tag)) for at, tag in pairs if at)
                rows.append(TrainingRow(tuple(ids), labels=labels))
            return rows

        return Rows([part for example in examples for part in self._fitting(example)], tokenise)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The tags, parted by spaces; a word without pieces has that of the piece before it."""
        head, tags = self.lm.head, task.tags
        assert head is not None, "trained with the method"
        parts = [self._fitting(example) for example in examples]
        read = [self._read(part.prompt) for some in parts for part in some]
        if len(read) > len(examples):
            stream["journal"] = None  # it keeps whole examples
        places = [[at or (_before(groups, i),) for i, at in enumerate(groups)] for _, groups in read]

        def answer(states: Tensor, numbers: Sequence[int]) -> list[list[int]]:
            best = iter(head(states).argmax(-1).tolist())
            return [[next(best) for _ in places[i]] for i in numbers]

        classes = answered(self.lm, [ids for ids, _ in read], places, answer, self.settings, **stream)
        told = iter([" ".join(tags[c] for c in some) for some in classes])
        return Answers([" ".join(next(told) for _ in some) for some in parts])

    def _fitting(self, example: Example) -> list[Example]:
        """The sentence, or its halves, in which the model has room for every token.

        Raises:
            UserError: One word is too long.
        """
        room = self.lm.room
        # A token takes a byte or more, and few stand around the text.
        if (
            room is None
            or len(example.prompt.encode()) + 8 <= room
            or len(self._read(example.prompt)[0]) <= room
        ):
            return [example]
        words, tags = example.prompt.split(" "), example.answers[0].split(" ")
        if len(words) == 1:
            raise UserError(f"{example.language} {example.id}: a word of more than {room} tokens")
        tags = tags if len(tags) == len(words) else [""] * len(words)
        half = len(words) // 2
        return [
            part
            for some in (slice(half), slice(half, None))
            for part in self._fitting(
                replace(example, prompt=" ".join(words[some]), answers=(" ".join(tags[some]),))
            )
        ]

    def _read(self, text: str) -> tuple[list[int], list[tuple[int, ...]]]:
        """Token ids of words that are parted by spaces, and of each word the places that the head reads."""
        tokenizer = self.lm.tokenizer
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids: list[int] = encoded["input_ids"]
        ids = ids[: len(ids) - self.lm.tokens.closed_by]
        special = set(tokenizer.all_special_ids)
        word_at = [i for i, word in enumerate(text.split(" ")) for _ in range(len(word) + 1)]
        pieces: list[list[int]] = [[] for _ in range(word_at[-1] + 1)]
        names = tokenizer.convert_ids_to_tokens(ids)
        for place, (token, name, (start, end)) in enumerate(
            zip(ids, names, encoded["offset_mapping"], strict=False)
        ):
            # A piece may have the space before its word among its characters.
            first = start + text[start:end].startswith(" ")
            known = token not in special or token == tokenizer.unk_token_id
            if first < end and name not in BARE and known:
                pieces[word_at[first]].append(place)
        chosen = self.settings.piece or ("first" if self.lm.geometry.encoder else "last")
        cut = {"first": slice(1), "last": slice(-1, None), "mean": slice(None)}[chosen]
        return ids, [tuple(some[cut]) for some in pieces]


def _before(groups: Sequence[tuple[int, ...]], word: int) -> int:
    return next((at[-1] for at in reversed(groups[:word]) if at), 0)
