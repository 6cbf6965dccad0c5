"""SIB-200: what is this sentence about? Seven topics, parallel in over 200 language varieties.

Adelani et al. 2024 (arXiv 2309.07445). Local layout: that of its repository.
"""

from collections.abc import Mapping
from typing import ClassVar

from crosstune.data.example import Example, Split
from crosstune.data.source import local_layouts
from crosstune.data.tables import Row
from crosstune.tasks.prompts import load_prompts, render
from crosstune.tasks.published import PublishedTask


class Sib200(PublishedTask):
    """Topic of a sentence; trained and selected on English, tested in every language whose file is there.

    Texts are taken as published: about 80 test rows in 16 languages were quoted twice at the source, and keep
    the inner quotation marks, as every reader of these files sees them.
    """

    name = "sib200"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "topic of a sentence, 7 choices (SIB-200)"
    split_names: ClassVar[dict[Split, str]] = {"train": "train", "dev": "dev", "test": "test"}
    prompts = "sib200"
    layouts = local_layouts("sib200")
    hub: Mapping[Split, str] = {"train": "sib200", "dev": "sib200", "test": "sib200"}

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The sentence, and its topic among the seven."""
        labels = tuple(load_prompts("sib200")["labels"])
        index, text = str(row["index_id"]).strip(), row.text("text")
        label = row["category"]
        if label not in labels:
            raise row.error(f"unknown category {str(label)[:60]!r}; known: {', '.join(labels)}")
        if not index:
            raise row.error("empty index_id")
        prompt = render(self.wording(language)["prompt"], text=text)
        return Example(index, language, prompt, (label,), labels, (("text", text),))
