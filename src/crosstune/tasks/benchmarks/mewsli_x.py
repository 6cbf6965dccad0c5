"""Mewsli-X: which of a million descriptions in 50 languages is of the entity that a news text mentions?

Of XTREME-R (Ruder et al. 2021, arXiv 2104.07412), in the release of 2022-05-18. A mention is ``mention: left
{ mention } right`` of its sentence, an entity its description, and training is on pairs of English Wikipedia.
What is called mAP@20 there is the mean of 1 / the place of the one right entity among the first 20; the mean
over languages counts each alike. Labels of the test set are withheld: the dev files are the test here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from crosstune.data.example import Candidate, Example, Split, fair_order
from crosstune.data.source import FileLayout
from crosstune.data.tables import BadRow, Row, Rows, read_rows, usable
from crosstune.errors import UserError
from crosstune.languages.table import canonical
from crosstune.metrics.ranking import reciprocal_rank
from crosstune.tasks.base import Search
from crosstune.tasks.published import PublishedOptions, PublishedTask

HELD_OUT = 20
"""One training pair in so many is kept for selection."""

_BRACES = re.compile(r"\{(.*?)\}")


def read_mentions(path: Path) -> Rows:
    """One row a mention: ``language``, ``id``, ``entity``, ``question``, and ``text`` of a pair's entity."""
    for row in read_rows(path, ()):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield from list(_mentions(row))
        except (KeyError, TypeError, StopIteration) as error:
            yield row.error(f"not a line of Mewsli-X: {type(error).__name__} {error}")


def _mentions(row: Row) -> Iterator[Row]:
    fields: Any = row.fields.get("contextual_mention") or row.fields
    entity: Any = row.fields.get("entity")
    context = fields["context"]
    if not context["text"]:
        raise row.error("the text is not filled in: run Mewsli-X's own script, which adds it")
    for mention in fields.get("mentions") or [fields["mention"]]:
        columns = {
            "language": context["language"],
            "id": mention["example_id"],
            "entity": mention["entity_id"],
            "question": marked(context["text"], context["sentence_spans"], mention["mention_span"]),
            "text": None if entity is None else described(entity),
        }
        yield Row(row.path, row.line, columns)


def marked(text: str, sentences: Sequence[Mapping[str, int]], mention: Mapping[str, Any]) -> str:
    """A mention in its sentence, as XTREME-R writes it."""
    start, end = mention["start"], mention["end"]
    around = next(s for s in sentences if s["start"] <= start and end <= s["end"])
    left, right = (
        _BRACES.sub(r"(\1)", side) for side in (text[around["start"] : start], text[end : around["end"]])
    )
    name = mention["text"]
    return _one_line(f"{name}: {left} {{ {name} }} {right}")


def described(entity: Mapping[str, Any]) -> str:
    """Its sentences on one line."""
    text = entity["description"]
    return _one_line(" ".join(text[span["start"] : span["end"]] for span in entity["sentence_spans"]))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()).replace("  ", " ").strip()


class MewsliXOptions(PublishedOptions):
    """Options of `mewsli-x`.

    Attributes:
        question_prefix, text_prefix: Stand in front of mentions and descriptions.
        layer: The states behind this layer, from 1 at the bottom; None for the last.
    """

    question_prefix: str = ""
    text_prefix: str = ""
    layer: int | None = Field(default=None, ge=1)


_FOLDERS = ("mewsli_x", "mewslix", "mewsli-x")


class MewsliX(PublishedTask):
    """Mentions of entities in news. Whatever is evaluated, the whole set of candidates is searched."""

    name = "mewsli-x"
    version = 1
    kind = "retrieval"
    metrics = ("mrr_at_20",)
    summary = "the entity that a news text mentions, by its description in any of 50 languages (Mewsli-X)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "wikipedia_pairs-train, without those held out",
        "dev": "pairs held out of train",
        "test": "wikinews_mentions-dev (labels of the published test set are withheld)",
    }
    depth = 20
    prompts = ""
    Options = MewsliXOptions
    options: MewsliXOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        "train": tuple(
            FileLayout(f"{folder}/wikipedia_pairs-train.jsonl", read=read_mentions) for folder in _FOLDERS
        ),
        "test": tuple(
            FileLayout(f"{folder}/wikinews_mentions-dev.jsonl", column="language", read=read_mentions)
            for folder in _FOLDERS
        ),
    }

    def examples(self, split: Split, language: str) -> list[Example]:
        """Mentions; those of dev are a part of the training pairs, by the entity."""
        if split == "test":
            return super().examples(split, language)
        pairs = self.keep(self.rows("train", language), lambda row: self.example(row, "train", language))
        held_out = [fair_order(example.cluster)[0] % HELD_OUT == 0 for example in pairs]
        chosen = [e for e, out in zip(pairs, held_out, strict=True) if out == (split == "dev")]
        return sorted(chosen, key=lambda example: fair_order(example.id))

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The mention, and the description of its entity."""
        entity, question = row.text("entity"), row.text("question")
        text = row.text("text") if split == "train" else self._texts.get(entity, "")
        if not text:
            raise row.error(f"its entity {entity[:40]!r} is not among the candidates")
        prefixes = self.options.question_prefix, self.options.text_prefix
        return Example(
            row.text("id"),
            language,
            f"{prefixes[0]}{question}",
            (text if split == "test" else f"{prefixes[1]}{text}",),
            fields=(("question", question),),
            cluster=entity,
        )

    def searches(self, examples: Sequence[Example]) -> list[Search]:
        """All candidates; of development pairs, their own entities."""
        questions = [Candidate(example.id, example.language, example.prompt) for example in examples]
        published = self._candidates if all(e.cluster in self._texts for e in examples) else None
        entities = {e.cluster: Candidate(e.cluster, e.language, e.answers[0]) for e in examples}
        return [Search(range(len(examples)), questions, published or list(entities.values()))]

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Of a ranking of entities."""
        return {"mrr_at_20": reciprocal_rank(answer.split(" "), {example.cluster})}

    @cached_property
    def _candidates(self) -> list[Candidate]:
        files = [self.data_folder / folder / "candidate_set_entities.jsonl" for folder in _FOLDERS]
        path = next((file for file in files if file.exists()), None)
        if path is None:
            raise UserError(f"task {self.name} needs the candidates: {files[0]}")
        candidates = []
        for row in usable(read_rows(path, ("entity_id", "description", "description_language"))):
            text = f"{self.options.text_prefix}{described(row.fields)}"
            candidates.append(Candidate(row.text("entity_id"), canonical(row["description_language"]), text))
        return candidates

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {candidate.id: candidate.text for candidate in self._candidates}
