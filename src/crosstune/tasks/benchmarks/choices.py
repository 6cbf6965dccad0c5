"""Choice tasks whose rows need no more than a prompt: pairs of sentences, endings, schemas, letters.

PAWS-X: Yang et al. 2019 (arXiv 1908.11828). XStoryCloze: Lin et al. 2022 (arXiv 2112.10668). XWinograd:
Tikhonov and Ryabinin 2021 (arXiv 2106.12066), trained on WinoGrande (arXiv 1907.10641). X-CSQA: Lin et al.
2021 (arXiv 2106.06937), trained on CommonsenseQA (arXiv 1811.00937). Global-MMLU: Singh et al. 2024 (arXiv
2412.03304). INCLUDE: Romanou et al. 2024 (arXiv 2411.19799).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar

from crosstune.data.example import Example, Split, fair_order, passage_key
from crosstune.data.source import local_layouts
from crosstune.data.tables import BadRow, Row, Rows, changed, read_lines
from crosstune.tasks.prompts import render
from crosstune.tasks.published import PublishedTask

HELD_OUT = 10
"""One in so many training examples is for selection, in sets without a split for it."""


class _Choices(PublishedTask):
    """What these tasks share; prompts are English, or nothing but the text itself."""

    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    prompts = "choices"

    def template(self, language: str) -> str:
        """The prompt with its places still open."""
        return str(self.wording(language)[self.name])


class _HeldOut(_Choices):
    """Sets without a split to select on: one in `HELD_OUT` training examples is that split, by its id."""

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id; train and dev are the two parts of one."""
        if split == "test":
            return super().examples(split, language)
        both = super().examples("train", language)
        return [e for e in both if (fair_order(e.id)[0] % HELD_OUT == 0) == (split == "dev")]


class PawsX(_Choices):
    """Do two sentences of nearly the same words say the same? Trained on English PAWS."""

    name = "paws-x"
    summary = "same meaning or not, 2 choices (PAWS-X); 7 languages"
    split_names: ClassVar[dict[Split, str]] = {"train": "PAWS train (English)", "dev": "dev", "test": "test"}
    layouts = local_layouts("paws_x")
    hub: Mapping[Split, str] = {"train": "paws", "dev": "paws_x", "test": "paws_x"}

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The two sentences."""
        words = self.wording(language)["labels"]
        pair = {name: row.text(name) for name in ("sentence1", "sentence2")}
        right = _one_of(row, "label", ("0", "1"))
        prompt = render(self.template(language), **pair)
        key = str(row.fields.get("id") or row.line)
        return Example(key, language, prompt, (words[right],), tuple(words), tuple(pair.items()))


class XStoryCloze(_HeldOut):
    """Which of two sentences ends a story of four? Trained on the English stories that are in no test."""

    name = "xstorycloze"
    summary = "the right ending of a story, 2 choices (XStoryCloze); 11 languages"
    split_names: ClassVar[dict[Split, str]] = {
        "train": f"XStoryCloze train (English) but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of XStoryCloze train (English)",
        "test": "eval",
    }
    layouts = local_layouts("xstorycloze")
    hub: Mapping[Split, str] = dict.fromkeys(("train", "test"), "xstorycloze")

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The story, and its two endings."""
        story = " ".join(row.text(f"input_sentence_{n}") for n in range(1, 5))
        endings = (row.text("sentence_quiz1"), row.text("sentence_quiz2"))
        right = _one_of(row, "answer_right_ending", ("1", "2"))
        prompt = render(self.template(language), story=story)
        return _answered(row, row.text("story_id"), language, prompt, endings, right)


class XWinograd(_HeldOut):
    """Which of two mentions does a pronoun stand for? Each is put in its place, in front of what follows.

    A pair that begins with the pronoun leaves nothing to read in front of it, and is left out.
    """

    name = "xwinograd"
    summary = "what a pronoun stands for, 2 choices (XWinograd); trained on WinoGrande; 6 languages"
    split_names: ClassVar[dict[Split, str]] = {
        "train": f"WinoGrande train XL (English) but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of WinoGrande train XL",
        "test": "test",
    }
    may_be_blank = ("before",)

    hub: Mapping[Split, str] = {"train": "winogrande", "test": "xwinograd"}

    def rows(self, split: Split, language: str) -> Rows:
        """Sentences in their two halves, around the place of the pronoun."""

        def halved(row: Row) -> Row:
            before, _, after = row.text("sentence").partition("_")
            return row.with_fields(before=before, after=after)

        return changed(super().rows(split, language), halved)

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The sentence up to the pronoun; each mention with the rest."""
        prompt = render(self.template(language), before=row.text("before"))
        mentions = (row.text("option1"), row.text("option2"))
        endings = [f"{mention}{row['after']}".strip() for mention in mentions]
        right = _one_of(row, "answer", ("1", "2"))
        both = "\n".join((row["before"], *sorted(mentions)))  # twins differ behind the pronoun alone
        key = f"{language}:{row.path.stem}:{row.line}"
        return _answered(row, key, language, prompt, endings, right, passage_key(both))


class _Letters(_HeldOut):
    """A question with its options listed; the letter of one is the answer."""

    def listed(
        self, row: Row, key: str, language: str, options: Sequence[str], right: int, question: str
    ) -> Example:
        """The question, the options and their letters."""
        letters = tuple(ascii_uppercase[: len(options)])
        pairs = zip(letters, options, strict=True)
        listed = "\n".join(render(self.wording(language)["option"], letter=x, text=text) for x, text in pairs)
        prompt = render(self.template(language), question=question, options=listed)
        fields = (("question", question), *zip(letters, options, strict=True))
        return Example(key, language, prompt, (letters[right],), letters, fields)


class XCsqa(_Letters):
    """Common sense, five options; the answers of its test set are hidden: the dev set is the test split."""

    name = "x-csqa"
    summary = "common sense, 5 choices (X-CSQA); trained on CommonsenseQA; 16 languages"
    split_names: ClassVar[dict[Split, str]] = {
        "train": f"CommonsenseQA train (English) but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of CommonsenseQA train",
        "test": "X-CSQA dev (the answers of the published test set are hidden)",
    }
    layouts = local_layouts("x_csqa")
    hub: Mapping[Split, str] = {"train": "commonsense_qa", "test": "x_csqa"}

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question of a row of either set: its choices are lists, or a list of label and text."""
        question, choices = row["question"], row.fields.get("choices")
        try:
            if isinstance(question, dict):
                question, choices = question["stem"], question["choices"]
            if isinstance(choices, list):
                choices = {key: [choice[key] for choice in choices] for key in ("label", "text")}
            choices = dict(choices or {})
            options, labels = list(choices["text"]), list(choices["label"])
            right = labels.index(row["answerKey"])
        except (KeyError, TypeError, ValueError) as error:
            raise row.error(f"no choices with label, text and the answer's: {error!r}") from None
        if not all(isinstance(text, str) and text.strip() for text in (question, *options)):
            raise row.error("a question or choice that is blank or no text")
        if not 1 < len(set(labels)) == len(labels) == len(options) <= len(ascii_uppercase):
            raise row.error(f"{len(options)} choices with the labels {labels!r:.60}")
        options = [text.strip() for text in options]
        return self.listed(row, row.text("id"), language, options, right, str(question).strip())


