"""Headlines and summaries, written in the language of their text: MasakhaNEWS, XL-Sum, WikiLingua, CrossSum.

Adelani et al. 2023 (arXiv 2304.09972), Hasan et al. 2021 (arXiv 2106.13822), Ladhak et al. 2020 (arXiv
2010.03093), Bhattacharjee et al. 2023 (arXiv 2112.08804). ROUGE is that of `crosstune.metrics.rouge`.
"""

from collections.abc import Mapping
from functools import cached_property
from math import nan
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from crosstune.data.example import Example, Split
from crosstune.data.source import FileLayout, local_layouts
from crosstune.data.tables import Row, Rows, read_quoted
from crosstune.errors import UserError, first_line
from crosstune.files import read_text, user_path
from crosstune.languages import LANGUAGES
from crosstune.metrics.corpus import CORPUS
from crosstune.metrics.language_confusion import passes
from crosstune.metrics.rouge import ROUGE, Tokenize, rouge, tokens
from crosstune.tasks.prompts import render
from crosstune.tasks.published import PublishedOptions, PublishedTask

PASSES = ("line_pass", "word_pass")


class SummariesOptions(PublishedOptions):
    """Settings of tasks that write headlines and summaries.

    Attributes:
        metric: "rouge_l", the mean over answers; or "chrf" of all answers together.
        text_characters: Most characters of a text that are read, whole words from its beginning; None for
            all. How many texts are longer is in run.json.
        tokenizer: A ``tokenizer.json`` whose pieces SentencePiece ROUGE counts, beside ROUGE.
    """

    metric: Literal["rouge_l", "chrf"] = "rouge_l"
    text_characters: int | None = Field(default=2000, ge=1)
    tokenizer: str | None = None


class Summaries(PublishedTask):
    """A text, and a short one that sums it up.

    Metrics:
        rouge_l, rouge_1, rouge_2: F1, with XL-Sum's tokens in words, single letters where a script has no
            spaces.
        sp_rouge_l: The same over the pieces of ``tokenizer``, where one is given.
        sentence_chrf: chrF of one answer; its mean is no chrF.
        chrf: Of all answers together, as main metric.
        line_pass, word_pass: Whether an answer passes the Language Confusion Benchmark
            (`crosstune.metrics.language_confusion`); their means are its LPR and WPR.
    """

    version = 1
    kind = "generation"
    metrics: tuple[str, ...] = (*ROUGE, "sentence_chrf", *PASSES)  # type: ignore[misc]  # by option
    split_names: ClassVar[dict[Split, str]] = {"train": "train", "dev": "validation", "test": "test"}
    prompts = "summaries"
    asks: ClassVar[str] = "summary"  # which of the prompts
    id_column: ClassVar[str] = ""  # that names a row; its line does where there is none
    max_answer_tokens = 84
    Options = SummariesOptions
    options: SummariesOptions

    def __init__(self, options: SummariesOptions | None = None) -> None:
        super().__init__(options)
        others = (*ROUGE, *(["sp_rouge_l"] if self.options.tokenizer else []))
        chrf = self.options.metric == "chrf"
        self.metrics = ("chrf", *others, *PASSES) if chrf else (*others, "sentence_chrf", *PASSES)

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The beginning of the text, and what sums it up in one line."""
        text, summary = row.text("text"), " ".join(row.text("summary").split())
        prompt = render(
            str(self.wording(language)[self.asks]),
            text=self.shortened(text),
            language=LANGUAGES[language].name,
        )
        name = str(row[self.id_column]) if self.id_column else str(row.line)
        return Example(name, language, prompt, (summary,), (), (("text", text), ("summary", summary)))

    def shortened(self, text: str) -> str:
        """The text's first characters, up to the end of a word."""
        most = self.options.text_characters
        if most is None or len(text) <= most:
            return text
        start = text[: most + 1]
        words = start.rsplit(maxsplit=1)[0] if any(map(str.isspace, start)) else start
        return (words if 2 * len(words) >= most else start)[:most].rstrip()

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split; how many texts were shortened is noted with its source."""
        examples = self.part(split, language, super().examples(split, language))
        most = self.options.text_characters
        if most is not None:
            longer = sum(len(dict(example.fields)["text"]) > most for example in examples)
            self.note_source(split, language, texts=len(examples), longer_than_text_characters=longer)
        return examples

    def part(self, split: Split, language: str, examples: list[Example]) -> list[Example]:
        """Those of a file's examples that make the split: all, unless two splits share the file."""
        return examples

    def template(self, language: str) -> str:
        """The prompt with its places still open."""
        return str(self.wording(language)[self.asks])

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """All metrics of one answer."""
        scores = rouge(answer, example.answers, tokens)
        if self._pieces is not None:
            scores["sp_rouge_l"] = rouge(answer, example.answers, self._pieces)["rouge_l"]
        scores["chrf"] = scores["sentence_chrf"] = CORPUS["chrf"].alone(answer, example.answers, ())
        passed = passes(answer, example.language, self.source_language)
        scores |= {name: nan if value is None else value for name, value in zip(PASSES, passed, strict=True)}
        return {name: scores[name] for name in self.metrics}

    @cached_property
    def _pieces(self) -> Tokenize | None:
        return pieces(user_path(self.options.tokenizer)) if self.options.tokenizer else None


