"""Tags for words: parts of speech (UDPOS, MasakhaPOS) and names (PAN-X, MasakhaNER 2.0).

UDPOS and PAN-X are XTREME's (Hu et al. 2020, arXiv 2003.11080; PAN-X of Pan et al. 2017, splits of Rahimi et
al. 2019), MasakhaPOS and MasakhaNER 2.0 of Dione et al. 2023 and Adelani et al. 2022. Trained on English: EWT
for parts of speech, PAN-X for names. An example's prompt is its words joined with spaces.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from crosstune.data.example import Example, Split
from crosstune.data.source import FileLayout
from crosstune.data.tables import Row
from crosstune.data.tagged import read_conllu, read_tagged, without_spaces
from crosstune.tasks.base import TaskOptions
from crosstune.tasks.published import PublishedOptions, PublishedTask

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
NAMES = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")


class TaggingOptions(PublishedOptions):
    """Settings of tagging tasks.

    Attributes:
        metric: Share of words that are right; or F1 as XTREME computes it.
    """

    metric: Literal["tag_accuracy", "xtreme_f1"] = "tag_accuracy"


class NamesOptions(PublishedOptions):
    """Settings of tasks of names.

    Attributes:
        metric: As of other tags; or F1 of strict IOB2.
    """

    metric: Literal["tag_accuracy", "xtreme_f1", "strict_f1"] = "xtreme_f1"


class Tagging(PublishedTask):
    """Sentences and the tags of their words."""

    version = 1
    kind = "tags"
    prompts = ""
    metrics: tuple[str, ...] = ("tag_accuracy",)  # type: ignore[misc]  # of the instance: as the options say
    Options: ClassVar[type[TaskOptions]] = TaggingOptions
    options: TaggingOptions | NamesOptions
    split_names: ClassVar[dict[Split, str]] = {"train": "train", "dev": "dev", "test": "test"}
    numbered: ClassVar[tuple[str, ...]] = ()  # what tags are that are numbers, as on the hub

    def __init__(self, options: TaggingOptions | NamesOptions | None = None) -> None:
        super().__init__(options)
        self.metrics = (self.options.metric,)

    def template(self, language: str) -> str | None:
        """The words themselves."""
        return "{words}"

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The words, and their tags among the task's."""
        numbered = [self.numbered[tag] if isinstance(tag, int) else tag for tag in row["tags"]]
        words, tags = without_spaces(row["words"], [self.known(tag) for tag in numbered])
        if not words:
            raise row.error("a sentence without words")
        if odd := [tag for tag in tags if tag not in self.tags]:
            raise row.error(f"unknown tag {odd[0][:60]!r}; known: {', '.join(self.tags)}")
        text = " ".join(words)
        return Example(
            row.fields.get("id") or str(row.line),
            language,
            text,
            (" ".join(tags),),
            self.tags,
            (("words", text),),
        )

    def known(self, tag: str) -> str:
        """The tag as the task has it."""
        return tag


def _tagged(files: str, language: str | None = None) -> FileLayout:
    return FileLayout(files, read=read_tagged, language=language)


_EWT: dict[Split, FileLayout] = {
    split: _tagged(f"udpos/en_ewt/{split}.txt", "en") for split in ("train", "dev", "test")
}


class Udpos(Tagging):
    """Universal parts of speech; XTREME's own files, or parallel and other treebanks of today."""

    name = "udpos"
    summary = "parts of speech, 17 tags (Universal Dependencies)"
    tags = numbered = UPOS
    hub: Mapping[Split, str] = dict.fromkeys(("train", "dev", "test"), "udpos")
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        "train": (_tagged("udpos/train-{code}.tsv"), _EWT["train"]),
        "dev": (_tagged("udpos/dev-{code}.tsv"), _EWT["dev"]),
        "test": (
            _tagged("udpos/test-{code}.tsv"),
            FileLayout("udpos/pud/{code}_pud-ud-test.conllu", read=read_conllu),
            FileLayout("ud/UD_*/{code}_*-ud-test.conllu", read=read_conllu),
        ),
    }


class MasakhaPos(Tagging):
    """Universal parts of speech in African languages; English is EWT's own test set."""

    name = "masakhapos"
    summary = "parts of speech in African languages, 17 tags (MasakhaPOS)"
    tags = UPOS
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        "train": (_EWT["train"],),
        "dev": (_EWT["dev"],),
        "test": (_EWT["test"], _tagged("masakhapos/{code}/test.txt")),
    }


class Pos(Udpos):
    """The parts of speech of both, so that one training run is scored on all their languages."""

    name = "pos"
    summary = "parts of speech, UDPOS and MasakhaPOS in one"
    hub: Mapping[Split, str] = {}
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        **Udpos.layouts,
        "test": (*Udpos.layouts["test"], _tagged("masakhapos/{code}/test.txt")),
    }


class Panx(Tagging):
    """Persons, organisations and locations in Wikipedia's sentences."""

    name = "panx"
    summary = "names, IOB2 of 3 types (PAN-X, WikiAnn)"
    tags = NAMES
    numbered = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
    hub: Mapping[Split, str] = dict.fromkeys(("train", "dev", "test"), "panx")
    Options = NamesOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        split: (_tagged(f"panx/{split}-{{code}}.tsv"),) for split in ("train", "dev", "test")
    }


class MasakhaNer(Tagging):
    """The same in news of African languages; dates, which PAN-X does not have, are no names here."""

    name = "masakhaner"
    summary = "names in African languages, IOB2 of 3 types (MasakhaNER 2.0)"
    tags = NAMES
    Options = NamesOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        "train": Panx.layouts["train"],
        "dev": Panx.layouts["dev"],
        "test": (_tagged("masakhaner2/{code}/test.txt"),),
    }

    def known(self, tag: str) -> str:
        """O for a date."""
        return "O" if tag.endswith("-DATE") else tag
