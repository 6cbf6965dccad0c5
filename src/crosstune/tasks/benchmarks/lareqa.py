"""LAReQA: which sentences, of all languages at once, answer a question?

Roy et al. 2020 (arXiv 2004.05484). XQuAD-R: the paragraphs of XQuAD, cut into sentences, 13,014 in its 11
languages. To a question those sentences are relevant that hold its answer, one a language, and a model that
puts its own language in front loses by it. Scored by mAP@20, as in XTREME-R. Trained on English SQuAD: the
sentence with the answer, of sentences cut by a rule (`crosstune.data.sentences`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from crosstune.data.example import Candidate, Example, Split, passage_key
from crosstune.data.sentences import sentence_spans
from crosstune.data.source import FileLayout, local_layouts
from crosstune.data.squad import READERS
from crosstune.data.tables import BadRow, Row, Rows, read_json
from crosstune.errors import UserError
from crosstune.languages import find
from crosstune.metrics.ranking import average_precision
from crosstune.tasks.base import Search, TaskOptions
from crosstune.tasks.benchmarks.qa import ExtractiveQa, QaOptions, margin

Spans = Sequence[tuple[int, int]]


class LareqaOptions(QaOptions):
    """Options of `lareqa`.

    Attributes:
        context: A candidate is its sentence and then its whole paragraph, cut where the model's positions end
            (XTREME-R: at 256 tokens); by default the sentence alone.
        paragraphs: Only so many paragraphs of the 240, and the questions on them, for a quick look: all their
            sentences are read, and `EvaluateSettings.limit` is of questions alone.
        question_prefix, text_prefix: Stand in front of questions and candidates ("query: " and "passage: "
            for models of the E5 family).
        layer: The states behind this layer, from 1 at the bottom; None for the last.
    """

    context: bool = False
    paragraphs: int | None = Field(default=None, ge=1)
    question_prefix: str = ""
    text_prefix: str = ""
    layer: int | None = Field(default=None, ge=1)


class Lareqa(ExtractiveQa):
    """Questions, and the sentences of all languages that are here; whichever are evaluated, all are searched.

    Metrics:
        map_at_20: Average precision over the first 20.
        same_language: Whether the first is in the question's own language; of 11 languages without a
            preference it would be in 1 of 11.
    """

    name = "lareqa"
    version = 1
    kind = "retrieval"
    extractive = False
    metrics: ClassVar[tuple[str, ...]] = ("map_at_20", "same_language")
    summary = "the sentences that answer, among those of all languages (LAReQA, XQuAD-R)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "SQuAD train, without the articles held out",
        "dev": "articles held out of train",
        "test": "the whole of XQuAD-R",
    }
    depth = 20
    Options: ClassVar[type[TaskOptions]] = LareqaOptions
    options: LareqaOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        **local_layouts("xquad", **READERS),
        "test": (
            *local_layouts("xquad", **READERS)["test"],
            FileLayout("xquad-r/{code}.json", read=READERS["squad"]),
        ),
    }

    def __init__(self, options: LareqaOptions | None = None) -> None:
        super().__init__(options)
        self._read: dict[str, dict[str, Spans]] = {}
        self._tests: dict[str, list[Row | BadRow]] = {}

    def languages(self) -> list[str]:
        """Those whose paragraphs and sentence boundaries are both here."""
        return [code for code in super().languages() if code in self._boundaries]

    def template(self, language: str) -> str | None:
        """No frame: an answer is some of many texts."""
        return None

    def examples(self, split: Split, language: str) -> list[Example]:
        """Questions; those of a test on the paragraphs that are asked for."""
        if split != "test":
            return super().examples(split, language)
        if language not in self._boundaries:
            raise self.missing(language, self.languages())
        return [example for example in super().examples(split, language) if example.answers[0]]

    def rows(self, split: Split, language: str) -> Rows:
        """Those of a test are read once."""
        if split != "test":
            return super().rows(split, language)
        if language not in self._tests:
            self._tests[language] = list(super().rows(split, language))
        return self._tests[language]

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question, and the sentence where its answer starts; "" if its paragraph is left out."""
        example = super().example(row, split, language)
        (_, context), (_, question) = example.fields
        sentences = sentence_spans(context)
        spans = self._paragraphs(language).get(context) if split == "test" else sentences
        number = None if spans is None else _at(spans, example.span)
        if spans is not None and number is None:
            raise row.error("its answer starts in no sentence")
        sentence = "" if spans is None or number is None else context[slice(*spans[number])]
        return replace(
            example,
            prompt=f"{self.options.question_prefix}{question}",
            answers=(self._text(sentence, context) if sentence else "",),
            fields=(("question", question), ("sentence", sentence)),
        )

    def searches(self, examples: Sequence[Example]) -> list[Search]:
        """All sentences of all languages; of development questions, those that answer one of them."""
        questions = [Candidate(example.id, example.language, example.prompt) for example in examples]
        if all(example.id in self._relevant for example in examples):
            return [Search(range(len(examples)), questions, self._candidates)]
        texts = {example.answers[0]: example.language for example in examples}
        among = [Candidate(passage_key(text), language, text) for text, language in texts.items()]
        return [Search(range(len(examples)), questions, among)]

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Of a ranking of ids."""
        ranking = answer.split(" ")
        relevant = self._relevant.get(example.id, {passage_key(example.answers[0])})
        language, colon, _ = ranking[0].partition(":")
        same = not colon or language == example.language
        return {"map_at_20": average_precision(ranking, relevant), "same_language": float(same)}

    # --- the sentences of a test ------------------------------------------------------------------

    def _text(self, sentence: str, context: str) -> str:
        whole = f"{sentence} {context}" if self.options.context else sentence
        return f"{self.options.text_prefix}{whole}"

    @cached_property
    def _boundaries(self) -> dict[str, list[Spans]]:
        """Sentences of each paragraph, in XQuAD's order of paragraphs, by language."""
        root = self.data_folder
        whole = root / "xquad_r" / "sentence_breaks.json"
        if whole.exists():
            tables = read_json(whole)
        else:
            tables = {path.stem: _breaks(path) for path in sorted(root.glob("xquad-r/*.json"))}
        if not isinstance(tables, dict) or not tables:
            raise UserError(
                f"task {self.name} needs the sentence boundaries of XQuAD-R under {root}: "
                "xquad_r/sentence_breaks.json, or the released files as xquad-r/<language>.json"
            )
        return {find(code).code: spans for code, spans in tables.items()}

    def _paragraphs(self, language: str) -> dict[str, Spans]:
        """Sentences of the paragraphs that are asked for, by paragraph."""
        if language not in self._read:
            rows = [row for row in self.rows("test", language) if not isinstance(row, BadRow)]
            # Boundaries count the white space in front of a paragraph, and contexts are without it.
            contexts = {row.text("context"): margin(row["context"]) for row in rows}
            spans = [
                [(max(a - front, 0), max(b - front, 0)) for a, b in some]
                for front, some in zip(contexts.values(), self._boundaries[language], strict=False)
            ]
            if len(contexts) != (known := len(self._boundaries[language])):
                raise UserError(
                    f"task {self.name}: {len(contexts)} paragraphs in {language}, and sentence boundaries of "
                    f"{known}; take XQuAD's own files"
                )
            self._read[language] = dict(list(zip(contexts, spans, strict=True))[: self.options.paragraphs])
        return self._read[language]

    @cached_property
    def _candidates(self) -> list[Candidate]:
        """With ids ``<language>:<paragraph>:<sentence>``, both counted from 0."""
        return [
            Candidate(f"{code}:{p}:{s}", code, self._text(context[slice(*span)], context))
            for code in self.languages()
            for p, (context, spans) in enumerate(self._paragraphs(code).items())
            for s, span in enumerate(spans)
        ]

    @cached_property
    def _relevant(self) -> dict[str, set[str]]:
        """Ids of the sentences that hold the answer to a question, by its id."""
        relevant: dict[str, set[str]] = {}
        for code in self.languages():
            numbers = {context: p for p, context in enumerate(self._paragraphs(code))}
            for row in self.rows("test", code):
                if isinstance(row, BadRow) or (context := row.text("context")) not in numbers:
                    continue
                span = ExtractiveQa.example(self, row, "test", code).span
                sentence = _at(self._paragraphs(code)[context], span)
                if sentence is not None:
                    relevant.setdefault(row.text("id"), set()).add(f"{code}:{numbers[context]}:{sentence}")
        return relevant


def _at(spans: Spans, answer: tuple[int, int] | None) -> int | None:
    """Number of the sentence that an answer starts in."""
    return next((i for i, (a, b) in enumerate(spans) if answer is not None and a <= answer[0] < b), None)


def _breaks(path: Path) -> list[Any]:
    """Of a file as it was released: SQuAD's JSON, with the boundaries beside each paragraph."""
    document: Any = read_json(path)
    try:
        return [
            paragraph["sentence_breaks"]
            for article in document["data"]
            for paragraph in article["paragraphs"]
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: it has no sentence_breaks beside each paragraph: {error}") from None
