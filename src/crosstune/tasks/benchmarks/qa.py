"""Extractive question answering: XQuAD, TyDi QA (gold passage) and MLQA.

The answer is generated; an encoder points at it (`crosstune.outputs.heads.spans`).

XQuAD: Artetxe et al. 2020 (arXiv 1910.11856). TyDi QA: Clark et al. 2020 (arXiv 2003.05002). MLQA: Lewis et
al. 2020 (arXiv 1910.07475). Trained on English: SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250), or
TyDi QA's own questions.

Selection. XQuAD was made from SQuAD dev, from every one of its 48 articles: no article there is free of test
paragraphs. TyDi QA's dev is its test. In all three tasks the dev split is therefore held out of the training
questions, by article (`held_out`); about 5% fewer than published are trained on. SQuAD dev is never read.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from crosstune.data.example import Example, Split, fair_order, passage_key
from crosstune.data.source import FileLayout, local_layouts
from crosstune.data.squad import READERS
from crosstune.data.tables import LARGEST_ROW, Row
from crosstune.errors import UserError
from crosstune.metrics import mlqa, squad
from crosstune.tasks.base import TaskOptions
from crosstune.tasks.prompts import render
from crosstune.tasks.published import PublishedOptions, PublishedTask

HELD_OUT = 20
"""About one training question in so many is kept for selection."""

_ARTICLES: dict[Split, str] = {
    "train": "train, without the articles held out",
    "dev": "articles held out of train",
}

_LINE_BREAK = re.compile(r"\s*\n\s*")


TRAIN_ON_HUB = {"squad": "squad", "tydiqa": "tydiqa_goldp"}


class QaOptions(PublishedOptions):
    """Options of `xquad` and `mlqa`.

    Attributes:
        train_set: Whose English questions to train on, SQuAD v1.1's or TyDi QA's.
    """

    train_set: Literal["squad", "tydiqa"] = "squad"


class MlqaOptions(QaOptions):
    """Options of `mlqa`.

    Attributes:
        question_language: Of the questions, where it is not the paragraph's: one of MLQA's 49 pairs.
    """

    newer = ("question_language",)

    question_language: Literal["ar", "de", "en", "es", "hi", "vi", "zh"] | None = None


class TydiQaOptions(QaOptions):
    """Options of `tydiqa`: as of the others, with its own questions as the default."""

    train_set: Literal["squad", "tydiqa"] = "tydiqa"


class ExtractiveQa(PublishedTask):
    """A question about a paragraph, answered with words of the paragraph.

    Prompts hold the whole paragraph; nothing is cut. Training writes the first answer given; any of them is
    right in a test.

    Metrics:
        squad_f1, squad_exact: As SQuAD's own script scores (`crosstune.metrics.squad`), which knows English
            articles only. XTREME reports these for XQuAD and TyDi QA.
        mlqa_f1, mlqa_exact: Aware of the language (`crosstune.metrics.mlqa`): MLQA's rules in its seven
            languages, crosstune's extension of them in all others.
    """

    version = 1
    kind = "generation"
    extractive = True
    metrics: ClassVar[tuple[str, ...]] = ("squad_f1", "squad_exact", "mlqa_f1", "mlqa_exact")
    prompts = "qa"
    max_answer_tokens = 32
    Options: ClassVar[type[TaskOptions]] = QaOptions
    options: QaOptions

    def __init__(self, options: TaskOptions | None = None) -> None:
        super().__init__(options)
        # An option says which they are, so they cannot stand in the class.
        self.layouts = {**self.layouts, "train": local_layouts(self.options.train_set, **READERS)["train"]}
        self.hub = {**self.hub, "train": TRAIN_ON_HUB[self.options.train_set]}
        self._halves: dict[str, dict[Split, list[Example]]] = {}

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id; those of dev are held out of the training articles."""
        if split == "test":
            return super().examples(split, language)
        if language not in self._halves:
            self._halves[language] = self._divided(language)
        return self._halves[language][split]

    def _divided(self, language: str) -> dict[Split, list[Example]]:
        """Training questions by article, as those to train on and those to select on."""
        article: dict[str, str] = {}

        def make(row: Row) -> Example:
            example, title = self.example(row, "train", language), row.fields.get("title")
            # The paragraph where a file has no titles.
            article.setdefault(example.id, title if isinstance(title, str) and title else row["context"])
            return example

        usable = self.keep(self.rows("train", language), make)
        dev = held_out(Counter(article[example.id] for example in usable))
        halves: dict[Split, list[Example]] = {"train": [], "dev": []}
        for example in sorted(usable, key=lambda example: fair_order(example.id)):
            halves["dev" if article[example.id] in dev else "train"].append(example)
        for split, examples in halves.items():
            if not examples:
                raise UserError(
                    f"task {self.name}: nothing left for {split} in {language}: {len(usable)} usable "
                    "training questions, and it takes two articles at least, one of them for dev"
                )
        return halves

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The paragraph and question, and every answer given."""
        name, context, question = row.text("id"), row.text("context"), row.text("question")
        if (size := len(row["context"]) + len(row["question"])) > LARGEST_ROW:
            raise row.error(f"question {name[:60]!r}: {size:,} letters; the most is {LARGEST_ROW:,}")
        prompt = render(self.wording(language)["prompt"], context=context, question=question)
        fields = (("context", context), ("question", question))
        cluster = passage_key(context)
        answers, span = self._answers(row)
        return Example(name, language, prompt, answers, fields=fields, cluster=cluster, span=span)

    def _answers(self, row: Row) -> tuple[tuple[str, ...], tuple[int, int]]:
        """Unique answers in the order given, each on one line, as a line break ends an answer.

        And where the first stands in the context without surrounding white space.
        """
        answers, context, spans = [], row["context"], []
        question = f"question {row.text('id')[:60]!r}"
        for text, start in _spans(row, question):
            if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
                raise row.error(f"{question}: answer {text!r:.60} at {start!r:.20} is no text and number")
            if not text.strip():
                raise row.error(f"{question}: empty answer")
            # The hub's tables had the white space around contexts and answers cut off, and the numbers left.
            if not (text in context if self.on_hub else start >= 0 and context.startswith(text, start)):
                raise row.error(
                    f"{question}: answer {text[:60]!r} is not at character {start} of its context"
                )
            first = _nearest(text, context, start) + margin(text) - margin(context)
            spans.append((first, first + len(text.strip())))
            answers.append(_LINE_BREAK.sub(" ", text.strip()))
        if not answers:
            raise row.error(f"{question}: no answer")
        return tuple(dict.fromkeys(answers)), spans[0]

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """SQuAD's and the language-aware scores of one answer."""
        golds, language = example.answers, example.language
        return {
            "squad_f1": squad.f1(answer, golds),
            "squad_exact": squad.exact_match(answer, golds),
            "mlqa_f1": mlqa.f1(answer, golds, language),
            "mlqa_exact": mlqa.exact_match(answer, golds, language),
        }


