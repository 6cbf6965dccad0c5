"""MGSM: grade-school word problems, 250 of them in 11 languages; trained on English GSM8K.

Shi et al. 2022 (arXiv 2210.03057); Cobbe et al. 2021 (arXiv 2110.14168).
"""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from crosstune.data.example import Example, Split, fair_order
from crosstune.data.source import local_layouts
from crosstune.data.tables import Row
from crosstune.errors import UserError
from crosstune.metrics.numbers import ANSWER_WORDS, number_match
from crosstune.tasks.base import TaskOptions
from crosstune.tasks.prompts import load_prompts, render
from crosstune.tasks.published import PublishedOptions, PublishedTask

HELD_OUT = 20
"""One in so many questions of GSM8K train is for selection and never trained on."""

_CALCULATION = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")


class MgsmOptions(PublishedOptions):
    """Options of `mgsm`.

    Attributes:
        evaluate_on: MGSM has a test split only.
        answers: "direct": the number alone; "steps": a worked solution that ends "The answer is 18."
    """

    evaluate_on: Literal["test"] = "test"
    answers: Literal["direct", "steps"] = "direct"


class Mgsm(PublishedTask):
    """A word problem whose answer is a number.

    MGSM's problems are the first 250 of GSM8K's test split, so that split is not used at all. GSM8K's train
    split is cut into ours and dev, by a hash of each question (`HELD_OUT`).

    Metrics:
        number_match: The number the answer gives equals the gold (`crosstune.metrics.numbers`).
    """

    name = "mgsm"
    version = 1
    kind = "generation"
    metrics = ("number_match",)
    summary = "grade-school arithmetic in words (MGSM); trained on English GSM8K"
    split_names: ClassVar[dict[Split, str]] = {
        "train": f"GSM8K train but 1 in {HELD_OUT}",
        "dev": f"1 in {HELD_OUT} of GSM8K train",
        "test": "test",
    }
    prompts = "mgsm"
    layouts = local_layouts("gsm8k") | local_layouts("mgsm")
    hub: Mapping[Split, str] = {"train": "gsm8k", "test": "mgsm"}
    Options = MgsmOptions
    options: MgsmOptions

    def __init__(self, options: TaskOptions | None = None) -> None:
        super().__init__(options)
        self.max_answer_tokens = 16
        if self.options.answers == "steps":
            self.max_answer_tokens = 256
            prompts = [words["steps"] for words in load_prompts(self.prompts)["languages"].values()]
            questions = [f"\n{prompt.partition('{question}')[0].strip()}" for prompt in prompts]
            self.stop = ("\n\n", *questions)

    def examples(self, split: Split, language: str) -> list[Example]:
        """All problems of a split, shuffled by id; train and dev are the two parts of GSM8K train."""
        if split == "test":
            return super().examples(split, language)
        both = super().examples("train", language)
        if split == "dev":
            self.note_source(split, language, part=self.split_names["dev"])
        part = [example for example in both if _held_out(example) == (split == "dev")]
        if not part:
            raise UserError(
                f"task {self.name}: none of the {len(both)} training questions falls in its {split} part; "
                f"about 1 in {HELD_OUT} is held out for dev, so give more"
            )
        return part

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The problem and its number; in training with steps, the solution and the number."""
        question = row.text("question")
        prompt = render(self.template(language), question=question)
        if split == "test":
            answers: tuple[str, ...] = (_checked(row, row["answer_number"]),)
        else:
            solution, mark, number = row.text("answer").rpartition("####")
            if not mark:
                raise row.error('no "####" and number at the end of answer')
            answers = (_checked(row, number),)
            if self.options.answers == "steps":
                answers = (_worked(solution, answers[0]), *answers)
        return Example(str(row.line), language, prompt, answers, (), (("question", question),))

    def template(self, language: str) -> str:
        """The prompt with its place still open."""
        return str(self.wording(language)[self.options.answers])

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Whether the answer's number is the gold one."""
        return {"number_match": number_match(answer, example.answers[-1], example.language)}


class AfriMgsm(Mgsm):
    """The same problems in 17 African languages, with English and French."""

    name = "afrimgsm"
    summary = "grade-school arithmetic in words (AfriMGSM); trained on English GSM8K"
    layouts = local_layouts("gsm8k") | local_layouts("afrimgsm")
    hub: Mapping[Split, str] = {"train": "gsm8k", "test": "afrimgsm"}


def _held_out(example: Example) -> bool:
    """By the words of the question, so that every copy and order of GSM8K is cut alike."""
    words = " ".join(dict(example.fields)["question"].split())
    return int.from_bytes(fair_order(words)[:8]) % HELD_OUT == 0


def _checked(row: Row, value: object) -> str:
    number = str(value).strip()
    if not _NUMBER.fullmatch(number):
        raise row.error(f"{number[:60]!r} where a number was expected")
    return number


def _worked(solution: str, number: str) -> str:
    """A solution of GSM8K without its calculator's notes and blank lines, ending as MGSM's examples end."""
    lines = (line.strip() for line in _CALCULATION.sub("", solution).split("\n"))
    before, after = ANSWER_WORDS["en"]
    return "\n".join((*filter(None, lines), f"{before}{number}{after}"))