def _news(path: Path) -> Rows:
    return read_quoted(path, ("headline", "text"))


class MasakhaNewsHeadlines(Summaries):
    """Headlines of news in African languages, English and French.

    Without English training files the model is trained on the development file, all but the `HELD_OUT`
    examples that are first by the hash of their line; those are the development split.
    """

    name = "masakhanews-headlines"
    summary = "the headline of a news text (MasakhaNEWS)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "train; dev without 100 of its rows where only that is here",
        "dev": "dev; the other 100",
        "test": "test",
    }
    asks = "headline"
    max_answer_tokens = 48
    layouts = local_layouts("masakhanews", news=_news)

    HELD_OUT: ClassVar[int] = 100

    def part(self, split: Split, language: str, examples: list[Example]) -> list[Example]:
        """All, or without what another split takes of the one file that is here."""
        train, dev = (self.places.get(name, {}).get(language) for name in ("train", "dev"))
        if split == "test" or train is None or dev is None or train.paths != dev.paths:
            return examples
        return examples[self.HELD_OUT :] if split == "train" else examples[: self.HELD_OUT]


class XlSum(Summaries):
    """Summaries of the BBC's news in 45 languages."""

    name = "xlsum"
    summary = "a summary of a news text, 45 languages (XL-Sum)"
    id_column = "id"
    layouts = local_layouts("xlsum")
    hub: Mapping[Split, str] = {"train": "xlsum", "dev": "xlsum", "test": "xlsum"}


class WikiLingua(Summaries):
    """Summaries of how-to guides in 18 languages, by the splits of GEM."""

    name = "wikilingua"
    summary = "a summary of a how-to guide, 18 languages (WikiLingua)"
    id_column = "gem_id"
    max_answer_tokens = 128
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {}
    hub: Mapping[Split, str] = {"train": "wikilingua", "dev": "wikilingua", "test": "wikilingua"}


class CrossSum(Summaries):
    """Summaries of English news in 45 languages; the prompt names the language."""

    name = "crosssum"
    summary = "a summary of an English news text in another language, 45 languages (CrossSum)"
    asks = "summary_in"
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {}
    hub: Mapping[Split, str] = {"train": "crosssum", "dev": "crosssum", "test": "crosssum"}


def pieces(tokenizer: Path) -> Tokenize:
    """Tokens of SentencePiece ROUGE (Vu et al. 2022, arXiv 2205.12647): what a ``tokenizer.json`` makes.

    That of NLLB-200 has the pieces of FLORES. The text is cut as it is, case and punctuation included.

    Raises:
        UserError: It cannot be read.
    """
    from tokenizers import Tokenizer

    content = read_text(tokenizer)
    try:
        fast = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises nothing more specific
        raise UserError(f"{tokenizer}: no tokenizer.json: {first_line(error)[:200]}") from error
    return lambda text: list(fast.encode(text, add_special_tokens=False).tokens)