class GlobalMmlu(_Letters):
    """Exam questions of 57 subjects, translated from English; the 285 of its English dev split train."""

    name = "global-mmlu"
    summary = "exam questions, 4 choices (Global-MMLU); 42 languages"
    split_names: ClassVar[dict[Split, str]] = {
        "train": f"dev (English) but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of dev (English)",
        "test": "test",
    }
    layouts = local_layouts("global_mmlu")
    hub: Mapping[Split, str] = dict.fromkeys(("train", "test"), "global_mmlu")

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question and its four options."""
        options = [row.text(f"option_{letter}") for letter in "abcd"]
        answer = row.fields.get("answer")
        numbers = isinstance(answer, int) or str(answer).isdecimal()
        right = _one_of(row, "answer", "0123" if numbers else "ABCD")
        key = str(row.fields.get("sample_id") or f"{language}:{row.path.stem}:{row.line}")
        return self.listed(row, key, language, options, right, row.text("question"))


class Include(GlobalMmlu):
    """Exam questions written in each language, about its own region: no translations, and none in English.

    Trained on Global-MMLU's English ones, which have the same form.
    """

    name = "include"
    summary = "exam questions of each region, 4 choices (INCLUDE); 44 languages"
    split_names: ClassVar[dict[Split, str]] = GlobalMmlu.split_names | {
        "train": f"Global-MMLU dev (English) but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of Global-MMLU dev (English)",
    }
    layouts = local_layouts("global_mmlu") | local_layouts("include")
    hub: Mapping[Split, str] = {"train": "global_mmlu", "test": "include"}


def _one_of(row: Row, column: str, values: Sequence[str]) -> int:
    """The place of a column's value among some."""
    value = str(row.fields.get(column)).strip()
    if value not in values:
        raise row.error(f"{column} is {value[:60]!r} where {' or '.join(values)} was expected")
    return values.index(value)


def _answered(
    row: Row, key: str, language: str, prompt: str, choices: Sequence[str], right: int, cluster: str = ""
) -> Example:
    """An example with choices of its own."""
    if len(set(choices)) < len(choices):
        raise row.error("two choices are the same")
    return Example(key, language, prompt, (choices[right],), tuple(choices), cluster=cluster)


def read_schemas(path: Path) -> Iterator[Row | BadRow]:
    """Rows of XWinograd's own file, in the form of WinoGrande: "_" in place of the pronoun."""
    for line, text in enumerate(read_lines(path), start=1):
        if isinstance(text, BadRow):
            yield text
            continue
        row = Row(path, line, {})
        try:
            language, source, _, sentence, *rest = text.split("\t")
            tokens, (pronoun, (first, last), *_), candidates = map(json.loads, rest)
            right = [str(n) for n, candidate in enumerate(candidates, start=1) if candidate[3]]
            start, end = _span(sentence, tokens, first, last)
            if sentence[start:end] != pronoun or len(candidates) != 2 or len(right) != 1:
                raise ValueError(f"{sentence[start:end]!r} stands where {pronoun!r} was expected")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            yield row.error(f"no Winograd schema of XWinograd's file: {error}")
            continue
        fields: dict[str, Any] = {"language": {"jp": "ja"}.get(language, language), "source": source}
        fields |= {"sentence": f"{sentence[:start]}_{sentence[end:]}", "answer": right[0]}
        yield row.with_fields(**fields, option1=candidates[0][0], option2=candidates[1][0])


def _span(sentence: str, tokens: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """Where tokens stand in their sentence; those that are spelled otherwise there are passed over."""
    position, starts = 0, []
    for token in tokens:
        at = sentence.find(token, position)
        starts.append(max(at, position))
        position = position if at < 0 else at + len(token)
    return starts[first], starts[last - 1] + len(tokens[last - 1])


XWinograd.layouts = local_layouts("xwinograd", schemas=read_schemas)