class Xquad(ExtractiveQa):
    """1,190 questions on 240 paragraphs of SQuAD dev, in English and professional translations of it."""

    name = "xquad"
    summary = "answer from a paragraph, parallel in 12 languages (XQuAD)"
    split_names: ClassVar[dict[Split, str]] = {**_ARTICLES, "test": "the whole of XQuAD"}
    layouts = local_layouts("xquad", **READERS)
    hub: Mapping[Split, str] = {"test": "xquad"}


class TydiQa(ExtractiveQa):
    """Questions asked in each language itself, with the passage that answers them.

    The published test set's answers are hidden; as the field does, its dev files are the test split here.
    """

    name = "tydiqa"
    summary = "answer from a passage, asked in 9 languages (TyDi QA, gold passage)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "train, without the passages held out",
        "dev": "passages held out of train",
        "test": "dev (the answers of the published test set are hidden)",
    }
    layouts: Mapping[Split, tuple[FileLayout, ...]] = dict.fromkeys(
        ("dev", "test"), local_layouts("tydiqa", **READERS)["dev"]
    )
    hub: Mapping[Split, str] = {"dev": "tydiqa_goldp", "test": "tydiqa_goldp"}
    Options: ClassVar[type[TaskOptions]] = TydiQaOptions


class Mlqa(ExtractiveQa):
    """Questions on paragraphs that several Wikipedias share in part; an id is the same in all languages.

    The paragraph and its answer are in the language that is evaluated; the question is too, or in
    ``question_language``.
    """

    name = "mlqa"
    summary = "answer from a paragraph, parallel in part, 7 languages (MLQA)"
    split_names: ClassVar[dict[Split, str]] = {**_ARTICLES, "test": "test (dev by the option evaluate_on)"}
    layouts = local_layouts("mlqa", **READERS)
    hub: Mapping[Split, str] = {"dev": "mlqa", "test": "mlqa"}
    Options: ClassVar[type[TaskOptions]] = MlqaOptions
    options: MlqaOptions

    def __init__(self, options: TaskOptions | None = None) -> None:
        super().__init__(options)
        self.layouts = {
            split: tuple(
                replace(layout, files=self.files_named(layout.files, "{code}")) for layout in layouts
            )
            for split, layouts in self.layouts.items()
        }

    def files_named(self, pattern: str, code: str) -> str:
        """A pattern of files, here or on the hub, with the code of the questions' language."""
        asked_in = self.options.question_language or code
        return pattern.replace(f"question-{code}", f"question-{asked_in}").replace(
            f".{code}/", f".{asked_in}/"
        )


def held_out(questions: Mapping[str, int]) -> set[str]:
    """Articles to keep out of training, for selection.

    They are taken in an order that depends on their names alone, each that still fits into one in `HELD_OUT`
    of all questions, which are counted by article; the smallest if none fits.
    """
    names = sorted(questions, key=fair_order)
    room = sum(questions.values()) // HELD_OUT
    chosen = set()
    for name in names:
        if questions[name] <= room:
            chosen.add(name)
            room -= questions[name]
    return chosen or set(sorted(names, key=lambda name: questions[name])[:1])


def _nearest(text: str, context: str, start: int) -> int:
    """Where in a context a text stands, nearest to where it is said to."""
    if context.startswith(text, start):
        return start
    return min((m.start() for m in re.finditer(re.escape(text), context)), key=lambda at: abs(at - start))


def margin(text: str) -> int:
    """White space in front of a text."""
    return len(text) - len(text.lstrip())


def _spans(row: Row, question: str) -> list[tuple[object, object]]:
    """Text and start of each answer; a table has a list of each, JSON a list of both."""
    answers = row.fields.get("answers")
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [(answer.get("text"), answer.get("answer_start")) for answer in answers]
    raise row.error(f"{question}: answers are {answers!r:.60} where texts with their starts were expected")
